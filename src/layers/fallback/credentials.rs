//! What must not reach another party than the one it was meant for.

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, Uri};

/// Where model providers want their keys.
const CREDENTIALS: [HeaderName; 6] = [
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// Takes the credentials off a request: the fields above, every field marked as sensitive, and a user in the URI.
pub(super) fn withhold(head: &mut Parts) {
    let sensitive = head.headers.iter().filter(|(_, value)| value.is_sensitive());
    let names: Vec<HeaderName> = sensitive.map(|(name, _)| name.clone()).chain(CREDENTIALS).collect();
    for name in names {
        head.headers.remove(name);
    }
    if let Some(uri) = without_user(&head.uri) {
        head.uri = uri;
    }
}

fn without_user(uri: &Uri) -> Option<Uri> {
    let (_, host) = uri.authority()?.as_str().rsplit_once('@')?;
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(Authority::try_from(host).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    #[test]
    fn credentials_are_taken_off_and_nothing_else_is() {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static("http://me:secret@upstream:8080/v1?q=a@b");
        for name in CREDENTIALS {
            request.headers_mut().append(&name, HeaderValue::from_static("secret"));
            request.headers_mut().append(&name, HeaderValue::from_static("secret too"));
        }
        let mut marked = HeaderValue::from_static("secret");
        marked.set_sensitive(true);
        request.headers_mut().append("x-team", HeaderValue::from_static("public"));
        request.headers_mut().append("x-team", marked);
        request.headers_mut().append("accept", HeaderValue::from_static("text/event-stream"));

        let mut head = request.into_parts().0;
        withhold(&mut head);
        assert_eq!(head.uri, "http://upstream:8080/v1?q=a@b");
        assert_eq!(head.headers.len(), 1);
        assert_eq!(head.headers["accept"], "text/event-stream");
    }
}
