use http::{HeaderMap, Method, Request};

use crate::proto::grpc::{self, Framing};

/// How the caller reads a refusal: as HTTP, or as gRPC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectionFormat {
    /// A status code and an RFC 9457 `application/problem+json` body.
    #[default]
    Http,
    /// The same head, and no body: the answer to a `HEAD`. (HTTP/2 servers do not remove a body that should not be there, and
    /// clients treat one as a broken stream.)
    Head,
    /// HTTP 200 and `grpc-status` in the head: gRPC's Trailers-Only form.
    Grpc,
    /// The same for gRPC-Web, not all of whose clients take an answer of another type.
    GrpcWeb,
}

// === impl RejectionFormat ===

impl RejectionFormat {
    /// By the request's content type: `application/grpc` or one of its variants.
    #[must_use]
    pub fn of(request: &HeaderMap) -> Self {
        match grpc::framing(request) {
            Some(Framing::Trailers) => Self::Grpc,
            Some(Framing::Web) => Self::GrpcWeb,
            None => Self::Http,
        }
    }

    /// What the caller of this request can read: [`RejectionFormat::Head`] for a `HEAD`, and else [what its headers say](Self::of).
    #[must_use]
    pub fn of_request<B>(request: &Request<B>) -> Self {
        if request.method() == Method::HEAD { Self::Head } else { Self::of(request.headers()) }
    }
}
