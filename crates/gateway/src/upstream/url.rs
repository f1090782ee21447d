//! The URL of an upstream.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

/// `http://host[:port][/prefix]`, also with `https` or `h2c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    protocol: Protocol,
    authority: Authority,
    /// Without the trailing slash.
    prefix: String,
}

/// The protocol of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 or HTTP/2 over TLS, chosen by ALPN.
    Https,
    /// HTTP/2 without TLS.
    H2c,
}

// === impl Upstream ===

impl Upstream {
    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The target of a request for `uri`. `None` if the prefix makes the URI too long, or if the path would leave the
    /// prefix.
    pub(crate) fn locate(&self, uri: &Uri) -> Option<Uri> {
        let asked = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        // `OPTIONS *` concerns the server, not a path.
        let path = if self.prefix.is_empty() || asked == "*" {
            uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
        } else {
            if climbs(uri.path()) {
                return None;
            }
            // A query may follow the authority directly, as in `http://host?q`.
            let slash = if asked.starts_with('/') { "" } else { "/" };
            PathAndQuery::try_from(format!("{}{slash}{asked}", self.prefix)).ok()?
        };
        self.at(path)
    }

    /// Whether [`locate`](Self::locate) finds a target.
    pub(crate) fn has_target(&self, uri: &Uri) -> bool {
        self.prefix.is_empty() || self.locate(uri).is_some()
    }

    /// The URL itself.
    pub(crate) fn url(&self) -> Option<Uri> {
        let path = if self.prefix.is_empty() { "/" } else { &self.prefix };
        self.at(PathAndQuery::try_from(path).ok()?)
    }

    /// What `Host` is, where requests go over HTTP/1.1: as the client would write it, which puts it together for each request.
    pub(crate) fn host(&self) -> Option<Box<[u8]>> {
        if self.protocol != Protocol::Http {
            return None;
        }
        let mut host = self.authority.host().as_bytes().to_vec();
        if let Some(port) = self.authority.port().filter(|port| port.as_u16() != 80) {
            host.push(b':');
            host.extend_from_slice(port.as_str().as_bytes());
        }
        Some(host.into())
    }

    fn at(&self, path: PathAndQuery) -> Option<Uri> {
        let scheme = if self.protocol == Protocol::Https { Scheme::HTTPS } else { Scheme::HTTP };
        Uri::builder().scheme(scheme).authority(self.authority.clone()).path_and_query(path).build().ok()
    }
}

// === impl Protocol ===

impl Protocol {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
        }
    }
}

/// Whether a server could read a segment of `path` as `..`. Clients resolve those before sending (RFC 3986, 5.2.4).
/// Servers disagree on what counts: some decode first, accept backslashes, or cut parameters off.
fn climbs(path: &str) -> bool {
    let path = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
    path.split('/').any(|segment| matches!(segment.as_bytes(), [b'.', b'.'] | [b'.', b'.', b';' | b'%', ..]))
}

impl From<std::net::SocketAddr> for Upstream {
    fn from(addr: std::net::SocketAddr) -> Self {
        let authority = addr.to_string().parse().unwrap_or_else(|_| Authority::from_static("localhost"));
        Self { protocol: Protocol::Http, authority, prefix: String::new() }
    }
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a URL such as http://127.0.0.1:9000".to_owned();
        let parts = text.parse::<Uri>().map_err(|_| wrong())?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(wrong()) };
        let protocol = match scheme.as_str() {
            "http" => Protocol::Http,
            "https" => Protocol::Https,
            "h2c" => Protocol::H2c,
            _ => return Err(format!("{scheme} is not http, https or h2c")),
        };
        if authority.as_str().contains('@') {
            return Err("a URL with a password in it is shown in process lists; send Authorization".to_owned());
        }
        // Checks the port now instead of at the first call.
        let port = &authority.as_str()[authority.host().len()..];
        if authority.host().is_empty() || !port.is_empty() && authority.port_u16().is_none() {
            return Err(wrong());
        }
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.query().is_some() {
            return Err("a query cannot be a prefix".to_owned());
        }
        Ok(Self { protocol, authority, prefix: path.path().trim_end_matches('/').to_owned() })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.protocol.as_str(), self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(upstream: &str, asked: &str) -> String {
        let asked = Uri::try_from(asked).unwrap();
        upstream.parse::<Upstream>().unwrap().locate(&asked).unwrap().to_string()
    }

    #[test]
    fn path_and_query_follow_the_prefix() {
        assert_eq!(located("http://up:81", "/a/b?c=d"), "http://up:81/a/b?c=d");
        assert_eq!(located("http://up/base/", "/a?b"), "http://up/base/a?b");
        assert_eq!(located("http://up", "http://elsewhere/a"), "http://up/a");
        assert_eq!(located("http://[::1]:9", "/"), "http://[::1]:9/");
        assert_eq!(located("http://up/base", "http://elsewhere?q"), "http://up/base/?q");
        assert_eq!(located("https://up/v1", "/a"), "https://up/v1/a");
        assert_eq!(located("h2c://up", "/a"), "http://up/a");
    }

    #[test]
    fn the_host_is_named_with_a_port_that_is_not_the_usual_one() {
        let host = |upstream: &str| upstream.parse::<Upstream>().unwrap().host().map(|host| host.to_vec());
        for (upstream, expected) in [
            ("http://up", Some("up")),
            ("http://up:80/base", Some("up")),
            ("http://up:81", Some("up:81")),
            ("http://[::1]:9", Some("[::1]:9")),
            ("https://up:81", None),
            ("h2c://up:81", None),
        ] {
            assert_eq!(host(upstream), expected.map(|host| host.as_bytes().to_vec()), "{upstream}");
        }
    }

    #[test]
    fn no_path_leads_out_of_the_prefix() {
        let upstream: Upstream = "http://up/base".parse().unwrap();
        let climbing = [
            "/..",
            "/../x",
            "/a/../x",
            "/a/..?b",
            "/%2e%2E/x",
            "/.%2e/x",
            "/..%2fx",
            "/..%5Cx",
            "/a\\..\\x",
            "/..;a/x",
            "/..%00/x",
        ];
        for asked in climbing {
            assert_eq!(upstream.locate(&asked.parse().unwrap()), None, "{asked}");
            assert!(!upstream.has_target(&asked.parse().unwrap()), "{asked}");
            assert_eq!(located("http://up", asked), format!("http://up{asked}"), "there is nothing to leave");
        }
        for asked in ["/...", "/..a", "/a..", "/a?b=/../c", "/./a", "/a%2Fb", "/%2e"] {
            assert_eq!(located("http://up/base", asked), format!("http://up/base{asked}"));
        }
    }

    #[test]
    fn a_question_about_the_server_has_no_path() {
        let uri = "http://up/base".parse::<Upstream>().unwrap().locate(&Uri::from_static("*")).unwrap();
        assert_eq!(uri.path(), "*");
    }

    #[test]
    fn what_is_no_upstream_is_refused() {
        let wrong = [
            "",
            "up",
            "/path",
            "up:80",
            "ftp://up",
            "http://",
            "http://a@up",
            "http://up:port",
            "http://up:99999",
            "http://up/?q",
            "http://a b",
        ];
        for text in wrong {
            assert!(text.parse::<Upstream>().is_err(), "{text:?}");
        }
    }
}
