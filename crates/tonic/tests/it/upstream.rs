//! A gRPC server whose answers a test writes.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status, async_trait};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::{Alive, Living};

pub(super) type Address = SocketAddr;
type Answer = Result<Response<HealthCheckResponse>, Status>;
type Answers = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;
type Handler<T> = Arc<dyn Fn(usize) -> Pin<Box<dyn Future<Output = T> + Send>> + Send + Sync>;

/// Answers the nth call (from 0) as it was told to, and remembers what was asked.
#[derive(Clone)]
pub(super) struct Upstream {
    check: Handler<Answer>,
    watch: Arc<dyn Fn(usize) -> Answers + Send + Sync>,
    calls: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<MetadataMap>>>,
    alive: Alive,
}

pub(super) fn fine() -> Answer {
    Ok(Response::new(message()))
}

pub(super) fn message() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving.into() }
}

impl Upstream {
    pub(super) fn checks<F>(check: impl Fn(usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::new(Arc::new(move |nth| Box::pin(check(nth))), Arc::new(|_| stream::empty().boxed()))
    }

    pub(super) fn watches<S>(watch: impl Fn(usize) -> S + Send + Sync + 'static) -> Self
    where
        S: Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static,
    {
        Self::new(Arc::new(|_| Box::pin(async { fine() })), Arc::new(move |nth| watch(nth).boxed()))
    }

    fn new(check: Handler<Answer>, watch: Arc<dyn Fn(usize) -> Answers + Send + Sync>) -> Self {
        Self { check, watch, calls: Arc::default(), heads: Arc::default(), alive: Alive::default() }
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    /// A header of each call, in order.
    pub(super) fn asked(&self, name: &str) -> Vec<Option<String>> {
        let said = |head: &MetadataMap| head.get(name).map(|value| value.to_str().unwrap().to_owned());
        self.heads.lock().unwrap().iter().map(said).collect()
    }

    /// Returns when this number of calls is in flight.
    pub(super) async fn works_on(&self, count: usize) {
        self.alive.is(count).await;
    }

    pub(super) fn service(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }

    pub(super) async fn serve(&self) -> Address {
        let (listener, address) = listen().await;
        tokio::spawn(Server::builder().add_service(self.service()).serve_with_incoming(listener));
        address
    }

    fn begin(&self, head: &MetadataMap) -> (usize, Living) {
        self.heads.lock().unwrap().push(head.clone());
        (self.calls.fetch_add(1, SeqCst), self.alive.enter())
    }
}

pub(super) async fn listen() -> (TcpListenerStream, Address) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (TcpListenerStream::new(listener), address)
}

#[async_trait]
impl Health for Upstream {
    type WatchStream = Answers;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Answer {
        let (nth, _living) = self.begin(request.metadata());
        (self.check)(nth).await
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Answers>, Status> {
        let (nth, living) = self.begin(request.metadata());
        let answers = (self.watch)(nth).map(move |answer| {
            let _ = &living;
            answer
        });
        Ok(Response::new(answers.boxed()))
    }
}
