use std::borrow::Cow;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::header::{AGE, CONNECTION, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use http_body::SizeHint;

/// The head of a response that may be told to several.
#[derive(Clone, Debug)]
pub struct Head {
    status: StatusCode,
    version: Version,
    headers: HeaderMap,
    extensions: Extensions,
    /// Of the body.
    size: SizeHint,
    born: Instant,
}

/// What belongs to one connection and not to the answer (RFC 9110, 7.6.1), and what belongs to one caller: a session
/// that was opened for one must not be handed to whoever asks the same.
const NOT_STORED: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-connection"),
    SET_COOKIE,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Says that nothing was executed: what is sent was sent before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

// === impl Head ===

impl Head {
    /// A head that came at `born`. What a store must not keep of it is taken off.
    #[must_use]
    pub fn new(status: StatusCode, version: Version, headers: HeaderMap, born: Instant) -> Self {
        let extensions = Extensions::new();
        let mut head = Self { status, version, headers, extensions, size: SizeHint::new(), born };
        head.strip();
        head
    }

    /// The head of `response`, all of it: for those who hear it while it is said.
    pub(crate) fn live(response: http::response::Parts, size: SizeHint, born: Instant) -> Self {
        let http::response::Parts { status, version, headers, extensions, .. } = response;
        Self { status, version, headers, extensions, size, born }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// When it came.
    #[must_use]
    pub fn born(&self) -> Instant {
        self.born
    }

    pub(crate) fn size(&self) -> &SizeHint {
        &self.size
    }

    /// What may be stored of it, and shown to those who store it: no `Set-Cookie`, nothing that concerns a connection,
    /// no extensions.
    pub(crate) fn stored(&self) -> Cow<'_, Self> {
        if self.is_stripped() {
            return Cow::Borrowed(self);
        }
        let mut stored = Self::new(self.status, self.version, self.headers.clone(), self.born);
        stored.size = self.size;
        Cow::Owned(stored)
    }

    /// The same, apart from the connection that it came from: the values of its headers are slices of a read buffer (8 KiB
    /// and more in hyper), all of which they would keep alive.
    pub(crate) fn compact(&self) -> Self {
        let mut values = BytesMut::with_capacity(self.headers.values().map(HeaderValue::len).sum());
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            values.extend_from_slice(value.as_bytes());
            if let Ok(mut copy) = HeaderValue::from_maybe_shared(values.split().freeze()) {
                copy.set_sensitive(value.is_sensitive());
                headers.append(name, copy);
            }
        }
        Self { headers, extensions: self.extensions.clone(), ..*self }
    }

    /// What it adds to what is held.
    pub(crate) fn cost(&self) -> usize {
        let sizes = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + super::part::OVERHEAD);
        sizes.fold(0, usize::saturating_add)
    }

    /// The head for another caller.
    pub(crate) fn to_response<B>(&self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.version_mut() = self.version;
        *response.headers_mut() = self.headers.clone();
        *response.extensions_mut() = self.extensions.clone();
        response
    }

    /// The head for a caller who comes after it was over.
    pub(crate) fn to_replay<B>(&self, body: B, now: Instant) -> Response<B> {
        let stored = self.stored();
        let mut response = stored.to_response(body);
        let headers = response.headers_mut();
        let age = now.saturating_duration_since(self.born).saturating_add(age_of(headers));
        headers.insert(AGE, HeaderValue::from(age.as_secs()));
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }

    fn is_stripped(&self) -> bool {
        self.extensions.is_empty() && !NOT_STORED.iter().any(|name| self.headers.contains_key(name))
    }

    fn strip(&mut self) {
        // What `Connection` names belongs to the connection as well.
        let named: HashSet<HeaderName> = self
            .headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .collect();
        for name in NOT_STORED.into_iter().chain(named) {
            self.headers.remove(name);
        }
        self.extensions.clear();
    }
}

/// How old it was already when it came to us: RFC 9111, 5.1.
fn age_of(headers: &HeaderMap) -> Duration {
    let age = headers.get(AGE).and_then(|age| age.to_str().ok());
    let seconds = age.filter(|age| age.bytes().all(|byte| byte.is_ascii_digit())).and_then(|age| age.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &[(&'static str, &'static str)]) -> Head {
        let mut response = Response::new(());
        for (name, value) in headers {
            response.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        response.extensions_mut().insert(7_u32);
        Head::live(response.into_parts().0, SizeHint::new(), Instant::now())
    }

    const SAID: &[(&str, &str)] = &[
        ("content-type", "text/event-stream"),
        ("set-cookie", "session=a"),
        ("set-cookie", "theme=b"),
        ("connection", "keep-alive, X-Hop"),
        ("keep-alive", "timeout=5"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("trailer", "x-checksum"),
        ("x-kept", "1"),
    ];

    #[test]
    fn whoever_listens_live_is_told_all_of_it() {
        let response = head(SAID).to_response(());
        assert_eq!(response.headers().len(), SAID.len());
        assert_eq!(response.extensions().get(), Some(&7_u32));
    }

    #[test]
    fn cookies_and_hop_by_hop_headers_are_not_stored() {
        let head = head(SAID);
        let stored = head.stored();
        let mut names: Vec<_> = stored.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "trailer", "x-kept"]);
        assert!(stored.to_response(()).extensions().is_empty());
        assert!(matches!(stored.stored(), Cow::Borrowed(_)));
    }

    #[test]
    fn a_compact_head_does_not_keep_a_read_buffer_alive() {
        let mut buffer = BytesMut::from(&b"text/plainsecret"[..]);
        let (plain, rest) = (buffer.split_to(10).freeze(), buffer.freeze());
        let mut headers = HeaderMap::new();
        headers.append("content-type", HeaderValue::from_maybe_shared(plain.clone()).unwrap());
        for _ in 0..2 {
            let mut secret = HeaderValue::from_maybe_shared(rest.clone()).unwrap();
            secret.set_sensitive(true);
            headers.append("x-key", secret);
        }
        let head = Head::new(StatusCode::OK, Version::HTTP_11, headers, Instant::now());
        let compact = head.compact();
        assert_eq!(compact.headers(), head.headers());
        assert!(compact.headers().get_all("x-key").iter().all(HeaderValue::is_sensitive));
        drop((head, rest));
        assert!(plain.is_unique(), "the buffer is shared");
    }

    #[test]
    fn a_replay_says_so_and_how_old_it_is() {
        let head = head(&[("age", "5"), ("set-cookie", "a=b")]);
        let response = head.to_replay((), head.born() + Duration::from_millis(7_900));
        assert_eq!(response.headers()["age"], "12");
        assert_eq!(response.headers()["idempotent-replayed"], "true");
        assert!(!response.headers().contains_key("set-cookie"));

        for no_age in ["-5", "x", "", "+5", "99999999999999999999999"] {
            let mut headers = HeaderMap::new();
            headers.insert(AGE, HeaderValue::from_static(no_age));
            assert_eq!(age_of(&headers), Duration::ZERO, "{no_age:?}");
        }
    }
}
