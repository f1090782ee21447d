//! The operator's credential in place of the caller's.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tower::{Layer, Service};
use tower_buttress::proto::credentials;

use crate::args::NamedCredential;

/// Puts a credential into each request. The caller's own never goes with it: it belongs to another account.
#[derive(Clone, Debug)]
pub(crate) struct CredentialLayer {
    headers: Arc<[NamedCredential]>,
}

/// The service of [`CredentialLayer`].
#[derive(Clone, Debug)]
pub(crate) struct WithCredential<S> {
    inner: S,
    headers: Arc<[NamedCredential]>,
}

// === impl CredentialLayer ===

impl CredentialLayer {
    /// Without any header, requests pass as they are.
    pub(crate) fn new(headers: impl Into<Arc<[NamedCredential]>>) -> Self {
        Self { headers: headers.into() }
    }
}

impl<S> Layer<S> for CredentialLayer {
    type Service = WithCredential<S>;

    fn layer(&self, inner: S) -> WithCredential<S> {
        WithCredential { inner, headers: self.headers.clone() }
    }
}

// === impl WithCredential ===

impl<S: Service<Request<B>>, B> Service<Request<B>> for WithCredential<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        if self.headers.is_empty() {
            return self.inner.call(request);
        }
        let (mut head, body) = request.into_parts();
        credentials::withhold(&mut head);
        for header in &*self.headers {
            head.headers.insert(header.name.clone(), header.value.clone());
        }
        self.inner.call(Request::from_parts(head, body))
    }
}
