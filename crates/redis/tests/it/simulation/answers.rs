//! Calls that the processes share, and their answers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::dedup::DedupBody;
use tower_buttress::error::BoxError;
use tower_buttress::{CallBody, DedupLayer};
use tower_buttress_redis::backend::ForgetBackend;
use tower_buttress_redis::{RedisModel, RedisStore};

use super::history::History;
use super::nemesis::{Faults, Nemesis};
use super::network::{PATIENCE, SLACK, Way};
use super::time;

const PROCESSES: usize = 3;
const CALLERS: usize = 24;
/// A tenant that asks for more than its share of Redis has room for.
const GREEDY: usize = 2;
const GREEDY_CALLERS: usize = 10;
const GREEDY_BYTES: usize = 6_000;
/// The share of each tenant. Those of the others are never full.
const TENANT_BYTES: u64 = 24 * 1024;
/// In which callers come.
const TIME: Duration = Duration::from_secs(40);
/// An answer to a key is known for so long.
const WINDOW: Duration = Duration::from_secs(60);
/// A process that sends nothing has a key for so long.
const LEASE: Duration = Duration::from_secs(10);
/// All callers have an answer, or an error, by then: a few leases.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

type Service = BoxCloneSyncService<Request<Full<Bytes>>, Response<DedupBody<Answer>>, Infallible>;

/// What callers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    tenant: usize,
    payload: usize,
    has_key: bool,
}

/// A call to the upstream.
#[derive(Debug)]
struct Call {
    asked: Asked,
    process: usize,
    begun: Instant,
    ended: Option<(Instant, End)>,
    text: Vec<u8>,
    has_length: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Failed,
    /// Its process let go of it.
    Dropped,
}

/// The upstream of all.
#[derive(Clone)]
struct Upstream {
    history: History,
    calls: Arc<Mutex<Vec<Call>>>,
    ways: Arc<Vec<Way>>,
    seed: u64,
}

/// A call that is under way. Dropped, it is over.
struct InFlight {
    upstream: Upstream,
    number: usize,
}

/// The body of an answer, which comes part by part.
struct Answer {
    parts: VecDeque<Vec<u8>>,
    fails_after: Option<usize>,
    has_length: bool,
    next: Pin<Box<Sleep>>,
    rng: Rng,
    in_flight: InFlight,
}

