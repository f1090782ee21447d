use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::Body;

use super::resumed::{Resumed, SharedBody};
use crate::body::boxed::Polled;
use crate::body::either::EitherBody;
use crate::body::frame_budget::FrameBudget;
use crate::body::monitored::Monitor;
use crate::body::response::ResponseBody;
use crate::store::LogBody;

/// The response body of [`Dedup`](crate::dedup::Dedup): of a request that passed or was refused, or of a shared call.
pub type DedupBody<B> = EitherBody<B, SharedBody>;

impl Monitor<LogBody> for Box<Resumed> {
    #[cold]
    fn poll_frame(&mut self, mut body: Pin<&mut ResponseBody<LogBody>>, cx: &mut Context<'_>) -> Polled {
        let mut budget = FrameBudget::new();
        while budget.may_read(cx) {
            let mut next = ready!(self.poll_next(body.as_mut(), cx));
            if self.forwards(&mut next) {
                return Poll::Ready(next);
            }
        }
        Poll::Pending
    }

    fn is_end_stream(&self, body: &ResponseBody<LogBody>) -> bool {
        !self.has_rest() && body.is_end_stream()
    }
}
