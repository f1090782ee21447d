//! Dispatches a request to the gateway's own pages or to the proxy.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::ORIGIN;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use rustls::ServerConfig;
use tower::Service;
use tower_buttress::error::BoxError;

use super::access::{Access, TrackedBody};
use super::answer_body::AnswerBody;
use super::callers::Callers;
use super::headers;
use super::ids::RequestId;
use super::local::{Local, Shown};
use super::problem;
use super::proxy::{Proxy, RequestBody};
use super::stream::TurnTaking;
use super::unread::Sender;

/// The services of one configuration. A call keeps the ones that it began with.
#[derive(Debug)]
pub(crate) struct Live<S> {
    pub(crate) proxy: Proxy<S>,
    pub(crate) local: Local,
    pub(crate) callers: Callers,
    /// The gateway's own pages on the main listener.
    pub(crate) shown: Shown,
    /// `None`: the main listener does not use TLS.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// The origin of a client's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came {
    pub(crate) address: IpAddr,
    pub(crate) door: Door,
    pub(crate) has_tls: bool,
}

/// The listener that accepted the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Door {
    Main,
    Admin,
}

/// The body of an answer to a caller.
pub(crate) type CallerBody = TurnTaking<TrackedBody>;

// === impl Live ===

impl<S, B> Live<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error: Into<BoxError>> + Clone,
    B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    pub(crate) async fn answer(&self, mut request: Request<Incoming>, came: Came) -> Response<CallerBody> {
        let sender = Sender::new(request.version(), request.headers());
        if !headers::has_host(&request) {
            return sender.refuse(request.into_body(), problem::no_host()).await.map(uncounted);
        }
        let shown = match came.door {
            // A proxy on this machine forwards requests from anywhere.
            Door::Main if self.callers.is_relayed(came.address, request.headers()) => Shown::Health,
            Door::Main => self.shown,
            Door::Admin => Shown::All,
        };
        if matches!(came.door, Door::Admin) || self.local.has(&request) {
            // Checked first: a page of another site may have made a browser send this request.
            let refused = if Local::is_health(&request) { None } else { self.callers.admit_to_own_pages(&request) };
            let whose = if refused.is_none() { self.local.to_forget(&request, shown) } else { None };
            let response = match (refused, whose) {
                (Some(refused), _) => refused,
                (None, Some(whose)) => Box::pin(self.local.forget(&whose)).await,
                (None, None) => self.local.answer(&request, shown),
            };
            let response = sender.refuse(request.into_body(), response).await;
            return response.map(uncounted);
        }
        let origin = if self.callers.pages.has_origins() { request.headers().get(ORIGIN).cloned() } else { None };
        let id = RequestId::assign(request.headers_mut());
        let mut access = Access::begin(&request, id.clone(), &self.local.events.calls);
        let refusal = self.callers.admit(&mut request);
        let refusal = refusal.or_else(|| headers::has_unknown_coding(&request).then(problem::unknown_coding));
        let mut response = match refusal {
            None => {
                access.of_tenant(request.extensions().get());
                let peer = self.callers.peer(came.address, came.has_tls);
                self.proxy.answer(request, access.call(), sender, peer).await
            }
            Some(response) => sender.refuse(request.into_body(), response).await,
        };
        self.callers.pages.share(origin.as_ref(), response.headers_mut());
        id.mark(response.headers_mut());
        access.follow(response).map(TurnTaking::new)
    }
}

fn uncounted(body: AnswerBody) -> CallerBody {
    TurnTaking::new(TrackedBody::uncounted(body))
}
