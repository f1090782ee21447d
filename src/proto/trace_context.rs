//! The trace of a call: `traceparent`, by <https://www.w3.org/TR/trace-context/>.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A place in a trace: the trace, and one of its spans.
///
/// ```
/// use http::HeaderMap;
/// use tower_buttress::proto::trace_context::TraceContext;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap());
/// let caller = TraceContext::of(&headers).unwrap();
/// assert_eq!(caller.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
///
/// let ours = caller.child(0x1234);
/// assert_eq!(ours.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000001234-01");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
}

/// The header's name.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The length of a header in the known version, 00, in bytes.
const LENGTH: usize = 55;

// === impl TraceContext ===

impl TraceContext {
    /// Reads the trace of a request's caller; `None` without a header, or with more than one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(&TRACEPARENT).iter();
        let (line, more) = (lines.next()?, lines.next());
        if more.is_some() { None } else { Self::parse(line.as_bytes()) }
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let (known, rest) = line.split_at_checked(LENGTH)?;
        let [version @ .., b'-'] = known.get(..3)? else { return None };
        // A later version may continue after another dash.
        let fits = match hex(version)? {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        let dashes = [35, 52].iter().all(|at| known.get(*at) == Some(&b'-'));
        let (trace, span) = (hex(known.get(3..35)?)?, hex(known.get(36..52)?)?);
        let (span, flags) = (u64::try_from(span).ok()?, u8::try_from(hex(known.get(53..)?)?).ok()?);
        (fits && dashes && trace != 0 && span != 0).then_some(Self { trace, span, flags })
    }

    /// Returns the same trace, at a span inside this one. Span number 0 is invalid and becomes 1.
    #[must_use]
    pub fn child(self, span: u64) -> Self {
        // Flags of later versions are not forwarded.
        Self { span: span.max(1), flags: self.flags & 0b11, ..self }
    }

    /// The trace, as 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The span, as 16 hexadecimal digits.
    #[must_use]
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span)
    }

    /// Writes this place into a request.
    pub fn mark(self, headers: &mut HeaderMap) {
        if let Ok(line) = HeaderValue::from_str(&self.to_string()) {
            headers.insert(TRACEPARENT, line);
        }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, span, flags } = self;
        write!(f, "00-{trace:032x}-{span:016x}-{flags:02x}")
    }
}

/// Only lower-case digits are valid.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |number, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        number.checked_mul(16)?.checked_add(u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(line: &str) -> Option<String> {
        TraceContext::parse(line.as_bytes()).map(|context| context.to_string())
    }

    #[test]
    fn what_is_none_by_the_letter_is_none() {
        assert_eq!(read(KNOWN).as_deref(), Some(KNOWN));
        for none in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
        let mut two = HeaderMap::new();
        two.append(TRACEPARENT, HeaderValue::from_static(KNOWN));
        assert!(TraceContext::of(&two).is_some());
        two.append(TRACEPARENT, HeaderValue::from_static(KNOWN));
        assert_eq!(TraceContext::of(&two), None);
    }

    #[test]
    fn a_later_version_is_gone_on_with_in_this_one() {
        let later = read("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-holds");
        assert_eq!(later.as_deref(), Some(KNOWN));
    }

    proptest! {
        #[test]
        fn one_that_is_written_is_read(trace in 1_u128.., span in 1_u64.., flags in 0_u8..) {
            let context = TraceContext { trace, span, flags };
            prop_assert_eq!(TraceContext::parse(context.to_string().as_bytes()), Some(context));
        }

        #[test]
        fn no_line_does_any_harm(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceContext::parse(&line);
        }
    }

    #[test]
    fn its_numbers_are_shown_in_hexadecimal_digits() {
        let context = TraceContext::parse(KNOWN.as_bytes()).unwrap();
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id(), "00f067aa0ba902b7");
        let child = context.child(0x10);
        assert_eq!((child.trace_id(), child.span_id().as_str()), (context.trace_id(), "0000000000000010"));
        assert_eq!(context.child(0).span_id(), "0000000000000001");
        let mut headers = HeaderMap::new();
        child.mark(&mut headers);
        assert_eq!(headers["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000010-01");
    }
}
