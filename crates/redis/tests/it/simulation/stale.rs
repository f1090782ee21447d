//! Last good answers that the processes share, and operators that have them forgotten.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::last_good::LastGoodBody;
use tower_buttress::{CallBody, LastGoodLayer, Stale, StaleKind, Tenant};
use tower_buttress_redis::backend::ForgetBackend;
use tower_buttress_redis::{FleetLastGood, ForgetListener, RedisModel};

use super::history::History;
use super::nemesis::{Faults, Nemesis};
use super::network::{PATIENCE, SLACK, Way};
use super::time;

const PROCESSES: usize = 3;
const CALLS: usize = 80;
/// In which they come.
const TIME: Duration = Duration::from_secs(60);
/// How old an answer may become.
const TTL: Duration = Duration::from_secs(20);
/// An answer is known to all by then, where nothing fails.
const KNOWN_WITHIN: Duration = Duration::from_millis(50);
/// A command without an answer is carried out so much later.
const LATE: Duration = Duration::from_millis(500);
/// What a process has missed may make it answer otherwise for so long.
const FELT_FOR: Duration = Duration::from_secs(30);

const TENANTS: [&str; 2] = ["acme", "other"];
/// Two questions, one of them in two spellings.
const QUESTIONS: [&str; 3] = ["Where is Paris?", "where is Paris", "Where is Rome?"];

type Answer = Response<LastGoodBody<Full<Bytes>>>;
type Service = BoxCloneSyncService<Request<Full<Bytes>>, Answer, Infallible>;

/// An answer of the upstream.
#[derive(Clone, Copy, Debug)]
struct Given {
    tenant: usize,
    question: usize,
    at: Instant,
}

#[derive(Clone)]
struct Upstream {
    history: History,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    is_down: bool,
    given: Vec<Given>,
    /// When what was kept of a tenant was forgotten: the call began and ended.
    forgotten: Vec<(usize, Instant, Instant)>,
}

// === impl Upstream ===

impl Upstream {
    fn process(&self, way: &Way) -> (Service, ForgetListener) {
        let layer = LastGoodLayer::new().ttl(TTL).share(Arc::new(FleetLastGood::new(way.clone())));
        let own = layer.clone();
        let listener = ForgetListener::new(way.clone(), move |tenant| {
            tenant.map_or_else(|| own.forget_all(), |tenant| own.forget(tenant));
        });
        let upstream = self.clone();
        let calls = service_fn(move |request: Request<CallBody>| {
            let answer = upstream.answer(*request.extensions().get::<(usize, usize)>().unwrap());
            async move { Ok::<_, Infallible>(answer) }
        });
        (BoxCloneSyncService::new(layer.layer(calls)), listener)
    }

