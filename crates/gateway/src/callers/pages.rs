//! Restricts calls from web pages.
//!
//! A browser lets the page of any site send requests to any address that it can reach, including a gateway on
//! `localhost` or in a company's network. Without caller keys the operator would pay for such requests. Three headers,
//! which a page cannot set, identify them: `Origin` names the page's site, `Sec-Fetch-Site` says whether it is the
//! gateway's own, and `Host` is the name that resolved to the gateway. A foreign site can point a name of its own at
//! any address (DNS rebinding).

use std::net::IpAddr;
use std::str::FromStr;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use crate::answer_body::AnswerBody;
use crate::problem::{self, Foreign};

/// The sites whose pages may call, and the gateway's names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    /// Sites whose pages may call, beside the gateway's own pages.
    pub(crate) origins: Vec<Origin>,
    /// Names of the gateway, beside `localhost` and IP addresses.
    pub(crate) hosts: Vec<String>,
}

/// A site as `Origin` names it, in lower case: `https://app.example:8443`. `*` is any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin(String);

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How long a browser may cache a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

// === impl Pages ===

impl Pages {
    /// Checks the origin of a call.
    pub(crate) fn check<B>(&self, request: &Request<B>) -> Result<(), Foreign> {
        self.check_names(request)?;
        if is_from_known_page(request, |origin| self.allows(origin)) { Ok(()) } else { Err(Foreign::Page) }
    }

    /// Checks the origin of a request for the gateway's own pages, which a site that may call may not use.
    pub(crate) fn check_own<B>(&self, request: &Request<B>) -> Result<(), Foreign> {
        self.check_names(request)?;
        if is_from_known_page(request, |_| false) { Ok(()) } else { Err(Foreign::PageOnOwn) }
    }

    fn check_names<B>(&self, request: &Request<B>) -> Result<(), Foreign> {
        let is_ours = |host: Option<&str>| host.is_some_and(|host| self.is_ours(host));
        if names(request).all(is_ours) { Ok(()) } else { Err(Foreign::Host) }
    }

    /// Whether the page of some other site may call.
    pub(crate) fn has_origins(&self) -> bool {
        !self.origins.is_empty()
    }

    /// Answers the preflight of an allowed site's page.
    pub(crate) fn preflight<B>(&self, request: &Request<B>) -> Option<Response<AnswerBody>> {
        if request.method() != Method::OPTIONS {
            return None;
        }
        let headers = request.headers();
        let method = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        headers.get(ORIGIN).filter(|origin| self.allows(origin))?;
        let mut response = problem::empty(StatusCode::NO_CONTENT);
        let allowed = response.headers_mut();
        allowed.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
        if let Some(names) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            allowed.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        allowed.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Some(response)
    }

    /// Lets the page read the answer if its site is allowed. Does nothing if no site is.
    pub(crate) fn share(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if !self.has_origins() {
            return;
        }
        // The upstream's value is meant for the upstream's own pages.
        headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin.filter(|origin| self.allows(origin)) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let text = origin.to_str().unwrap_or_default();
        self.origins.iter().any(|allowed| allowed.0 == "*" || allowed.0.eq_ignore_ascii_case(text))
    }

    /// DNS rebinding cannot change an IP address or `localhost`.
    fn is_ours(&self, host: &str) -> bool {
        let host = without_port(host);
        let name = host.strip_suffix('.').unwrap_or(host);
        let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        address.parse::<IpAddr>().is_ok()
            || name.rsplit('.').next().is_some_and(|top| top.eq_ignore_ascii_case("localhost"))
            || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    }
}

/// The names under which the request was sent; `None` for one that is not text.
fn names<B>(request: &Request<B>) -> impl Iterator<Item = Option<&str>> {
    let named = request.uri().authority().map(Authority::as_str);
    named.into_iter().map(Some).chain(request.headers().get_all(HOST).iter().map(|host| host.to_str().ok()))
}

/// Whether no page made a browser send the request, or one of the gateway or of an `allowed` origin.
fn is_from_known_page<B>(request: &Request<B>, allowed: impl Fn(&HeaderValue) -> bool) -> bool {
    let mut origins = request.headers().get_all(ORIGIN).iter().peekable();
    if origins.peek().is_some() {
        let ours = |origin: &str| names(request).flatten().any(|host| is_same(origin, host));
        return origins.all(|origin| origin.to_str().is_ok_and(ours) || allowed(origin));
    }
    // Browsers omit `Origin` when a page only embeds or navigates to a URL.
    let foreign = |site: &HeaderValue| site != "same-origin" && site != "none";
    !request.headers().get_all(SEC_FETCH_SITE).iter().any(foreign)
}

