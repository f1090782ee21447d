use http::{HeaderMap, Method, Request};

use crate::proto::grpc::{self, GrpcFraming};

/// The format of a refusal: HTTP or gRPC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectionFormat {
    /// A status code and an RFC 9457 `application/problem+json` body.
    #[default]
    Http,
    /// The same head without a body: the answer to a `HEAD`. (HTTP/2 servers do not strip a body, and clients treat one
    /// as a broken stream.)
    Head,
    /// HTTP 200 and `grpc-status` in the head: gRPC's Trailers-Only form.
    Grpc,
    /// The same for gRPC-Web; some of its clients reject an answer of another content type.
    GrpcWeb,
}

// === impl RejectionFormat ===

impl RejectionFormat {
    /// Chooses by the request's content type: `application/grpc` or one of its variants.
    #[must_use]
    pub fn of(request: &HeaderMap) -> Self {
        match grpc::framing(request) {
            Some(GrpcFraming::Trailers) => Self::Grpc,
            Some(GrpcFraming::Web) => Self::GrpcWeb,
            None => Self::Http,
        }
    }

    /// Chooses what the caller of `request` can read: [`RejectionFormat::Head`] for a `HEAD`, else [by its
    /// headers](Self::of).
    #[must_use]
    pub fn of_request<B>(request: &Request<B>) -> Self {
        if request.method() == Method::HEAD { Self::Head } else { Self::of(request.headers()) }
    }
}
