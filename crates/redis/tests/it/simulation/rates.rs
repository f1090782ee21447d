//! Rates and pauses that the processes share.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::time::{Instant, sleep, timeout};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{PaceLayer, Rate};
use tower_buttress_redis::{FleetPace, RedisModel};

use super::history::History;
use super::nemesis::{Faults, Nemesis};
use super::network::{PATIENCE, Way};
use super::{MS, time};

const PROCESSES: usize = 3;
const CALLS: usize = 150;
/// In which calls come: more than the rate allows.
const TIME: Duration = Duration::from_secs(15);
const PER_SECOND: u64 = 6;
const BURST: u64 = 3;
const MAX_WAIT: Duration = Duration::from_secs(5);
/// A process knows of a fault, or of another's pause, by then.
const FELT_FOR: Duration = Duration::from_secs(8);
const TOLD_WITHIN: Duration = Duration::from_millis(50);

type Body = Empty<Bytes>;
type Service = BoxCloneSyncService<Request<Body>, StatusCode, Infallible>;

#[derive(Clone)]
struct Upstream {
    history: History,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// When calls came, and from whom.
    sent: Vec<(Instant, usize)>,
    /// Who was told to wait: from when to when.
    told: Vec<(usize, Instant, Instant)>,
    limited_until: Option<Instant>,
    /// When callers went away.
    left: Vec<Instant>,
}

// === impl Upstream ===

impl Upstream {
    fn process(&self, process: usize, way: &Way) -> (Service, PaceLayer) {
        let fleet = FleetPace::new(way.clone()).processes(u32::try_from(PROCESSES).unwrap());
        let rate = Rate::per_second(PER_SECOND).burst(BURST);
        let layer = PaceLayer::new().requests(rate).max_wait(MAX_WAIT).share(Arc::new(fleet));
        let upstream = self.clone();
        let calls = service_fn(move |_: Request<Body>| {
            let answer = upstream.answer(process);
            async move { Ok::<_, Infallible>(answer) }
        });
        let service = layer.layer(calls).map_response(|response: Response<_>| response.status());
        (BoxCloneSyncService::new(service), layer)
    }

    fn answer(&self, process: usize) -> Response<Body> {
        let now = Instant::now();
        let mut inner = self.inner.lock().unwrap();
        self.history.say(format!("process {process}: a call reaches the upstream"));
        for (other, from, to) in &inner.told {
            let begins = *from + if *other == process { MS } else { TOLD_WITHIN };
            let is_known = *other == process || self.history.is_calm(from.checked_sub(FELT_FOR).unwrap_or(*from), now);
            if now > begins && now + MS < *to && is_known {
                self.history.broken(format!(
                    "(6) process {process} sends before the end of a pause, of which process {other} was told at {}",
                    self.history.at(*from)
                ));
            }
        }
        inner.sent.push((now, process));
        let response = Response::builder();
        let left = inner.limited_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let response = if left.is_zero() {
            response
        } else {
            // In whole seconds, as the header has them.
            let wait = Duration::from_secs(left.as_secs() + 1);
            self.history.say(format!("process {process} is told to wait for {wait:?}"));
            inner.told.push((process, now, now + wait));
            response.status(429).header("retry-after", wait.as_secs())
        };
        response.body(Body::new()).unwrap()
    }

    /// In every stretch of time no more calls than the rate allows, pauses or not; twice as many where something failed, and a
    /// burst for everything that Redis forgot.
    fn check_rates(&self) {
        let inner = self.inner.lock().unwrap();
        for (at, (from, _)) in inner.sent.iter().enumerate() {
            for (count, (to, _)) in (1..).zip(&inner.sent[at..]) {
                // An answer of Redis may come late, and the call with it.
                let time = (*to - *from + PATIENCE).as_secs_f64();
                let allowed = time * PER_SECOND as f64 + BURST as f64 + 1.0;
                let faults = self.history.faults(from.checked_sub(FELT_FOR).unwrap_or(*from), *to);
                // What a call gives back that goes away while it waits is taken beside the turns behind it.
                let left = inner.left.iter().filter(|left| **left + MAX_WAIT >= *from && *left <= to).count();
                let allowed = allowed + left as f64;
                let allowed = if faults == 0 { allowed } else { 2.0 * allowed + faults as f64 * BURST as f64 };
                if f64::from(count) > allowed {
                    let (from, to) = (self.history.at(*from), self.history.at(*to));
                    self.history.broken(format!("(5) {count} calls from {from} to {to}, and {allowed:.1} are allowed"));
                    return;
                }
            }
        }
    }
}

pub(super) async fn history(history: History, mut rng: Rng, faults: Faults) {
    let model = RedisModel::new();
    let way = |process| Way::new(&model, process, history.clone(), rng.fork(), faults.operations);
    let ways: Vec<Way> = (0..PROCESSES).map(way).collect();
    let upstream = Upstream { history: history.clone(), inner: Arc::default() };
    let fleet: Vec<_> = (0..PROCESSES).map(|process| upstream.process(process, &ways[process])).collect();
    Nemesis { model, ways: ways.clone(), history: history.clone() }.begin(rng.fork(), faults.events, TIME);
    tokio::spawn(limits(upstream.clone(), rng.fork()));
    let callers: Vec<_> = (0..CALLS)
        .map(|_| {
            let process = rng.usize(..PROCESSES);
            let (service, way, at) = (fleet[process].0.clone(), ways[process].clone(), TIME.mul_f64(rng.f64()));
            let patience = if rng.u32(..100) < 10 { time(&mut rng, 1.0, 3_000.0) } else { 4 * MAX_WAIT };
            let upstream = upstream.clone();
            tokio::spawn(async move {
                sleep(at).await;
                if way.has_crashed() {
                    return;
                }
                let request = Request::post("http://upstream/v1/responses").header("authorization", "Bearer a");
                if timeout(patience, service.oneshot(request.body(Body::new()).unwrap())).await.is_err() {
                    upstream.history.say(format!("process {process}: a caller goes away"));
                    upstream.inner.lock().unwrap().left.push(Instant::now());
                }
            })
        })
        .collect();
    let ends_within = TIME + 3 * MAX_WAIT;
    for caller in callers {
        // One of a process that has crashed waits for ever.
        if timeout(ends_within, caller).await.is_err() && !ways.iter().any(Way::has_crashed) {
            history.broken("a call is neither sent nor refused".into());
        }
    }
    upstream.check_rates();
    let waiting = |(process, (_, layer)): (usize, &(Service, PaceLayer))| {
        if ways[process].has_crashed() { 0 } else { layer.stats().waiting }
    };
    let waiting: usize = fleet.iter().enumerate().map(waiting).sum();
    if waiting > 0 {
        history.broken(format!("(8) {waiting} calls are in a line when all is over"));
    }
}

/// Now and then the upstream has too much.
async fn limits(upstream: Upstream, mut rng: Rng) {
    let begun = Instant::now();
    while begun.elapsed() < TIME {
        sleep(time(&mut rng, 1_000.0, 8_000.0)).await;
        let lasts = time(&mut rng, 200.0, 2_500.0);
        upstream.history.say(format!("the upstream has too much for {lasts:.1?}"));
        upstream.inner.lock().unwrap().limited_until = Some(Instant::now() + lasts);
    }
}

#[test]
fn a_rate_is_that_of_the_fleet_and_nothing_is_sent_in_a_pause() {
    super::run("rates", history);
}
