use crate::body::prefixed::PrefixedBody;
use crate::body::response::ResponseBody;

/// The response body of [`FirstByteTimeout`](crate::first_byte_timeout::FirstByteTimeout).
pub type FirstByteTimeoutBody<B> = PrefixedBody<ResponseBody<B>>;