// === impl Answer ===

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        ready!(self.next.as_mut().poll(cx));
        if self.fails_after == Some(0) {
            self.in_flight.end(End::Failed);
            return Poll::Ready(Some(Err("the upstream broke off".into())));
        }
        self.fails_after = self.fails_after.map(|parts| parts - 1);
        let wait = time(&mut self.rng, 1.0, 500.0);
        self.next.as_mut().reset(Instant::now() + wait);
        let part = self.parts.pop_front();
        // Where no length was told, an answer is whole when its end was read, and not before.
        if part.is_none() || self.is_end_stream() {
            self.in_flight.end(End::Whole);
        }
        Poll::Ready(part.map(|part| Ok(Frame::data(part.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_length && self.parts.is_empty()
    }
}

// === impl InFlight ===

impl InFlight {
    fn end(&self, end: End) {
        let call = &mut self.upstream.calls.lock().unwrap()[self.number];
        if call.ended.is_none() {
            call.ended = Some((Instant::now(), end));
            self.upstream.history.say(format!("call {} is over: {end:?}", self.number));
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end(End::Dropped);
    }
}

// === impl Upstream ===

impl Upstream {
    fn service(&self, process: usize, way: &Way) -> Service {
        let store = RedisStore::new(way.clone()).lease(LEASE).tenant_bytes(TENANT_BYTES).max_log(TENANT_BYTES);
        let layer = DedupLayer::new().store(store).grace(Duration::ZERO).window(WINDOW);
        let upstream = self.clone();
        let calls = service_fn(move |request: Request<CallBody>| {
            let upstream = upstream.clone();
            async move { Ok::<_, Infallible>(upstream.answer(process, &asked(request.uri().path())).await) }
        });
        BoxCloneSyncService::new(layer.layer(calls))
    }

    async fn answer(&self, process: usize, asked: &Asked) -> Response<Answer> {
        let (in_flight, mut rng, parts) = self.begin(process, *asked);
        let has_length = self.calls.lock().unwrap()[in_flight.number].has_length;
        let length: usize = parts.iter().map(Vec::len).sum();
        sleep(time(&mut rng, 5.0, 2_000.0)).await;
        let fails = rng.u32(..100) < 10 && asked.tenant != GREEDY;
        let fails_after = fails.then(|| rng.usize(..parts.len()));
        let next = Box::pin(sleep(Duration::ZERO));
        let body = Answer { parts: parts.into(), fails_after, has_length, next, rng, in_flight };
        let mut response = Response::new(body);
        if has_length {
            response.headers_mut().insert("content-length", length.into());
        }
        response
    }

    fn begin(&self, process: usize, asked: Asked) -> (InFlight, Rng, Vec<Vec<u8>>) {
        let mut calls = self.calls.lock().unwrap();
        let (number, now) = (calls.len(), Instant::now());
        self.check_that_it_is_needed(&calls, asked, now);
        let mut rng = Rng::with_seed(self.seed ^ ((number as u64 + 1) << 32));
        let Asked { tenant, payload, .. } = asked;
        let parts = (0..rng.usize(1..12)).map(|part| {
            let mut text = format!("{tenant}/{payload} #{number} {part};").into_bytes();
            text.resize(text.len() + rng.usize(..60), b'.');
            text
        });
        let mut parts: Vec<Vec<u8>> = parts.collect();
        if tenant == GREEDY {
            parts[0].resize(GREEDY_BYTES, b'.');
        }
        let (text, has_length) = (parts.concat(), tenant == GREEDY || rng.u32(..100) < 70);
        self.history.say(format!("process {process}: call {number} for {asked:?}, {} bytes", text.len()));
        calls.push(Call { asked, process, begun: now, ended: None, text, has_length });
        (InFlight { upstream: self.clone(), number }, rng, parts)
    }

    /// At most one call per key, as long as nothing fails; and none for a key whose answer is kept.
    fn check_that_it_is_needed(&self, calls: &[Call], asked: Asked, now: Instant) {
        for (number, other) in calls.iter().enumerate().filter(|(_, call)| call.asked == asked) {
            let is_calm = self.history.is_calm(other.begun.checked_sub(LEASE).unwrap_or(other.begun), now);
            let crashed = self.ways[other.process].has_crashed();
            match other.ended {
                None if is_calm && !crashed => {
                    self.history.broken(format!("(2) a second call for {asked:?} while call {number} is under way"));
                }
                Some((at, End::Whole)) if is_calm && asked.has_key && other.has_length && now - at > SLACK => {
                    let ago = now - at;
                    self.history
                        .broken(format!("(2) a second call for {asked:?}, answered {ago:?} ago by call {number}"));
                }
                _ => {}
            }
        }
    }
}

/// What a caller read.
struct ReceivedAnswer {
    asked: Asked,
    at: Instant,
    /// Its process asked Redis nothing then.
    is_shut: bool,
    answered: Instant,
    status: u16,
    text: Vec<u8>,
    /// The answer ended cleanly.
    is_whole: bool,
    /// The caller went away.
    has_left: bool,
}

pub(super) async fn history(history: History, mut rng: Rng, faults: Faults) {
    let model = RedisModel::new();
    let way = |process| Way::new(&model, process, history.clone(), rng.fork(), faults.operations);
    let ways: Vec<Way> = (0..PROCESSES).map(way).collect();
    let upstream =
        Upstream { history: history.clone(), calls: Arc::default(), ways: Arc::new(ways.clone()), seed: rng.u64(..) };
    let services: Vec<Service> = (0..PROCESSES).map(|process| upstream.service(process, &ways[process])).collect();
    let nemesis = Nemesis { model: model.clone(), ways: ways.clone(), history: history.clone() };
    nemesis.begin(rng.fork(), faults.events, TIME);
    let callers: Vec<_> = (0..CALLERS + GREEDY_CALLERS)
        .map(|number| {
            // Few of them, so that several ask the same; of the greedy one's each asks for an answer of its own.
            let payload = if number < CALLERS { rng.usize(..2) } else { 2 + number };
            let tenant = if number < CALLERS { rng.usize(..2) } else { GREEDY };
            let asked = Asked { tenant, payload, has_key: payload != 1 };
            let (history, process) = (history.clone(), rng.usize(..PROCESSES));
            let (service, way, rng) = (services[process].clone(), ways[process].clone(), rng.fork());
            // They come in swarms.
            let at = TIME.mul_f64((number % CALLERS / 4) as f64 / (CALLERS / 4) as f64);
            (process, tokio::spawn(caller(number, asked, process, service, way, history, rng, at)))
        })
        .collect();
    for (process, caller) in callers {
        match timeout(TIME + ENDS_WITHIN, caller).await {
            Ok(received) => received.unwrap().into_iter().for_each(|received| upstream.check(&received, faults)),
            Err(_) if ways[process].has_crashed() => {}
            Err(_) => history.broken("a caller has neither an answer nor an error".into()),
        }
    }
    check_quotas(&model, &history, faults);
    let forgotten = if rng.bool() { model.forget_kept(None).await.ok() } else { None };
    if let Some(forgotten) = forgotten {
        history.say(format!("all is forgotten: {forgotten:?}"));
        let counted = model.counted().iter().map(|counted| counted.kept).sum::<u64>();
        if counted > 0 && history.gone_back().is_zero() {
            history.broken(format!("(8) {counted} bytes count for answers that were deleted"));
        }
    }
    drop(services);
    // What is in flight for a process that has crashed is not ended by it.
    sleep(2 * (WINDOW + 3 * LEASE)).await;
    let calls = upstream.calls.lock().unwrap();
    let open = calls.iter().filter(|call| call.ended.is_none() && !ways[call.process].has_crashed()).count();
    let held = history.held(&model);
    let counted = model.counted();
    if open > 0 || held > 0 || !counted.is_empty() {
        history.broken(format!(
            "(8) {open} calls are under way, {held} entries in Redis, and {counted:?} count when all is over"
        ));
    }
}

/// Each tenant is within its share, and what counts is what its answers take.
fn check_quotas(model: &RedisModel, history: &History, faults: Faults) {
    let all = model.counted();
    for counted in &all {
        let is_right = match history.gone_back() {
            Duration::ZERO => counted.kept == counted.taken,
            _ => counted.kept >= counted.taken,
        };
        if !is_right || counted.kept > TENANT_BYTES || counted.in_flight > TENANT_BYTES {
            history.broken(format!("(8) a tenant's share of {TENANT_BYTES}: {counted:?}"));
        }
    }
    let most = all.iter().map(|counted| counted.kept).max().unwrap_or_default();
    if faults.none() && most + 2 * GREEDY_BYTES as u64 <= TENANT_BYTES {
        history.broken(format!("the greedy tenant could have been kept more than {most} bytes of"));
    }
}

#[allow(clippy::too_many_arguments, reason = "what a caller is")]
async fn caller(
    number: usize,
    asked: Asked,
    process: usize,
    service: Service,
    way: Way,
    history: History,
    mut rng: Rng,
    at: Duration,
) -> Option<ReceivedAnswer> {
    sleep(at + time(&mut rng, 1.0, 3_000.0)).await;
    if way.has_crashed() {
        return None;
    }
    let Asked { tenant, payload, .. } = asked;
    let leaves_after = (rng.u32(..100) < 15 && tenant != GREEDY).then(|| rng.usize(..6));
    let pause = if rng.u32(..100) < 15 { time(&mut rng, 10.0, 700.0) } else { Duration::ZERO };
    let path = format!("http://upstream/{tenant}/{payload}");
    let mut request = Request::post(path).header("authorization", format!("Bearer {tenant}"));
    if asked.has_key {
        request = request.header("idempotency-key", payload.to_string());
    }
    let (at, is_shut) = (Instant::now(), way.is_shut());
    history.say(format!("process {process}: caller {number} asks for {asked:?}"));
    let response = service.oneshot(request.body(Full::from(format!("payload {payload}"))).unwrap()).await.unwrap();
    let answered = Instant::now();
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut received =
        ReceivedAnswer { asked, at, is_shut, answered, status, text: Vec::new(), is_whole: false, has_left: false };
    for frame in 0.. {
        if leaves_after == Some(frame) {
            received.has_left = true;
            break;
        }
        match body.frame().await {
            Some(Ok(frame)) => received.text.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) => break,
            None => {
                received.is_whole = true;
                break;
            }
        }
        sleep(pause).await;
    }
    history.say(format!(
        "process {process}: caller {number} was answered {status} after {:?}, {} bytes, whole: {}, left: {}",
        answered - at,
        received.text.len(),
        received.is_whole,
        received.has_left
    ));
    // A crashed process has no callers left that could read.
    (!way.has_crashed()).then_some(received)
}

impl Upstream {
    fn check(&self, received: &ReceivedAnswer, faults: Faults) {
        let calls = self.calls.lock().unwrap();
        let (asked, history) = (received.asked, &self.history);
        let mut own = calls.iter().filter(|call| call.asked == asked);
        if received.status == 200 {
            let is_right = own.clone().any(|call| {
                let whole = matches!(call.ended, Some((_, End::Whole))) && call.text == received.text;
                if received.is_whole { whole } else { call.text.starts_with(&received.text) }
            });
            if !is_right {
                let text = String::from_utf8_lossy(&received.text);
                history.broken(format!("(1) {asked:?} was answered with no answer to it, or half of one: {text}"));
            }
        }
        if faults.none() && !received.is_whole && !received.has_left && own.clone().all(|call| call.ended_well()) {
            history.broken(format!("{asked:?} was answered {}, and nothing had failed", received.status));
        }
        // The first of all who asks for it waits for one claim, and for nothing else.
        let first = own.next();
        if let Some(call) = first.filter(|call| call.begun >= received.at && call.begun <= received.answered) {
            let waited = call.begun - received.at;
            // One who crashed may have claimed it before.
            let crashed = self.ways.iter().any(Way::has_crashed);
            let patience = if received.is_shut { Duration::ZERO } else { PATIENCE };
            if waited > patience + SLACK && !crashed {
                history.broken(format!("(3) {asked:?} waited {waited:?} before call at {}", history.at(call.begun)));
            }
        }
    }
}

impl Call {
    fn ended_well(&self) -> bool {
        matches!(self.ended, Some((_, End::Whole)))
    }
}

fn asked(path: &str) -> Asked {
    let mut words = path.split('/').skip(1).map(|word| word.parse().unwrap());
    let (tenant, payload) = (words.next().unwrap(), words.next().unwrap());
    Asked { tenant, payload, has_key: payload != 1 }
}

#[test]
fn answers_are_right_whole_and_asked_for_once() {
    super::run("answers", history);
}
