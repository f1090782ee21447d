use bytes::Bytes;
use http::Response;
use http_body::Body;

use super::recorder::AnswerRecorder;
use crate::body::observed::Observed;
use crate::body::response::ResponseBody;
use crate::error::BoxError;

/// The response body of [`LastGood`](crate::last_good::LastGood): the upstream's, or that of an earlier answer.
pub type LastGoodBody<B> = Observed<ResponseBody<B>, Box<AnswerRecorder>>;

// === impl LastGoodBody ===

impl<B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static> LastGoodBody<B> {
    /// The upstream's, recorded or not.
    pub(super) fn inner(body: B, recorder: Option<AnswerRecorder>) -> Self {
        Self::new(ResponseBody::inner(body), recorder.map(Box::new))
    }

    /// That of an earlier answer.
    pub(super) fn stored(response: Response<Bytes>) -> Response<Self> {
        response.map(|text| Self::new(ResponseBody::Refusal { text }, None))
    }
}
