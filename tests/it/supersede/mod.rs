//! Messages of conversations, as their callers and the upstream see them.

mod messages;
mod modes;
mod sockets;
mod streams;
mod with_dedup;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinHandle;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{CallBody, Rejection, RejectionKind, SupersedeLayer, Tenant};

use crate::support::{Alive, Log, secs};

const HEADER: HeaderName = HeaderName::from_static("x-conversation-id");
const MILLIS: Duration = Duration::from_millis(1);

fn layer() -> SupersedeLayer {
    SupersedeLayer::by_header(HEADER)
}

/// A message of conversation 7 of a tenant.
fn message(text: &str) -> Request<Full<Bytes>> {
    message_of("acme", text)
}

fn message_of(tenant: &str, text: &str) -> Request<Full<Bytes>> {
    Request::post("/v1/chat/completions")
        .header(HEADER, "7")
        .extension(Tenant::new(tenant))
        .body(Full::from(text.to_owned()))
        .unwrap()
}

/// What became of a call: the status, and the kind where it was refused.
type Became = (u16, Option<RejectionKind>);

const ANSWERED: Became = (200, None);
const SUPERSEDED: Became = (410, Some(RejectionKind::Superseded));
const BUSY: Became = (409, Some(RejectionKind::ConversationBusy));

/// An upstream that counts its calls, and answers with the message after this time.
#[derive(Clone, Default)]
struct Upstream {
    alive: Alive,
    calls: Arc<std::sync::Mutex<Vec<String>>>,
    takes: Duration,
}

impl Upstream {
    fn that_takes(takes: Duration) -> Self {
        Self { takes, ..Self::default() }
    }

    /// The messages that it was sent.
    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    async fn answer(self, request: Request<CallBody>) -> Result<Response<Full<Bytes>>, Infallible> {
        let _living = self.alive.enter();
        let text = request.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        self.calls.lock().unwrap().push(text.clone());
        tokio::time::sleep(self.takes).await;
        let status = if text.starts_with("fail") { 500 } else { 200 };
        Ok(Response::builder().status(status).body(Full::from(text)).unwrap())
    }
}

/// Makes calls through one service.
#[derive(Clone)]
struct Callers {
    layer: SupersedeLayer,
    upstream: Upstream,
}

impl Callers {
    fn new(layer: SupersedeLayer, upstream: &Upstream) -> Self {
        Self { layer, upstream: upstream.clone() }
    }

    /// Sends it from a task of its own, and gives that time to begin.
    async fn send(&self, request: Request<Full<Bytes>>) -> JoinHandle<Became> {
        let upstream = self.upstream.clone();
        let service = self.layer.layer(service_fn(move |request| upstream.clone().answer(request)));
        let call = tokio::spawn(async move {
            let response = service.oneshot(request).await.unwrap();
            let became = became(&response);
            response.into_body().collect().await.unwrap();
            became
        });
        tokio::time::sleep(MILLIS).await;
        call
    }

    async fn say(&self, text: &str) -> JoinHandle<Became> {
        self.send(message(text)).await
    }
}

fn became<B>(response: &Response<B>) -> Became {
    (response.status().as_u16(), Rejection::of(response).map(Rejection::kind))
}
