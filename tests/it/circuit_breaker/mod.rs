//! The breaker, as its callers and its upstream see it.

mod health;
mod keys;
mod outcomes;
mod probes;
mod simulation;
mod sockets;

use std::io;
use std::sync::Arc;

use http::{Request, Response};
use tower::{Layer, Service, ServiceExt};
use tower_buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerBody};
use tower_buttress::{CircuitBreakerHandle, CircuitBreakerLayer, CircuitState, Rejection, RejectionKind};

use crate::support::upstream::{Answer, Upstream, request};
use crate::support::{Log, Script, Step};

/// A breaker around a scripted upstream, which panics when it is asked for more than it has answers.
struct Rig {
    upstream: Upstream,
    layer: CircuitBreakerLayer,
    service: CircuitBreaker<Upstream>,
    log: Arc<Log>,
}

type Answered = Response<CircuitBreakerBody<Script>>;

impl Rig {
    fn new(set: impl FnOnce(CircuitBreakerLayer) -> CircuitBreakerLayer, upstream: Upstream) -> Self {
        let log = Arc::new(Log::default());
        // Times to the millisecond.
        let layer = set(CircuitBreakerLayer::new().configure(|config| config.jitter(0.0))).observer(log.clone());
        let service = layer.layer(upstream.clone());
        Self { upstream, layer, service, log }
    }

    /// With this many failures before the answers, which open it.
    fn opened(set: impl FnOnce(CircuitBreakerLayer) -> CircuitBreakerLayer, answers: Vec<Answer>) -> Self {
        let failures = (0..5).map(|_| Answer::status(503));
        Self::new(set, Upstream::new(failures.chain(answers)))
    }

    fn circuit(&self) -> CircuitBreakerHandle {
        self.layer.handle()
    }

    fn state(&self) -> CircuitState {
        self.circuit().state()
    }

    /// Ready, and called; its future has not been polled.
    async fn begin(&self) -> <CircuitBreaker<Upstream> as Service<Request<Script>>>::Future {
        let mut service = self.service.clone();
        ServiceExt::<Request<Script>>::ready(&mut service).await.unwrap().call(request("GET", []))
    }

    async fn head(&self) -> io::Result<Answered> {
        self.begin().await.await
    }

    /// A whole call: the status, and the body or how it failed.
    async fn call(&self) -> String {
        let response = match self.head().await {
            Ok(response) => response,
            Err(err) => return err.kind().to_string(),
        };
        let status = response.status();
        if let Some(rejection) = Rejection::of(&response) {
            assert_eq!(rejection.kind(), RejectionKind::CircuitOpen);
            return "refused".to_owned();
        }
        match http_body_util::BodyExt::collect(response.into_body()).await {
            Ok(body) => format!("{} {}", status.as_u16(), String::from_utf8_lossy(&body.to_bytes())),
            Err(err) => format!("{} {err}", status.as_u16()),
        }
    }

    async fn calls(&self, n: usize) -> Vec<String> {
        let mut answers = Vec::new();
        for _ in 0..n {
            answers.push(self.call().await);
        }
        answers
    }

    /// Five failures, after which it is open for five seconds.
    async fn open(&self) {
        self.calls(5).await;
        assert_eq!(self.state(), CircuitState::Open);
    }
}

fn as_is(layer: CircuitBreakerLayer) -> CircuitBreakerLayer {
    layer
}

fn stream(steps: impl IntoIterator<Item = Step>) -> Answer {
    Answer::status(200).body(Script::new(steps))
}
