//! An earlier answer, where the upstreams give none.

mod kept;
mod memory;
mod scope;
mod served;
mod shared;
mod similar;
mod template;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::error::BoxError;
use tower_buttress::{CallBody, LastGoodLayer, ServedBy, Stale, StaleKind};

use crate::support::{Script, Step};

/// What the upstream does with a call.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    Answer(u16, Vec<(&'static str, &'static str)>, Vec<Step>),
    Break,
    Hang,
}

/// An upstream that does as it is told.
#[derive(Clone)]
pub(crate) struct Upstream {
    does: Arc<Mutex<Does>>,
    pub(crate) calls: Arc<AtomicUsize>,
    /// Calls that have not been dropped.
    pub(crate) alive: Arc<AtomicUsize>,
}

pub(crate) const WHOLE: &str = r#"{"choices":[{"index":0,"message":{"content":"Paris"},"finish_reason":"stop"}]}"#;
pub(crate) const CUT_AT_LIMIT: &str =
    r#"{"choices":[{"index":0,"message":{"content":"Par"},"finish_reason":"length"}]}"#;
pub(crate) const WORD: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Paris\"},\"finish_reason\":null}]}\n\n";
pub(crate) const STOP: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
pub(crate) const QUESTION: &str =
    r#"{"model":"m","messages":[{"role":"user","content":"What is the capital of France?"}]}"#;

struct Living(Arc<AtomicUsize>);

impl Drop for Living {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Upstream {
    pub(crate) fn new() -> Self {
        Self { does: Arc::new(Mutex::new(json(WHOLE))), calls: Arc::default(), alive: Arc::default() }
    }

    pub(crate) fn set(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    pub(crate) fn service(
        &self,
    ) -> impl Service<Request<CallBody>, Response = Response<Script>, Error = io::Error, Future: Send> + Clone + use<>
    {
        let this = self.clone();
        service_fn(move |_: Request<CallBody>| {
            let does = this.does.lock().unwrap().clone();
            this.calls.fetch_add(1, SeqCst);
            this.alive.fetch_add(1, SeqCst);
            let living = Living(this.alive.clone());
            async move {
                let _living = living;
                match does {
                    Does::Answer(status, headers, steps) => {
                        let mut response = Response::builder().status(status);
                        for (name, value) in headers {
                            response = response.header(name, value);
                        }
                        Ok(response.body(Script::new(steps).unsized_()).unwrap())
                    }
                    Does::Break => Err(io::ErrorKind::ConnectionReset.into()),
                    Does::Hang => std::future::pending().await,
                }
            }
        })
    }
}

pub(crate) fn json(body: &'static str) -> Does {
    Does::Answer(200, vec![("content-type", "application/json")], vec![Step::Data(body)])
}

pub(crate) fn status(status: u16) -> Does {
    Does::Answer(status, vec![], vec![Step::Data("no")])
}

pub(crate) fn stream(events: &[&'static str]) -> Does {
    let steps = events.iter().map(|event| Step::Data(event)).collect();
    Does::Answer(200, vec![("content-type", "text/event-stream"), ("cache-control", "no-cache")], steps)
}

pub(crate) fn ask(body: &str) -> Request<Full<Bytes>> {
    let request = Request::post("/v1/chat/completions").header("authorization", "Bearer alice");
    request.body(Full::from(body.to_owned())).unwrap()
}

/// Sends a request and reads the answer: its status, what is stale about it, its body.
pub(crate) async fn send<S, B>(service: &S, request: Request<Full<Bytes>>) -> (u16, Option<StaleKind>, String)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError> + std::fmt::Debug,
{
    let response = service.clone().oneshot(request).await.unwrap();
    let (status, stale) = (response.status().as_u16(), Stale::of(&response).map(|stale| stale.kind));
    assert_eq!(stale.is_some(), ServedBy::of(&response) == Some("last-good"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, stale, String::from_utf8(body.to_vec()).unwrap())
}
