//! Callers that are cut off, and come back to their answers at another process.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep, timeout};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::dedup::DedupBody;
use tower_buttress::error::BoxError;
use tower_buttress::{CallBody, DedupLayer, Resumable};
use tower_buttress_redis::{RedisModel, RedisStore};

use super::history::History;
use super::nemesis::{Faults, Nemesis};
use super::network::Way;
use super::time;

const PROCESSES: usize = 3;
const CALLERS: usize = 12;
/// In which they come.
const TIME: Duration = Duration::from_secs(20);
/// An answer can be read for so long behind its end.
const WINDOW: Duration = Duration::from_secs(120);
/// A fault is felt until the lease is another's, or the answer is offered again.
const FELT_FOR: Duration = Duration::from_secs(15);
/// A caller has read all, or gives up, by then.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

type Answer = Response<DedupBody<Channel<Bytes, BoxError>>>;
type Service = BoxCloneSyncService<Request<Full<Bytes>>, Answer, Infallible>;

/// What becomes of a call to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Failed,
    /// Its process let go of it.
    Dropped,
}

/// A call to the upstream. Each caller makes one.
#[derive(Debug)]
struct Call {
    caller: usize,
    process: usize,
    events: usize,
    end: Option<End>,
}

#[derive(Clone)]
struct Upstream {
    history: History,
    calls: Arc<Mutex<Vec<Call>>>,
    rng: Arc<Mutex<Rng>>,
}

/// A caller, and how far it has read.
struct Caller {
    number: usize,
    begun: Instant,
    history: History,
    rng: Rng,
    services: Vec<Service>,
    ways: Vec<Way>,
    read: usize,
    last_id: Option<String>,
}

// === impl Upstream ===

impl Upstream {
    fn service(&self, process: usize, way: &Way) -> Service {
        let resumable = Resumable::at("/answers").window(WINDOW);
        let layer = DedupLayer::new().store(RedisStore::new(way.clone())).grace(Duration::ZERO).resumable(resumable);
        let upstream = self.clone();
        let calls = service_fn(move |request: Request<CallBody>| {
            let caller = request.uri().path()[1..].parse().unwrap();
            let answer = upstream.answer(process, caller);
            async move { Ok::<_, Infallible>(answer) }
        });
        BoxCloneSyncService::new(layer.layer(calls))
    }

    fn answer(&self, process: usize, caller: usize) -> Response<Channel<Bytes, BoxError>> {
        let mut rng = self.rng.lock().unwrap().fork();
        let (events, fails) = (rng.usize(2..30), rng.u32(..100) < 10);
        let number = self.calls.lock().unwrap().len();
        self.calls.lock().unwrap().push(Call { caller, process, events, end: None });
        self.history.say(format!("process {process}: call {number} for caller {caller}, {events} events"));
        let (mut sender, body) = Channel::new(1);
        let upstream = self.clone();
        tokio::spawn(async move {
            for event in 0..events {
                sleep(time(&mut rng, 1.0, 800.0)).await;
                if sender.send_data(format!("data: {caller}.{event}\n\n").into()).await.is_err() {
                    return upstream.end(number, End::Dropped);
                }
            }
            if fails {
                upstream.end(number, End::Failed);
                sender.abort("the upstream broke off".into());
            } else {
                upstream.end(number, End::Whole);
            }
        });
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    }

    fn end(&self, number: usize, end: End) {
        self.history.say(format!("call {number} is over: {end:?}"));
        self.calls.lock().unwrap()[number].end = Some(end);
    }
}

// === impl Caller ===

impl Caller {
    async fn run(mut self, upstream: Upstream) {
        sleep(TIME.mul_f64(self.rng.f64())).await;
        self.begun = Instant::now();
        let (number, process) = (self.number, self.rng.usize(..PROCESSES));
        if self.ways[process].has_crashed() {
            return;
        }
        let request = Request::post(format!("http://upstream/{number}"))
            .header("authorization", "Bearer a")
            .header("idempotency-key", number.to_string());
        let request = request.body(Full::from("hello")).unwrap();
        let Ok(answer) = timeout(ENDS_WITHIN, self.services[process].clone().oneshot(request)).await else { return };
        let answer = answer.unwrap();
        let Some(location) = answer.headers().get("content-location").cloned() else {
            self.history.broken(format!("caller {number} was answered {}, with no way back", answer.status()));
            return;
        };
        let mut is_over = self.read(answer, process, &upstream).await;
        while !is_over {
            sleep(time(&mut self.rng, 10.0, 8_000.0)).await;
            let process = self.rng.usize(..PROCESSES);
            if self.begun.elapsed() > ENDS_WITHIN / 2 || self.ways[process].has_crashed() {
                return;
            }
            let mut request = Request::get(location.to_str().unwrap());
            if let Some(id) = &self.last_id {
                request = request.header("last-event-id", id);
            }
            self.history.say(format!("process {process}: caller {number} comes back behind {} events", self.read));
            let request = request.body(Full::default()).unwrap();
            let answer = timeout(ENDS_WITHIN, self.services[process].clone().oneshot(request)).await;
            let Ok(answer) = answer else {
                return self.unless_crashed(process, "has no answer");
            };
            is_over = self.came_back(answer.unwrap(), process, &upstream).await;
        }
    }

