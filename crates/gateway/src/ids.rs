//! Identifies calls in answers, in log lines and at the upstream.

use http::{HeaderMap, HeaderName, HeaderValue};
use tower_buttress::proto::trace_context::TraceContext;

/// The id of a call: the caller's, or a generated one.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(HeaderValue);

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The upstream's id of the answer, to quote in a support request.
const X_UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-gateway-upstream-request-id");

const LONGEST: usize = 128;

// === impl RequestId ===

impl RequestId {
    /// Takes the caller's id if it is safe for a log line, else generates one. Writes it into the request.
    pub(crate) fn assign(headers: &mut HeaderMap) -> Self {
        let mut given = headers.get_all(&X_REQUEST_ID).iter();
        let (first, second) = (given.next(), given.next());
        // Copied: the caller's value is a slice of the connection's buffer and would keep that buffer for the whole
        // call.
        let id = first.filter(|id| second.is_none() && is_id(id.as_bytes()));
        let id = id.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok());
        let id = id.unwrap_or_else(made);
        headers.insert(X_REQUEST_ID, id.clone());
        Self(id)
    }

    /// Writes the id into the answer.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        if let Some(theirs) = headers.insert(X_REQUEST_ID, self.0.clone()).filter(|theirs| *theirs != self.0) {
            headers.insert(X_UPSTREAM_REQUEST_ID, theirs);
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// 16 hexadecimal digits.
fn made() -> HeaderValue {
    let random = fastrand::u64(..).to_be_bytes();
    let digit = |half: u8| if half < 10 { b'0' + half } else { b'a' + half - 10 };
    let digits = random.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    HeaderValue::try_from(digits.collect::<Vec<u8>>()).unwrap_or(HeaderValue::from_static("-"))
}

fn is_id(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=LONGEST).contains(&id.len()) && id.iter().all(plain)
}

/// The trace id of the request, if it has one.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<String> {
    TraceContext::of(headers).map(TraceContext::trace_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(given: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for id in given {
            headers.append(X_REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
        }
        let id = RequestId::assign(&mut headers);
        assert_eq!(headers.get_all(X_REQUEST_ID).iter().collect::<Vec<_>>(), [id.as_str()]);
        id.as_str().to_owned()
    }

    #[test]
    fn an_id_that_cannot_stand_in_a_log_line_is_replaced() {
        let longest = "a".repeat(128);
        for id in ["a", "A-1_b.2", &longest] {
            assert_eq!(assigned(&[id]), id);
        }
        for given in [&[][..], &[""], &["a b"], &["a\tb"], &["a\"b"], &["\u{e9}"], &["a", "b"], &[&"a".repeat(129)]] {
            let made = assigned(given);
            assert!(made.len() == 16 && made != assigned(given), "{given:?}: {made}");
        }
    }
}
