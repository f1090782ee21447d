//! Gives each request the address and the credential of its upstream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tower_buttress::Rejection;
use tower_buttress::proto::credentials;

use super::forward::UpstreamCalls;
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

pin_project! {
    /// The future of [`EntryService`].
    pub(crate) struct Entering<F> {
        #[pin]
        call: F,
        asked: Option<UpstreamCalls>,
    }
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

// === impl EntryService ===

impl<S: Service<Request<A>, Response = Response<B>>, A, B> Service<Request<A>> for EntryService<S> {
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Entering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Entering<S::Future> {
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
        let asked = head.extensions.get().cloned();
        Entering { call: self.inner.call(Request::from_parts(head, body)), asked }
    }
}

// === impl Entering ===

impl<F: Future<Output = Result<Response<B>, E>>, B, E> Future for Entering<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut answer = ready!(this.call.poll(cx));
        // A request that joined this call has counted none itself, and gets the same refusal.
        let refusal = answer.as_mut().ok().filter(|response| Rejection::of(response).is_some());
        if let Some((response, asked)) = refusal.zip(this.asked.take()) {
            response.extensions_mut().insert(asked);
        }
        Poll::Ready(answer)
    }
}
