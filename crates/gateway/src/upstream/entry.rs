//! Gives each request the address and the credential of its upstream.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tower::{Layer, Service};
use tower_buttress::proto::credentials;

use super::url::Upstream;
use crate::args::NamedCredential;

/// Sets the upstream's address and, if there is one, the operator's credential. The caller's credential is removed
/// then: it belongs to another account.
#[derive(Clone, Debug)]
pub(crate) struct EntryLayer {
    target: Arc<Target>,
}

/// The service of [`EntryLayer`].
#[derive(Clone, Debug)]
pub(crate) struct EntryService<S> {
    inner: S,
    target: Arc<Target>,
}

#[derive(Debug)]
struct Target {
    upstream: Upstream,
    credential: Vec<NamedCredential>,
}

// === impl EntryLayer ===

impl EntryLayer {
    /// Without a credential, the caller's passes.
    pub(crate) fn new(upstream: Upstream, credential: Vec<NamedCredential>) -> Self {
        Self { target: Arc::new(Target { upstream, credential }) }
    }
}

impl<S> Layer<S> for EntryLayer {
    type Service = EntryService<S>;

    fn layer(&self, inner: S) -> EntryService<S> {
        EntryService { inner, target: self.target.clone() }
    }
}

// === impl Entry ===

impl<S: Service<Request<B>>, B> Service<Request<B>> for EntryService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let Target { upstream, credential } = &*self.target;
        let (mut head, body) = request.into_parts();
        if !credential.is_empty() {
            credentials::withhold(&mut head);
        }
        // A path that the upstream cannot serve leaves a URI without an authority; the client returns an error for it.
        head.uri = upstream.locate(&head.uri).unwrap_or_default();
        for header in credential {
            head.headers.insert(header.name.clone(), header.value.clone());
        }
        self.inner.call(Request::from_parts(head, body))
    }
}