/// Whether a page of `origin` was loaded from `host`. Ignores the scheme, which may be that of a proxy in front.
fn is_same(origin: &str, host: &str) -> bool {
    origin.split_once("://").is_some_and(|(_, site)| site.eq_ignore_ascii_case(host))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

// === impl Origin ===

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not an origin such as https://app.example, and not *".to_owned();
        let text = text.to_ascii_lowercase();
        if text == "*" {
            return Ok(Self(text));
        }
        let (scheme, site) = text.split_once("://").ok_or_else(wrong)?;
        let authority: Authority = site.parse().map_err(|_| wrong())?;
        let (host, port) = (authority.host(), authority.port_u16());
        let has_port = site.len() > host.len();
        if scheme.is_empty() || host.is_empty() || site.contains('@') || has_port && port.is_none() {
            return Err(wrong());
        }
        // Browsers omit the scheme's default port.
        let is_usual = matches!((scheme, port), ("http", Some(80)) | ("https", Some(443)));
        Ok(Self(if is_usual { format!("{scheme}://{host}") } else { text }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pages: &Pages, headers: &[(&str, &str)]) -> Result<(), Foreign> {
        let request = headers.iter().fold(Request::get("/"), |request, (name, value)| request.header(*name, *value));
        pages.check(&request.body(()).unwrap())
    }

    fn pages() -> Pages {
        Pages { origins: vec!["https://App.example".parse().unwrap()], hosts: vec!["gateway.example".to_owned()] }
    }

    #[test]
    fn programs_and_our_own_pages_may_call() {
        for headers in [
            &[][..],
            &[("host", "localhost:8080")],
            &[("host", "api.localhost")],
            &[("host", "127.0.0.1:8080")],
            &[("host", "[::1]:8080")],
            &[("host", "Gateway.Example.")],
            &[("host", "localhost:8080"), ("origin", "http://localhost:8080")],
            &[("host", "gateway.example"), ("origin", "https://gateway.example")],
            &[("host", "10.0.0.1"), ("sec-fetch-site", "same-origin")],
            &[("host", "10.0.0.1"), ("sec-fetch-site", "none")],
            &[("host", "10.0.0.1"), ("origin", "https://app.example"), ("sec-fetch-site", "cross-site")],
        ] {
            assert_eq!(check(&pages(), headers), Ok(()), "{headers:?}");
        }
    }

    #[test]
    fn pages_of_other_sites_may_not() {
        for headers in [
            &[("host", "localhost:8080"), ("origin", "http://localhost:3000")][..],
            &[("host", "localhost:8080"), ("origin", "https://evil.example")],
            &[("host", "localhost:8080"), ("origin", "null")],
            &[("host", "localhost"), ("origin", "http://localhost"), ("origin", "https://evil.example")],
            &[("host", "localhost"), ("origin", "https://app.example.evil.example")],
            &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
            &[("host", "localhost"), ("sec-fetch-site", "same-site")],
        ] {
            assert_eq!(check(&pages(), headers), Err(Foreign::Page), "{headers:?}");
        }
    }

    #[test]
    fn a_foreign_name_may_not_even_where_it_points_here() {
        for headers in [
            &[("host", "evil.example"), ("origin", "http://evil.example")][..],
            &[("host", "evil.example:8080")],
            &[("host", "127.0.0.1.evil.example")],
            &[("host", "localhost.evil.example")],
            &[("host", "localhost"), ("host", "evil.example")],
            &[("host", "127.0.0.1@evil.example")],
            &[("host", "")],
        ] {
            assert_eq!(check(&pages(), headers), Err(Foreign::Host), "{headers:?}");
        }
        let absolute = Request::get("http://evil.example/").header("host", "localhost").body(()).unwrap();
        assert_eq!(pages().check(&absolute), Err(Foreign::Host));
    }

    #[test]
    fn a_site_is_the_same_with_its_usual_port() {
        let allowed = |text: &str, origin: &str| {
            let pages = Pages { origins: vec![text.parse().unwrap()], hosts: Vec::new() };
            check(&pages, &[("host", "localhost"), ("origin", origin)]) == Ok(())
        };
        assert!(allowed("https://app.example:443", "https://app.example"));
        assert!(allowed("HTTP://app.example:80", "http://app.example"));
        assert!(allowed("http://app.example:443", "http://app.example:443"));
        assert!(!allowed("http://app.example:443", "http://app.example"));
        assert!(!allowed("https://app.example:8443", "https://app.example"));
        assert!(!allowed("https://app.example:4430", "https://app.example"));
    }

    #[test]
    fn any_site_may_where_that_was_said() {
        let any = Pages { origins: vec!["*".parse().unwrap()], hosts: Vec::new() };
        assert_eq!(check(&any, &[("host", "localhost"), ("origin", "https://evil.example")]), Ok(()));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "app.example",
            "https://",
            "://app.example",
            "https://app.example/path",
            "http://a b",
            "https://me@app.example",
            "https://app.example:",
            "https://app.example:99999",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
