//! Scripted bodies, and what was seen of them.

pub(crate) mod upstream;

use std::collections::VecDeque;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep};
use tower_buttress::error::BoxError;
use tower_buttress::{CallInfo, Event, Observer};

/// What a scripted body does next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Data(&'static str),
    Trailers,
    Fail(&'static str),
    /// Has nothing for so long, counted from when it is first asked.
    Wait(Duration),
    /// Has nothing, for ever.
    Hang,
}

/// A body that follows a script. Its error is a `BoxError`.
#[derive(Debug)]
pub(crate) struct Script {
    steps: VecDeque<Step>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Set when the body is dropped.
    dropped: Arc<AtomicBool>,
    over: bool,
    sized: bool,
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), sleep: None, dropped: Arc::default(), over: false, sized: true }
    }

    /// The same, of unknown length.
    pub(crate) fn unsized_(mut self) -> Self {
        self.sized = false;
        self
    }

    /// Tells whether this body has been dropped.
    pub(crate) fn dropped(&self) -> impl Fn() -> bool + use<> {
        let dropped = self.dropped.clone();
        move || dropped.load(SeqCst)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.dropped.store(true, SeqCst);
    }
}

pub(crate) fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("x-checksum"), HeaderValue::from_static("42"))])
}

impl Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        assert!(!self.over, "the inner body was polled after its end");
        loop {
            match self.steps.front().cloned() {
                Some(Step::Wait(time)) => {
                    let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
                    std::task::ready!(sleep.as_mut().poll(cx));
                    self.sleep = None;
                    self.steps.pop_front();
                }
                Some(Step::Hang) => return Poll::Pending,
                step => {
                    self.steps.pop_front();
                    self.over = matches!(step, None | Some(Step::Fail(_)));
                    return Poll::Ready(match step {
                        Some(Step::Data(data)) => Some(Ok(Frame::data(Bytes::from_static(data.as_bytes())))),
                        Some(Step::Trailers) => Some(Ok(Frame::trailers(trailers()))),
                        Some(Step::Fail(why)) => Some(Err(why.into())),
                        _ => None,
                    });
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.sized && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if !self.sized {
            return SizeHint::default();
        }
        let exact = self.steps.iter().map(|step| if let Step::Data(data) = step { data.len() as u64 } else { 0 }).sum();
        SizeHint::with_exact(exact)
    }
}

/// Counts what is alive on a server: its calls, or the streams of its answers.
#[derive(Clone)]
pub(crate) struct Alive(Arc<watch::Sender<usize>>);

/// One of them.
pub(crate) struct Living(Alive);

impl Alive {
    pub(crate) fn enter(&self) -> Living {
        self.0.send_modify(|alive| *alive += 1);
        Living(self.clone())
    }

    /// Comes back when so many are.
    pub(crate) async fn is(&self, count: usize) {
        let mut alive = self.0.subscribe();
        let reached = alive.wait_for(|alive| *alive == count);
        tokio::time::timeout(secs(10), reached).await.expect("in time").unwrap();
    }
}

impl Default for Alive {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.0.0.send_modify(|alive| *alive -= 1);
    }
}

/// Reads `body` to its end, and tells what came when: `"+1s data"`, `"+16s error: .."`, `"+0s end"`.
pub(crate) async fn trace<B>(mut body: B) -> Vec<String>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let start = Instant::now();
    let mut trace = Vec::new();
    loop {
        let frame = body.frame().await;
        let at = format!("+{}s", start.elapsed().as_millis() as f64 / 1000.0);
        assert!(trace.len() < 10_000, "the body does not end");
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => trace.push(format!("{at} {}", String::from_utf8_lossy(&data))),
                Err(_) => trace.push(format!("{at} trailers")),
            },
            Some(Err(err)) => trace.push(format!("{at} error: {}", err.into())),
            None => {
                trace.push(format!("{at} end"));
                return trace;
            }
        }
    }
}

/// All that a body hands on, and the error that it ends with.
#[allow(dead_code, reason = "not all features and crates that share this file read bodies")]
pub(crate) async fn read<B>(response: http::Response<B>) -> (String, Option<BoxError>)
where
    B: Body<Data = Bytes, Error = BoxError> + Unpin,
{
    let mut body = response.into_body();
    let mut text = String::new();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => text += std::str::from_utf8(&frame.into_data().unwrap_or_default()).unwrap(),
            Some(Err(err)) => {
                assert!(body.frame().await.is_none(), "it is fused");
                return (text, Some(err));
            }
            None => return (text, None),
        }
    }
}

/// Remembers events.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Vec<Event>>);

impl Log {
    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|event| format!("{}: {}", event.name(), event.detail())).collect()
    }
}

impl Observer for Log {
    fn on_event(&self, event: &Event, _call: Option<&CallInfo>) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// A process is stopped for `time`. When it goes on, it sees its timers before its sockets, of which `then` is one.
pub(crate) async fn stopped_for(time: Duration, then: Arc<Notify>) {
    tokio::spawn(async move {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        then.notify_one();
    });
    tokio::time::advance(time).await;
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A listener whose queue is full: the kernel drops further SYNs, as a host behind a firewall would.
pub(crate) async fn full_backlog() -> (SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    // A backlog of 0 holds one connection, and some kernels a few more: fill it until one hangs.
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(addr)).await {
        queued.push(connected.unwrap());
    }
    (addr, (listener, queued))
}