    /// Whether there is nothing more to read.
    async fn came_back(&mut self, answer: Answer, process: usize, upstream: &Upstream) -> bool {
        let (number, status) = (self.number, answer.status().as_u16());
        let (events, end, made_by) = {
            let calls = upstream.calls.lock().unwrap();
            let call = calls.iter().find(|call| call.caller == number).unwrap();
            (call.events, call.end, call.process)
        };
        match status {
            200 => return self.read(answer, process, upstream).await,
            204 if end == Some(End::Whole) && self.read == events => return true,
            204 => self.history.broken(format!("(1) caller {number} was told that {} events are all", self.read)),
            410 if end == Some(End::Failed) && self.read == events => return true,
            _ => {}
        }
        let since = self.begun.checked_sub(FELT_FOR).unwrap_or(self.begun);
        if self.history.is_calm(since, Instant::now()) && !self.ways[made_by].has_crashed() {
            self.history.broken(format!("process {process}: caller {number} came back, and was answered {status}"));
        }
        // It tries again, unless the answer is gone.
        status == 410 || status == 204
    }

    /// Reads, for as long as it is not cut off. Whether there is nothing more to read.
    async fn read(&mut self, answer: Answer, process: usize, upstream: &Upstream) -> bool {
        let cut_off_after = self.rng.choice([1, 2, 5, 10, 100]).unwrap();
        let (number, mut body, mut text, mut frames) = (self.number, answer.into_body(), String::new(), 0);
        let is_whole = loop {
            if frames == cut_off_after {
                self.history.say(format!("caller {number} is cut off behind {} events", self.read));
                return false;
            }
            frames += 1;
            match timeout(ENDS_WITHIN, body.frame()).await {
                Ok(Some(Ok(frame))) => text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap(),
                Ok(Some(Err(why))) => {
                    self.history.say(format!("process {process}: caller {number} reads an error: {why}"));
                    break false;
                }
                Ok(None) => break true,
                Err(_) => {
                    self.unless_crashed(process, "reads nothing more");
                    return true;
                }
            }
            while let Some((event, rest)) = text.split_once("\n\n") {
                self.received(event);
                text = rest.to_owned();
            }
        };
        let calls = upstream.calls.lock().unwrap();
        let call = calls.iter().find(|call| call.caller == number).unwrap();
        if is_whole && (call.end != Some(End::Whole) || self.read != call.events || !text.is_empty()) {
            self.history.broken(format!("(1) caller {number} read {} events that look whole: {call:?}", self.read));
        }
        is_whole || (call.end == Some(End::Failed) && self.read == call.events)
    }

    fn received(&mut self, event: &str) {
        for line in event.lines() {
            if let Some(id) = line.strip_prefix("id: ") {
                self.last_id = Some(id.to_owned());
            }
            if let Some(data) = line.strip_prefix("data: ") {
                if data != format!("{}.{}", self.number, self.read) {
                    let read = self.read;
                    self.history.broken(format!("(1) caller {} read {data} behind {read} events", self.number));
                }
                self.read += 1;
            }
        }
    }

    fn unless_crashed(&self, process: usize, what: &str) {
        if !self.ways[process].has_crashed() {
            self.history.broken(format!("process {process}: caller {} {what}", self.number));
        }
    }
}

pub(super) async fn history(history: History, mut rng: Rng, faults: Faults) {
    let model = RedisModel::new();
    let way = |process| Way::new(&model, process, history.clone(), rng.fork(), faults.operations);
    let ways: Vec<Way> = (0..PROCESSES).map(way).collect();
    let draws = Arc::new(Mutex::new(rng.fork()));
    let upstream = Upstream { history: history.clone(), calls: Arc::default(), rng: draws };
    let services: Vec<Service> = (0..PROCESSES).map(|process| upstream.service(process, &ways[process])).collect();
    let nemesis = Nemesis { model: model.clone(), ways: ways.clone(), history: history.clone() };
    nemesis.begin(rng.fork(), faults.events, TIME);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (begun, history, rng) = (Instant::now(), history.clone(), rng.fork());
            let (services, ways) = (services.clone(), ways.clone());
            let caller = Caller { number, begun, history, rng, services, ways, read: 0, last_id: None };
            tokio::spawn(caller.run(upstream.clone()))
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    drop(services);
    sleep(2 * (WINDOW + FELT_FOR)).await;
    let calls = upstream.calls.lock().unwrap();
    for number in 0..CALLERS {
        let made = calls.iter().filter(|call| call.caller == number).count();
        if made > 1 {
            history.broken(format!("(2) caller {number} came back, and {made} calls were made"));
        }
    }
    let open = calls.iter().filter(|call| call.end.is_none() && !ways[call.process].has_crashed()).count();
    let held = history.held(&model);
    if open > 0 || held > 0 {
        history.broken(format!("(8) {open} calls are under way, and {held} entries in Redis, when all is over"));
    }
}

#[test]
fn callers_that_come_back_read_the_rest_of_their_answer() {
    super::run("returns", history);
}
