use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::header::{AGE, CONNECTION, CONTENT_LENGTH, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use http_body::SizeHint;

use crate::body::ending::Ending;
use crate::call::{Attempts, InvalidOutput, ServedBy};
use crate::proto::header_names::HeaderNames;
use crate::proto::list;

/// The head of an answer that several callers may read. Its `Debug` shows the status and the names of headers, never
/// their values.
#[derive(Clone)]
pub struct Head {
    status: StatusCode,
    version: Version,
    headers: HeaderMap,
    extensions: Extensions,
    /// The size of the body.
    size: SizeHint,
    received_at: Instant,
    /// How long before `received_at` another process had received it.
    age_then: Duration,
}

/// Hop-by-hop headers (RFC 9110, 7.6.1), and headers for one caller: a session must not be shared.
static NOT_STORED: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-connection"),
    SET_COOKIE,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Tells the caller that the upstream executed nothing for this request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

// === impl Head ===

impl Head {
    /// Returns the head of an answer received at `received_at`, without the headers that must not be stored.
    #[must_use]
    pub fn new(status: StatusCode, version: Version, headers: HeaderMap, received_at: Instant) -> Self {
        let (size, extensions) = (SizeHint::new(), Extensions::new());
        let mut head = Self { status, version, headers, extensions, size, received_at, age_then: Duration::ZERO };
        head.strip();
        head.size = content_length(&head.headers).map_or_else(SizeHint::new, SizeHint::with_exact);
        head
    }

    /// Sets the [`age`](Self::age) that the answer already had in another process.
    #[must_use]
    pub fn with_age(mut self, age: Duration) -> Self {
        self.age_then = age;
        self
    }

    /// Returns the complete head of `response`, for readers of the answer in flight.
    pub(crate) fn live(response: http::response::Parts, size: SizeHint, received_at: Instant) -> Self {
        let http::response::Parts { status, version, headers, extensions, .. } = response;
        Self { status, version, headers, extensions, size, received_at, age_then: Duration::ZERO }
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

    /// Returns how long ago, at `now`, the answer was received: by this process or, [`with_age`](Self::with_age), by
    /// another.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.received_at).saturating_add(self.age_then)
    }

    /// Returns the full age of the answer at `now`: [`age`](Self::age) plus its `Age` header.
    pub(crate) fn full_age(&self, now: Instant) -> Duration {
        self.age(now).saturating_add(age_header(&self.headers))
    }

    /// The backup that gave the answer.
    #[must_use]
    pub fn served_by(&self) -> Option<&ServedBy> {
        self.extensions.get()
    }

    /// Sets the backup that gave the answer.
    #[must_use]
    pub fn with_served_by(mut self, backup: ServedBy) -> Self {
        self.extensions.insert(backup);
        self
    }

    /// The number of attempts that the answer took.
    #[must_use]
    pub fn attempts(&self) -> Attempts {
        self.extensions.get().copied().unwrap_or(Attempts(1))
    }

    /// Sets the number of attempts that the answer took.
    #[must_use]
    pub fn with_attempts(mut self, attempts: Attempts) -> Self {
        self.extensions.insert(attempts);
        self
    }

    /// The fault of the answer, if it does not have the requested form.
    #[must_use]
    pub fn invalid_output(&self) -> Option<InvalidOutput> {
        InvalidOutput::in_extensions(&self.extensions)
    }

    /// Sets the fault of the answer.
    #[must_use]
    pub fn with_invalid_output(mut self, invalid: InvalidOutput) -> Self {
        self.extensions.insert(invalid);
        self
    }

    pub(crate) fn size(&self) -> &SizeHint {
        &self.size
    }

    /// Returns the head for storage: without `Set-Cookie`, without hop-by-hop headers, and only with extensions that say
    /// which upstream gave the answer, and whether it has the requested form.
    pub(crate) fn stored(&self) -> Cow<'_, Self> {
        if self.is_stripped() {
            return Cow::Borrowed(self);
        }
        let mut stored = self.clone();
        stored.strip();
        Cow::Owned(stored)
    }

    /// Copies the head into memory of its own: the header values are slices of a read buffer (8 KiB and more in hyper),
    /// which they would keep alive.
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

    /// Notes that a layer inside gives the stream's events ids, for layers outside.
    pub(crate) fn note_ids(&self) {
        if let Some(ending) = self.extensions.get::<Ending>() {
            ending.note_ids();
        }
    }

    /// The memory that it takes.
    pub(crate) fn cost(&self) -> usize {
        let sizes = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + super::part::OVERHEAD);
        sizes.fold(0, usize::saturating_add)
    }

    /// Returns the head for a caller that reads the answer in flight.
    pub(crate) fn to_response<B>(&self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.version_mut() = self.version;
        *response.headers_mut() = self.headers.clone();
        *response.extensions_mut() = self.extensions.clone();
        response
    }

    /// Returns the head for a caller that comes back to the answer in flight, without the headers for its first caller
    /// alone.
    pub(crate) fn to_returning<B>(&self, body: B) -> Response<B> {
        self.stored().to_response(body)
    }

    /// Returns the head for a caller that reads the complete answer.
    pub(crate) fn to_replay<B>(&self, body: B, now: Instant) -> Response<B> {
        let mut response = self.to_aged(body, now);
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }

    /// Returns the stored head, with the age of the answer.
    pub(crate) fn to_aged<B>(&self, body: B, now: Instant) -> Response<B> {
        let mut response = self.stored().to_response(body);
        response.headers_mut().insert(AGE, HeaderValue::from(self.full_age(now).as_secs()));
        response
    }

    fn is_stripped(&self) -> bool {
        let stored =
            [self.served_by().is_some(), self.extensions.get::<Attempts>().is_some(), self.invalid_output().is_some()];
        let stored = stored.into_iter().filter(|is_there| *is_there).count();
        let present = HeaderNames::of(&self.headers);
        let has = |name: &HeaderName| present.may_have(name) && self.headers.contains_key(name);
        self.extensions.len() == stored && !NOT_STORED.iter().any(has)
    }

    fn strip(&mut self) {
        // RFC 9112, 6.3: with both headers, the length is wrong.
        if self.headers.contains_key(TRANSFER_ENCODING) {
            self.headers.remove(CONTENT_LENGTH);
        }
        // Headers that `Connection` names are hop-by-hop too.
        let named: HashSet<HeaderName> =
            list::members(&self.headers, &CONNECTION).filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
        for name in NOT_STORED.iter().chain(&named) {
            self.headers.remove(name);
        }
        let (backup, attempts) = (self.extensions.remove::<ServedBy>(), self.extensions.remove::<Attempts>());
        let invalid = self.invalid_output();
        self.extensions.clear();
        invalid.map(|invalid| self.extensions.insert(invalid));
        backup.map(|backup| self.extensions.insert(backup));
        attempts.map(|attempts| self.extensions.insert(attempts));
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("status", &self.status)
            .field("headers", &self.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The age of the answer when it was received: RFC 9111, 5.1.
fn age_header(headers: &HeaderMap) -> Duration {
    let age = headers.get(AGE).and_then(|age| age.to_str().ok());
    let seconds = age.filter(|age| age.bytes().all(|byte| byte.is_ascii_digit())).and_then(|age| age.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::OutputFault;

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
    fn a_caller_that_reads_it_live_sees_all_of_it() {
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
        let response = head.to_replay((), head.received_at + Duration::from_millis(7_900));
        assert_eq!(response.headers()["age"], "12");
        assert_eq!(response.headers()["idempotent-replayed"], "true");
        assert!(!response.headers().contains_key("set-cookie"));

        for no_age in ["-5", "x", "", "+5", "99999999999999999999999"] {
            let mut headers = HeaderMap::new();
            headers.insert(AGE, HeaderValue::from_static(no_age));
            assert_eq!(age_header(&headers), Duration::ZERO, "{no_age:?}");
        }
    }

    #[test]
    fn a_stored_head_says_who_gave_the_answer_and_whether_it_is_in_its_form() {
        let invalid = InvalidOutput::new(OutputFault::Schema);
        let live = head(&[("set-cookie", "a=b")]).with_served_by(ServedBy::new("eu")).with_attempts(Attempts(3));
        let live = live.with_invalid_output(invalid);
        let stored = live.stored();
        let response = stored.compact().to_replay((), Instant::now());
        assert_eq!((ServedBy::of(&response), Attempts::of(&response)), (Some("eu"), Attempts(3)));
        assert_eq!((InvalidOutput::of(&response), response.extensions().len()), (Some(invalid), 3));
        assert!(matches!(stored.stored(), Cow::Borrowed(_)));
    }

    #[test]
    fn the_age_of_a_head_from_another_process_goes_on_here() {
        let (there, here) = (head(&[("age", "5")]), Instant::now());
        let age = there.age(there.received_at + Duration::from_secs(7));
        let head = Head::new(there.status(), there.version(), there.headers().clone(), here).with_age(age);
        assert_eq!(head.age(here + Duration::from_secs(2)), Duration::from_secs(9));
        assert_eq!(head.to_replay((), here + Duration::from_secs(2)).headers()["age"], "14");
    }

    #[test]
    fn its_length_is_what_the_headers_say() {
        let mut headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("12"))]);
        let head = |headers| Head::new(StatusCode::OK, Version::HTTP_11, headers, Instant::now());
        assert_eq!(head(headers.clone()).size().exact(), Some(12));
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        let chunked = head(headers);
        assert!(chunked.size().exact().is_none() && chunked.headers().is_empty());
    }

    #[test]
    fn no_value_of_a_header_is_in_its_debug() {
        let shown = format!("{:?}", head(&[("x-key", "secret")]));
        assert!(shown.contains("x-key") && !shown.contains("secret"), "{shown}");
    }
}
