//! The result if the backup does no better.

use bytes::Bytes;
use http::Response;
use http_body::Body;

use super::body::FallbackBody;
#[cfg(feature = "schema")]
use crate::body::output_usage::OutputUsage;
use crate::body::response::{LayerBody, ResponseBody};
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};

pub(super) enum Otherwise<R> {
    /// The primary's result.
    Primary(R),
    /// A refusal: the primary may not be asked.
    Refusal(RejectionFormat),
}

// === impl Otherwise ===

impl<A, E> Otherwise<Result<Response<A>, E>>
where
    A: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    /// Returns the backup's answer, if it has one, or this.
    pub(super) fn unless<B>(self, served: Option<Response<B>>) -> Result<Response<FallbackBody<A, B>>, E> {
        match (served, self) {
            (Some(response), _) => Ok(response.map(|body| FallbackBody::other(ResponseBody::inner(body)))),
            (None, Self::Primary(result)) => primary(result),
            (None, Self::Refusal(format)) => {
                Ok(FallbackBody::refuse(Rejection::new(RejectionKind::UpstreamFailed), format))
            }
        }
    }

    /// Adds the usage of both upstreams to the returned answer. `spent`: the usage of the backup's answer that is not
    /// returned.
    #[cfg(feature = "schema")]
    pub(super) fn carry_usage<B>(
        mut self,
        spent: Option<OutputUsage>,
        mut served: Option<Response<B>>,
    ) -> (Self, Option<Response<B>>) {
        if let Self::Primary(Ok(primary)) = &mut self {
            let (spent, returned) = match &mut served {
                Some(served) => (OutputUsage::of(primary.extensions()), served.extensions_mut()),
                None => (spent, primary.extensions_mut()),
            };
            if let Some(spent) = spent {
                spent.carry_to(returned);
            }
        }
        (self, served)
    }
}

pub(super) fn primary<A, B, E>(result: Result<Response<A>, E>) -> Result<Response<FallbackBody<A, B>>, E> {
    result.map(|response| response.map(FallbackBody::inner))
}
