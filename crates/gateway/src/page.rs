//! The browser page that shows calls and events.

use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response};

use super::answer_body::AnswerBody;
use super::problem::text;

/// Allows only the page's own two files, so that text from callers never runs as markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'self'; require-trusted-types-for 'script'";

/// The file of the page with this name.
pub(crate) fn file(name: &str) -> Option<Response<AnswerBody>> {
    let mut response = match name {
        "" => text("text/html; charset=utf-8", include_str!("page/index.html")),
        "page.css" => text("text/css; charset=utf-8", include_str!("page/page.css")),
        "page.js" => text("text/javascript; charset=utf-8", include_str!("page/page.js")),
        _ => return None,
    };
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}
