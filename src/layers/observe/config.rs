use std::sync::Arc;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderName, Request};

use crate::call::CallInfo;
use crate::rt::clock;

/// The unit that the layer observes.
#[derive(Clone, Debug)]
pub enum Config {
    /// Calls of a stack.
    Calls(Calls),
    /// Attempts at the upstream with this name.
    Attempts(Arc<str>),
}

#[derive(Clone, Debug)]
pub struct Calls {
    pub(super) stack: Arc<str>,
    pub(super) request_id: Option<HeaderName>,
    pub(super) trace_context: bool,
    pub(super) late_spans: bool,
}

/// The longest id, in bytes, that log lines show unchanged.
const MAX_ID: usize = 128;

// === impl Calls ===

impl Calls {
    pub(super) fn new(stack: Arc<str>) -> Self {
        Self { stack, request_id: None, trace_context: false, late_spans: false }
    }

    pub(super) fn info<B>(&self, request: &Request<B>) -> CallInfo {
        let id = self.id(request).unwrap_or_else(|| digits(fastrand::u64(..)));
        CallInfo::new(id, self.stack.clone(), request.method().clone(), host(request), clock::now(), self.late_spans)
    }

    /// The id of the request: from the stack around this one, or from its header.
    fn id<B>(&self, request: &Request<B>) -> Option<Box<str>> {
        if let Some(outer) = CallInfo::in_extensions(request.extensions()) {
            return Some(outer.id().into());
        }
        let id = request.headers().get(self.request_id.as_ref()?)?.to_str().ok()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        ((1..=MAX_ID).contains(&id.len()) && id.bytes().all(plain)).then(|| id.into())
    }
}

/// In hexadecimal.
fn digits(number: u64) -> Box<str> {
    let digit = |byte: u8| char::from(if byte < 10 { b'0' + byte } else { b'a' - 10 + byte });
    let digits = |byte: u8| [digit(byte >> 4), digit(byte & 0xf)];
    let mut text = String::with_capacity(16);
    text.extend(number.to_be_bytes().into_iter().flat_map(digits));
    text.into_boxed_str()
}

fn host<B>(request: &Request<B>) -> Option<Authority> {
    let of_header = || Authority::try_from(request.headers().get(HOST)?.as_bytes()).ok();
    request.uri().authority().cloned().or_else(of_header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: &str) -> String {
        let request_id = Some(HeaderName::from_static("x-request-id"));
        let config = Calls { request_id, ..Calls::new("s".into()) };
        let request = Request::builder().header("x-request-id", value).body(()).unwrap();
        config.info(&request).id().to_owned()
    }

    #[test]
    fn an_id_that_could_break_a_line_is_not_taken() {
        let longest = "a".repeat(128);
        for taken in ["a", "A-1_b.2", &longest] {
            assert_eq!(id(taken), taken);
        }
        for refused in ["", "a b", "a\tb", "a\"b", "\u{e9}", &"a".repeat(129)] {
            let made = id(refused);
            assert_eq!(made.len(), 16, "{refused:?}");
            assert_ne!(made, refused);
        }
    }

    #[test]
    fn a_made_id_has_all_digits() {
        assert_eq!(&*digits(0x0123_4567_89ab_cdef), "0123456789abcdef");
    }

    #[test]
    fn the_host_is_that_of_the_uri_or_of_the_header() {
        let request = Request::get("http://a:81/").header("host", "b").body(()).unwrap();
        assert_eq!(host(&request).unwrap(), "a:81");
        let request = Request::get("/").header("host", "b").body(()).unwrap();
        assert_eq!(host(&request).unwrap(), "b");
        let request = Request::get("/").header("host", "a b").body(()).unwrap();
        assert_eq!(host(&request), None);
    }
}
