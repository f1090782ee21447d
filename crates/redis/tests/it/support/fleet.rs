//! Processes of a fleet, each with a dedup layer over an upstream of its own that counts its calls.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::dedup::DedupBody;
use tower_buttress::error::BoxError;
use tower_buttress::{CallBody, DedupLayer, DedupRole};
use tower_buttress_redis::backend::Backend;
use tower_buttress_redis::{Redis, RedisOptions, RedisStore};

type Answer = Response<DedupBody<Channel<Bytes, BoxError>>>;

/// One process of a fleet.
#[derive(Clone)]
pub(crate) struct Process {
    service: BoxCloneSyncService<Request<Full<Bytes>>, Answer, Infallible>,
    calls: Arc<AtomicUsize>,
}

/// What an upstream answers: this many parts of this many bytes, this far apart, after a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    pub(crate) head_after: Duration,
    pub(crate) parts: usize,
    pub(crate) size: usize,
    pub(crate) every: Duration,
    /// It says how long it is, so that it can be kept.
    pub(crate) has_length: bool,
    pub(crate) status: StatusCode,
}

/// What a caller read.
#[derive(Debug)]
pub(crate) struct ReceivedAnswer {
    pub(crate) status: StatusCode,
    pub(crate) role: Option<DedupRole>,
    pub(crate) text: Vec<u8>,
    /// Why it ended before its end.
    pub(crate) failure: Option<String>,
    /// The longest that it waited for a part.
    pub(crate) longest_wait: Duration,
}

// === impl Process ===

impl Process {
    pub(crate) fn on(options: &RedisOptions, script: Script) -> Self {
        Self::with(RedisStore::new(Redis::new(options.clone()).unwrap()), script)
    }

    pub(crate) fn with<B: Backend>(store: RedisStore<B>, script: Script) -> Self {
        // Without a caller, a call ends.
        let layer = DedupLayer::new().store(store).grace(Duration::ZERO);
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        let upstream = service_fn(move |_: Request<CallBody>| {
            counter.fetch_add(1, SeqCst);
            async move { Ok::<_, Infallible>(script.answer().await) }
        });
        Self { service: BoxCloneSyncService::new(layer.layer(upstream)), calls }
    }

    /// How many calls its upstream had.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    /// Sends a request, and reads its answer to the end.
    pub(crate) fn ask(&self, key: Option<&str>) -> tokio::task::JoinHandle<ReceivedAnswer> {
        self.ask_slowly(key, Duration::ZERO)
    }

    /// Pauses after each part.
    pub(crate) fn ask_slowly(&self, key: Option<&str>, pause: Duration) -> tokio::task::JoinHandle<ReceivedAnswer> {
        let mut request = Request::post("http://upstream/v1/chat/completions").header("authorization", "Bearer caller");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Full::from("hello")).unwrap();
        let service = self.service.clone();
        tokio::spawn(async move {
            let answer = service.oneshot(request).await.unwrap();
            let (status, role) = (answer.status(), answer.extensions().get().copied());
            let mut body = answer.into_body();
            let (mut text, mut failure, mut longest_wait) = (Vec::new(), None, Duration::ZERO);
            loop {
                let begun = tokio::time::Instant::now();
                let Some(frame) = body.frame().await else { break };
                longest_wait = longest_wait.max(begun.elapsed());
                match frame {
                    Ok(frame) => text.extend_from_slice(&frame.into_data().unwrap_or_default()),
                    Err(why) => {
                        failure = Some(why.to_string());
                        break;
                    }
                }
                tokio::time::sleep(pause).await;
            }
            ReceivedAnswer { status, role, text, failure, longest_wait }
        })
    }
}

// === impl Script ===

impl Script {
    /// 100 parts in 2 s.
    pub(crate) const STREAM: Self = Self {
        head_after: Duration::ZERO,
        parts: 100,
        size: 200,
        every: Duration::from_millis(20),
        has_length: false,
        status: StatusCode::OK,
    };

    pub(crate) const SHORT: Self = Self {
        head_after: Duration::from_millis(300),
        parts: 3,
        size: 20,
        every: Duration::ZERO,
        has_length: true,
        status: StatusCode::OK,
    };

    /// The whole answer.
    pub(crate) fn text(self) -> Vec<u8> {
        (0..self.parts).flat_map(|n| self.part(n)).collect()
    }

    fn part(self, n: usize) -> Vec<u8> {
        let mut part = format!("{n};").into_bytes();
        part.resize(self.size, b'.');
        part
    }

    async fn answer(self) -> Response<Channel<Bytes, BoxError>> {
        tokio::time::sleep(self.head_after).await;
        let (mut sender, body) = Channel::new(1);
        tokio::spawn(async move {
            for n in 0..self.parts {
                if sender.send_data(self.part(n).into()).await.is_err() {
                    return;
                }
                tokio::time::sleep(self.every).await;
            }
        });
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        response.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        if self.has_length {
            let length = self.parts * self.size;
            response.headers_mut().insert("content-length", length.to_string().parse().unwrap());
        }
        response
    }
}

// === impl ReceivedAnswer ===

impl ReceivedAnswer {
    /// It is whole, and is this script's.
    pub(crate) fn is_whole(&self, script: Script) -> bool {
        assert!(self.is_right(script), "a wrong answer: {:?}", String::from_utf8_lossy(&self.text));
        self.failure.is_none() && self.status.is_success()
    }

    /// What was read begins as the answer does, and a clean end is its end.
    pub(crate) fn is_right(&self, script: Script) -> bool {
        let whole = script.text();
        !self.status.is_success()
            || whole.starts_with(&self.text) && (self.failure.is_some() || self.text.len() == whole.len())
    }
}