    fn answer(&self, (tenant, question): (usize, usize)) -> Response<Full<Bytes>> {
        let mut inner = self.inner.lock().unwrap();
        if inner.is_down {
            return Response::builder().status(503).body(Full::default()).unwrap();
        }
        let content = format!("answer {}", inner.given.len());
        inner.given.push(Given { tenant, question, at: Instant::now() });
        let body =
            format!(r#"{{"choices":[{{"index":0,"message":{{"content":"{content}"}},"finish_reason":"stop"}}]}}"#);
        Response::builder().header("content-type", "application/json").body(Full::from(body)).unwrap()
    }

    /// A caller was answered, that came then.
    fn check(&self, asked: (usize, usize), came: Instant, received: &ReceivedAnswer, faults: Faults) {
        let (inner, history, now) = (self.inner.lock().unwrap(), &self.history, Instant::now());
        let (tenant, question) = asked;
        let is_same = |given: &Given| given.tenant == tenant && (given.question == 2) == (question == 2);
        let Some(kind) = received.kind else {
            if received.status == StatusCode::OK {
                return;
            }
            // It is known to all, is not forgotten, and is young enough.
            let is_known = |given: &&Given| {
                let age = now - given.at;
                let was_forgotten = |(of, _, ended): &(usize, Instant, Instant)| *of == tenant && *ended >= given.at;
                is_same(given)
                    && age > KNOWN_WITHIN
                    && age + Duration::from_secs(1) < TTL
                    && !inner.forgotten.iter().any(was_forgotten)
            };
            if let Some(given) = inner.given.iter().find(is_known).filter(|_| faults.none()) {
                history.broken(format!("{asked:?} was answered {}, and there is {given:?}", received.status));
            }
            return;
        };
        let number =
            received.text.split("answer ").nth(1).and_then(|rest| rest.split('"').next()?.parse::<usize>().ok());
        let Some(given) = number.and_then(|number| inner.given.get(number)).filter(|given| is_same(given)) else {
            history.broken(format!("(1) {asked:?} was answered {}", received.text));
            return;
        };
        if kind == StaleKind::Exact && given.question != question {
            history.broken(format!("(1) {asked:?} was answered with {given:?} as if it were the same"));
        }
        let age = now - given.at;
        // What Redis carries out late is kept for as much longer, as is what it held when its clock went back.
        let late = if faults.operations == 0 { Duration::ZERO } else { LATE };
        if age > TTL + SLACK + late + history.gone_back() {
            history.broken(format!("{asked:?} was answered with what is {age:?} old"));
        }
        let is_gone = |(of, begun, ended): &&(usize, Instant, Instant)| {
            *of == tenant
                && *begun > given.at + KNOWN_WITHIN
                && *ended + KNOWN_WITHIN < came
                && history.is_calm(begun.checked_sub(FELT_FOR).unwrap_or(*begun), now)
        };
        if let Some((_, _, ended)) = inner.forgotten.iter().find(is_gone) {
            history.broken(format!("(1) {asked:?} was answered with {given:?}, forgotten at {}", history.at(*ended)));
        }
    }
}

/// What a caller was answered.
struct ReceivedAnswer {
    status: StatusCode,
    kind: Option<StaleKind>,
    text: String,
}

pub(super) async fn history(history: History, mut rng: Rng, faults: Faults) {
    let model = RedisModel::new();
    let way = |process| Way::new(&model, process, history.clone(), rng.fork(), faults.operations);
    let ways: Vec<Way> = (0..PROCESSES).map(way).collect();
    let upstream = Upstream { history: history.clone(), inner: Arc::default() };
    let fleet: Vec<_> = ways.iter().map(|way| upstream.process(way)).collect();
    let nemesis = Nemesis { model: model.clone(), ways: ways.clone(), history: history.clone() };
    nemesis.begin(rng.fork(), faults.events, TIME);
    tokio::spawn(weather(upstream.clone(), rng.fork()));
    tokio::spawn(operator(upstream.clone(), ways.clone(), rng.fork()));
    let mut callers = Vec::new();
    for _ in 0..CALLS {
        sleep(time(&mut rng, 50.0, 3_000.0).min(TIME / 20)).await;
        let process = rng.usize(..PROCESSES);
        let asked = (rng.usize(..TENANTS.len()), rng.usize(..QUESTIONS.len()));
        let (service, way, upstream) = (fleet[process].0.clone(), ways[process].clone(), upstream.clone());
        callers.push(tokio::spawn(async move {
            if !way.has_crashed() {
                call(process, asked, service, &way, upstream, faults).await;
            }
        }));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    drop(fleet);
    sleep(2 * TTL).await;
    let held = history.held(&model);
    if held > 0 {
        history.broken(format!("(8) there are {held} entries in Redis when all is over"));
    }
}

async fn call(process: usize, asked: (usize, usize), service: Service, way: &Way, upstream: Upstream, faults: Faults) {
    let (tenant, question) = (TENANTS[asked.0], QUESTIONS[asked.1]);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{question}"}}]}}"#);
    let request = Request::post("/v1/chat/completions").extension(Tenant::new(tenant)).extension(asked);
    let came = Instant::now();
    let answer = service.oneshot(request.body(Full::from(body)).unwrap()).await.unwrap();
    let waited = came.elapsed();
    let (status, kind) = (answer.status(), Stale::of(&answer).map(|stale| stale.kind));
    let text = String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    upstream.history.say(format!("process {process}: {asked:?} was answered {status} {kind:?} {text}"));
    if way.has_crashed() {
        return;
    }
    // Three questions at most, each within the patience.
    if waited > 3 * PATIENCE + SLACK {
        upstream.history.broken(format!("(3) {asked:?} waited {waited:?}"));
    }
    upstream.check(asked, came, &ReceivedAnswer { status, kind, text }, faults);
}

/// The upstream fails, and is well again.
async fn weather(upstream: Upstream, mut rng: Rng) {
    loop {
        sleep(time(&mut rng, 1_000.0, 8_000.0)).await;
        let mut inner = upstream.inner.lock().unwrap();
        inner.is_down = !inner.is_down;
        upstream.history.say(format!("the upstream is down: {}", inner.is_down));
    }
}

async fn operator(upstream: Upstream, ways: Vec<Way>, mut rng: Rng) {
    for _ in 0..3 {
        sleep(time(&mut rng, 5_000.0, 30_000.0)).await;
        let (way, tenant) = (rng.choice(&ways).unwrap().clone(), rng.usize(..TENANTS.len()));
        if way.has_crashed() {
            return;
        }
        let begun = Instant::now();
        let forgotten = way.forget_kept(Some(&Tenant::new(TENANTS[tenant]))).await;
        upstream.history.say(format!("what is kept of {} is forgotten: {forgotten:?}", TENANTS[tenant]));
        // What is still kept is not what was asked for.
        let ended = Instant::now();
        upstream.inner.lock().unwrap().forgotten.push((tenant, begun, ended));
    }
}

#[test]
fn an_answer_that_stands_in_is_right_and_young_and_not_forgotten() {
    super::run("stale", history);
}
