use http::Response;

use crate::body::prefixed::{PrefixedBody, ReadAhead};
use crate::body::response::ResponseBody;
use crate::rejection::{Rejection, RejectionFormat};

/// The response body of [`FirstByteTimeout`](crate::first_byte_timeout::FirstByteTimeout).
pub type FirstByteTimeoutBody<B> = PrefixedBody<ResponseBody<B>>;

// === impl FirstByteTimeoutBody ===

impl<B> FirstByteTimeoutBody<B> {
    #[cold]
    pub(super) fn refuse(rejection: Rejection, format: RejectionFormat) -> Response<Self> {
        ResponseBody::refuse(rejection, format).map(|body| ReadAhead::default().before(body))
    }

    pub(super) fn pass(response: Response<B>) -> Response<Self> {
        response.map(|body| ReadAhead::default().before(ResponseBody::inner(body)))
    }
}
