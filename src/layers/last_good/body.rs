use std::fmt;
use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http::Response;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::recorder::AnswerRecorder;
use crate::body::boxed::Polled;
use crate::body::observed::Observed;
use crate::body::response::ResponseBody;
use crate::error::BoxError;

pin_project! {
    /// The response body of [`LastGood`](crate::last_good::LastGood): the upstream's, or that of an earlier answer.
    pub struct LastGoodBody<B> {
        #[pin]
        body: Observed<ResponseBody<B>, Box<AnswerRecorder>>,
    }
}

// === impl LastGoodBody ===

impl<B> LastGoodBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    /// The upstream's, recorded or not.
    pub(super) fn inner(body: B, recorder: Option<AnswerRecorder>) -> Self {
        Self { body: Observed::new(ResponseBody::inner(body), recorder.map(Box::new)) }
    }

    /// That of an earlier answer.
    pub(super) fn stored(response: Response<Bytes>) -> Response<Self> {
        response.map(|text| Self { body: Observed::new(ResponseBody::Refusal { text }, None) })
    }
}

impl<B> Body for LastGoodBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Without the recording, which is the model's.
impl<B> fmt::Debug for LastGoodBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGoodBody").finish_non_exhaustive()
    }
}
