//! Callers come back to their answer in another process than the one that makes the call.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::dedup::DedupBody;
use tower_buttress::error::BoxError;
use tower_buttress::store::{AnswerOffer, Claim, ClaimRequest, Fingerprint, Lease, OfferedAnswer, Recorder, Store};
use tower_buttress::{CallBody, DedupLayer, DedupRole, Memory, Resumable};
use tower_buttress_redis::backend::Backend;
use tower_buttress_redis::{Redis, RedisLease, RedisModel, RedisStore};

use crate::support::Server;
use crate::support::faulty::Faulty;

const MS: Duration = Duration::from_millis(1);
const SECS: Duration = Duration::from_secs(1);

type Answer = Response<DedupBody<Channel<Bytes, BoxError>>>;

/// One process: its upstream's bodies are written by the test.
struct Process {
    service: BoxCloneSyncService<Request<Full<Bytes>>, Answer, Infallible>,
    bodies: mpsc::UnboundedReceiver<Sender<Bytes, BoxError>>,
    calls: Arc<AtomicUsize>,
}

impl Process {
    fn on<B: Backend>(backend: B) -> Self {
        Self::with(backend, Duration::ZERO)
    }

    /// The head comes after this long.
    fn with<B: Backend>(backend: B, head_after: Duration) -> Self {
        Self::with_memory(backend, head_after, Memory::default())
    }

    fn with_memory<B: Backend>(backend: B, head_after: Duration, memory: Memory) -> Self {
        let resumable = Resumable::at("/answers").respond_async(true);
        let layer = DedupLayer::new().store(RedisStore::new(backend)).grace(Duration::ZERO);
        let layer = layer.resumable(resumable).memory(memory);
        let calls = Arc::new(AtomicUsize::new(0));
        let (told, bodies) = mpsc::unbounded_channel();
        let counter = calls.clone();
        let upstream = service_fn(move |_: Request<CallBody>| {
            counter.fetch_add(1, SeqCst);
            let told = told.clone();
            async move {
                sleep(head_after).await;
                let (sender, body) = Channel::new(64);
                told.send(sender).unwrap();
                let response = Response::builder().header("content-type", "text/event-stream");
                Ok::<_, Infallible>(response.body(body).unwrap())
            }
        });
        Self { service: BoxCloneSyncService::new(layer.layer(upstream)), bodies, calls }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.service.clone().oneshot(request).await.unwrap()
    }

    /// A call that has begun, and where its answer is.
    async fn begin(&mut self) -> (Answer, Sender<Bytes, BoxError>, String) {
        self.begin_for("caller").await
    }

    async fn begin_for(&mut self, caller: &str) -> (Answer, Sender<Bytes, BoxError>, String) {
        let request = Request::post("http://upstream/v1/chat/completions")
            .header("authorization", format!("Bearer {caller}"))
            .header("idempotency-key", "k");
        let answer = self.send(request.body(Full::from("hello")).unwrap()).await;
        let body = self.bodies.recv().await.unwrap();
        let location = answer.headers()["content-location"].to_str().unwrap().to_owned();
        // What is told to Redis is told behind the head.
        sleep(20 * MS).await;
        (answer, body, location)
    }

    async fn get(&self, location: &str, id: Option<&str>) -> Answer {
        let mut request = Request::get(location);
        if let Some(id) = id {
            request = request.header("last-event-id", id);
        }
        self.send(request.body(Full::default()).unwrap()).await
    }

    async fn status(&self, location: &str, id: Option<&str>) -> u16 {
        self.get(location, id).await.status().as_u16()
    }

    async fn delete(&self, location: &str) -> u16 {
        let request = Request::delete(location).body(Full::default()).unwrap();
        self.send(request).await.status().as_u16()
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

async fn say(body: &mut Sender<Bytes, BoxError>, text: &str) {
    body.send_data(text.to_owned().into()).await.unwrap();
}

/// Reads until the events' data are these. Returns the last id.
async fn events(answer: &mut Answer, expected: &[&str]) -> String {
    let mut text = String::new();
    let data = |text: &str| {
        let whole = text.rsplit_once("\n\n").map_or(String::new(), |(whole, _)| whole.to_owned());
        let lines = whole.lines().filter_map(|line| line.strip_prefix("data: ").map(str::to_owned));
        lines.collect::<Vec<_>>()
    };
    while data(&text) != expected {
        let frame = timeout(5 * SECS, answer.frame()).await.unwrap_or_else(|_| panic!("no more than {text:?}"));
        let frame = frame.unwrap_or_else(|| panic!("it ended behind {text:?}")).unwrap();
        text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
    text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap().to_owned()
}

/// The rest of it: its text, and whether it ended as it should.
async fn rest(answer: Answer) -> (String, bool) {
    let (mut body, mut text) = (answer.into_body(), String::new());
    while let Some(frame) = timeout(20 * SECS, body.frame()).await.unwrap() {
        match frame {
            Ok(frame) => text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap(),
            Err(_) => return (text, false),
        }
    }
    (text, true)
}

fn role(answer: &Answer) -> Option<DedupRole> {
    answer.extensions().get().copied()
}

/// All that a caller does who was cut off, at another process.
async fn cut_off_and_back(mut here: Process, there: Process, after_the_end: bool) {
    let (mut answer, mut body, location) = here.begin().await;
    say(&mut body, "data: one\n\ndata: tw").await;
    let id = events(&mut answer, &["one"]).await;
    drop(answer);
    // The grace is zero here, and this is longer.
    sleep(200 * MS).await;
    say(&mut body, "o\n\ndata: three\n\n").await;
    let mut back = there.get(&location, Some(&id)).await;
    assert_eq!((back.status().as_u16(), role(&back)), (200, Some(DedupRole::Resumed)));
    assert_eq!(back.headers()["cache-control"], "no-store");
    let second = events(&mut back, &["two", "three"]).await;
    // Live, from here on, and what it has counts as read by a caller.
    say(&mut body, "data: four\n\n").await;
    let last = events(&mut back, &["four"]).await;
    // Ids that are none, or not yet.
    let stream = last.split('.').next().unwrap();
    for id in ["x", "0123456789abcdef.10", &format!("{stream}.3"), &format!("{stream}.100000")] {
        assert_eq!(there.status(&location, Some(id)).await, 412, "{id}");
        assert_eq!(here.status(&location, Some(id)).await, 412, "{id}");
    }
    // Another, who has all there is, waits for more.
    let mut waiting = there.get(&location, Some(&last)).await;
    assert_eq!(waiting.status(), 200);
    say(&mut body, "data: five\n\n").await;
    let end = events(&mut waiting, &["five"]).await;
    drop(body);
    let (text, whole) = rest(back).await;
    assert!(whole && text.contains("data: five\n"), "{text}");
    assert!(rest(waiting).await.1);
    if after_the_end {
        for process in [&there, &here] {
            assert_eq!(process.status(&location, Some(&end)).await, 204);
            let (text, whole) = rest(process.get(&location, Some(&second)).await).await;
            assert!(whole && text.contains("data: five\n") && !text.contains("three"), "{text}");
            let (text, whole) = rest(process.get(&location, None).await).await;
            assert!(whole && text.contains("data: one\n") && text.contains("data: five\n"), "{text}");
        }
    }
    assert_eq!((here.calls(), there.calls()), (1, 0), "nothing is asked of the upstream by coming back");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_was_cut_off_goes_on_at_another_process() {
    let model = RedisModel::new();
    cut_off_and_back(Process::on(model.clone()), Process::on(model), true).await;
}

#[tokio::test]
async fn a_caller_that_was_cut_off_goes_on_at_another_process_over_a_real_redis() {
    let server = Server::start();
    let options = server.fresh();
    let process = || Process::on(Redis::new(options.clone()).unwrap());
    cut_off_and_back(process(), process(), true).await;
}

#[tokio::test(start_paused = true)]
async fn it_cannot_be_read_without_its_token_or_as_another_tenant() {
    let model = RedisModel::new();
    let (mut here, there) = (Process::on(model.clone()), Process::on(model));
    let (_answer, _body, location) = here.begin().await;
    assert_eq!(there.status("/answers/0123456789abcdef0123456789abcdef", None).await, 410);
    for (credential, status) in [("Bearer caller", 200), ("Bearer stranger", 410)] {
        let request = Request::get(&location).header("authorization", credential);
        assert_eq!(there.send(request.body(Full::default()).unwrap()).await.status(), status, "{credential}");
    }
    // A stranger stops nothing.
    let request = Request::delete(&location).header("authorization", "Bearer stranger");
    assert_eq!(there.send(request.body(Full::default()).unwrap()).await.status(), 204);
    assert_eq!(there.status(&location, None).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_call_is_stopped_from_another_process() {
    let model = RedisModel::new();
    let (mut here, there) = (Process::on(model.clone()), Process::on(model));
    let (answer, mut body, location) = here.begin().await;
    say(&mut body, "data: one\n\n").await;
    let reading = there.get(&location, None).await;
    assert_eq!(there.delete(&location).await, 204);
    assert_eq!(there.status(&location, None).await, 410);
    sleep(50 * MS).await;
    assert_eq!(here.status(&location, None).await, 410);
    assert!(body.send_data("data: two\n\n".into()).await.is_err(), "its upstream is dropped");
    assert!(!rest(answer).await.1 && !rest(reading).await.1, "those who read it read an error");
    assert_eq!(there.delete(&location).await, 204);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_broke_off_is_read_up_to_there_and_its_error() {
    let model = RedisModel::new();
    let (mut here, there) = (Process::on(model.clone()), Process::on(model));
    let (mut answer, mut body, location) = here.begin().await;
    say(&mut body, "data: one\n\ndata: two\n\n").await;
    let last = events(&mut answer, &["one", "two"]).await;
    body.abort("the upstream is gone".into());
    assert!(!rest(answer).await.1);
    for process in [&there, &here] {
        let (text, whole) = rest(process.get(&location, None).await).await;
        assert!(!whole && text.contains("data: two\n"), "{text}");
        assert_eq!(process.status(&location, Some(&last)).await, 410, "nothing is left but its error");
    }
}

#[tokio::test]
async fn an_answer_whose_process_is_gone_is_gone() {
    let server = Server::start();
    let options = server.fresh();
    let there = Process::on(Redis::new(options.clone()).unwrap());
    // All tasks of a process, and its connections, end with its runtime.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (told, location) = tokio::sync::oneshot::channel();
    runtime.spawn(async move {
        let mut here = Process::on(Redis::new(options).unwrap());
        let (answer, mut body, location) = here.begin().await;
        say(&mut body, "data: one\n\n").await;
        told.send(location).unwrap();
        std::future::pending::<()>().await;
        drop((here, answer, body));
    });
    let location = location.await.unwrap();
    let mut reading = there.get(&location, None).await;
    let last = events(&mut reading, &["one"]).await;
    runtime.shutdown_background();
    assert!(!rest(reading).await.1, "what is truncated is no end");
    // What was shared is read up to there, and nothing is left behind that.
    let (text, whole) = rest(there.get(&location, None).await).await;
    assert!(!whole && text.contains("data: one\n"), "{text}");
    assert_eq!(there.status(&location, Some(&last)).await, 410);
    assert_eq!(there.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn it_can_be_read_for_its_window_and_no_longer() {
    let model = RedisModel::new();
    let (mut here, there) = (Process::on(model.clone()), Process::on(model));
    let (mut answer, mut body, location) = here.begin().await;
    say(&mut body, "data: one\n\n").await;
    let last = events(&mut answer, &["one"]).await;
    // In flight for longer than the window.
    for _ in 0..20 {
        sleep(60 * SECS).await;
        assert_eq!(there.status(&location, Some(&last)).await, 200);
    }
    drop(body);
    assert!(rest(answer).await.1);
    for _ in 0..4 {
        sleep(60 * SECS).await;
        assert_eq!(there.status(&location, Some(&last)).await, 204);
        assert!(rest(there.get(&location, None).await).await.1);
    }
    sleep(61 * SECS).await;
    assert_eq!(there.status(&location, None).await, 410);
    assert_eq!(here.status(&location, None).await, 410);
}

#[tokio::test(start_paused = true)]
async fn an_answer_later_is_had_from_any_process() {
    let model = RedisModel::new();
    let (mut here, there) = (Process::with(model.clone(), 30 * SECS), Process::on(model));
    let request = Request::post("http://upstream/v1/chat/completions")
        .header("authorization", "Bearer caller")
        .header("prefer", "respond-async, wait=2");
    let answer = here.send(request.body(Full::from("hello")).unwrap()).await;
    assert_eq!(answer.status(), 202);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    drop(answer);
    // What is told to Redis is told behind the answer.
    sleep(20 * MS).await;
    let again = Request::get(&location).header("prefer", "respond-async, wait=1").body(Full::default()).unwrap();
    assert_eq!(there.send(again).await.status(), 202, "it is not there yet");
    let writing = tokio::spawn(async move {
        let mut body = here.bodies.recv().await.unwrap();
        say(&mut body, "data: late\n\n").await;
        drop(body);
        here
    });
    let answer = there.get(&location, None).await;
    assert_eq!(answer.status(), 200);
    let (text, whole) = rest(answer).await;
    assert!(whole && text.contains("data: late\n"), "{text}");
    assert_eq!(writing.await.unwrap().calls(), 1);
    assert_eq!(there.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_is_read_elsewhere_by_a_slow_reader() {
    let model = RedisModel::new();
    let (mut here, there) = (Process::on(model.clone()), Process::on(model));
    let (answer, mut body, location) = here.begin().await;
    let event = format!("data: {}\n\n", "x".repeat(8_000));
    let local = tokio::spawn(rest(answer));
    for _ in 0..300 {
        say(&mut body, &event).await;
        sleep(MS).await;
    }
    let back = there.get(&location, None).await;
    let (mut back, mut length) = (back.into_body(), 0);
    for n in 0..200 {
        if n < 100 {
            sleep(100 * MS).await;
        }
        if let Some(data) = back.frame().await.unwrap().unwrap().data_ref() {
            length += data.iter().filter(|byte| **byte == b'x').count();
        }
    }
    drop(body);
    while let Some(frame) = back.frame().await {
        length += frame.unwrap().data_ref().unwrap().iter().filter(|byte| **byte == b'x').count();
    }
    assert_eq!(length, 300 * 8_000);
    let (text, whole) = local.await.unwrap();
    assert!(whole && text.bytes().filter(|byte| *byte == b'x').count() == length);
}

#[tokio::test(start_paused = true)]
async fn without_redis_an_answer_is_where_it_was_given() {
    let model = RedisModel::new();
    let (mut here, there) = (Process::on(model.clone()), Process::on(model.clone()));
    let (mut answer, mut body, location) = here.begin().await;
    model.set_reachable(false);
    say(&mut body, "data: one\n\n").await;
    events(&mut answer, &["one"]).await;
    let back = there.get(&location, None).await;
    assert_eq!((back.status().as_u16(), back.headers()["retry-after"].to_str().unwrap()), (502, "1"));
    assert_eq!(here.status(&location, None).await, 200);
    model.set_reachable(true);
    assert_eq!(there.status(&location, None).await, 200);
}

/// Whether it is to be asked again a second later.
fn comes_later(answer: &Answer, status: u16) -> bool {
    answer.status() == status && answer.headers().get("retry-after").is_some_and(|after| after == "1")
}

#[tokio::test(start_paused = true)]
async fn a_caller_with_nothing_but_the_token_takes_of_the_share_of_the_answers_tenant() {
    let model = RedisModel::new();
    let mut here = Process::on(model.clone());
    let there = Process::with_memory(model, Duration::ZERO, Memory::new(8 * 1024 * 1024));
    let (_one, mut body, location) = here.begin_for("one").await;
    let (_other, _other_body, other_location) = here.begin_for("other").await;
    say(&mut body, "data: one\n\n").await;
    // A quarter of what there is, half a MiB each.
    let mut reading = Vec::new();
    for _ in 0..4 {
        let mut back = there.get(&location, None).await;
        assert_eq!(back.status(), 200);
        events(&mut back, &["one"]).await;
        reading.push(back);
    }
    assert!(comes_later(&there.get(&location, None).await, 503));
    assert_eq!(there.status(&other_location, None).await, 200, "another tenant's answer is read");
    // Who leaves makes room.
    reading.pop();
    sleep(SECS).await;
    assert_eq!(there.status(&location, None).await, 200);
}

#[tokio::test(start_paused = true)]
async fn what_is_read_behind_what_a_caller_has_is_counted() {
    let model = RedisModel::new();
    let mut here = Process::on(model.clone());
    let there = |bytes| Process::with_memory(model.clone(), Duration::ZERO, Memory::new(bytes));
    let (mut answer, mut body, location) = here.begin().await;
    say(&mut body, "data: one\n\n").await;
    let id = events(&mut answer, &["one"]).await;
    let reading = tokio::spawn(rest(answer));
    // No event ends in it.
    for _ in 0..32 {
        say(&mut body, &"x".repeat(64 * 1024)).await;
    }
    drop(body);
    assert!(reading.await.unwrap().1);
    assert!(comes_later(&there(4 * 1024 * 1024).get(&location, Some(&id)).await, 503));
    assert_eq!(there(16 * 1024 * 1024).status(&location, Some(&id)).await, 204);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_hangs_up_costs_no_more_of_redis() {
    let model = RedisModel::new();
    let (mut here, there) = (Process::on(model.clone()), Process::on(model.clone()));
    let (answer, mut body, location) = here.begin().await;
    let reading = tokio::spawn(rest(answer));
    for _ in 0..500 {
        say(&mut body, &format!("data: {}\n\n", "x".repeat(8_000))).await;
    }
    drop(body);
    assert!(reading.await.unwrap().1);
    // All of it is in Redis from here on.
    assert!(rest(there.get(&location, None).await).await.1);
    let before = model.operations();
    let back = there.get(&location, None).await;
    assert_eq!(back.status(), 200);
    drop(back);
    sleep(5 * SECS).await;
    let spent = model.operations() - before;
    assert!(spent < 15, "{spent} operations");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_now_is_to_be_asked_for_again() {
    let model = RedisModel::new();
    let (mut here, there) = (Process::with(model.clone(), 60 * SECS), Process::on(model.clone()));
    let request = Request::post("http://upstream/v1/chat/completions")
        .header("authorization", "Bearer caller")
        .header("prefer", "respond-async, wait=2");
    let answer = here.send(request.body(Full::from("hello")).unwrap()).await;
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    sleep(20 * MS).await;
    let outage = async {
        sleep(100 * MS).await;
        model.set_reachable(false);
    };
    let (back, ()) = tokio::join!(there.get(&location, None), outage);
    assert!(comes_later(&back, 502), "{back:?}");
    model.set_reachable(true);
    let writing = async {
        say(&mut here.bodies.recv().await.unwrap(), "data: late\n\n").await;
    };
    let (back, ()) = tokio::join!(there.get(&location, None), writing);
    assert_eq!(back.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn answers_are_offered_at_once_to_a_redis_that_was_restarted() {
    let model = RedisModel::new();
    let (mut here, there) = (Process::on(model.clone()), Process::on(model.clone()));
    let (mut answer, mut body, location) = here.begin().await;
    say(&mut body, "data: one\n\n").await;
    events(&mut answer, &["one"]).await;
    model.restart();
    sleep(2 * SECS).await;
    assert_eq!(there.status(&location, None).await, 200);
    drop(body);
    assert!(rest(answer).await.1);
    // It has ended, and no lease of it is renewed.
    sleep(20 * SECS).await;
    model.restart();
    sleep(2 * SECS).await;
    let (text, whole) = rest(there.get(&location, None).await).await;
    assert!(whole && text.contains("data: one\n"), "{text}");
}

#[tokio::test]
async fn answers_are_offered_at_once_to_a_real_redis_that_was_restarted() {
    let mut server = Server::start();
    let process = || Process::on(server.redis());
    let (mut here, there) = (process(), process());
    let (mut answer, mut body, location) = here.begin().await;
    say(&mut body, "data: one\n\n").await;
    events(&mut answer, &["one"]).await;
    server.kill();
    server.start_again();
    let found = async {
        while there.status(&location, None).await != 200 {
            sleep(50 * MS).await;
        }
    };
    // Well before the lease is renewed, and the answer told again.
    timeout(8 * SECS, found).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reader_without_news_of_an_answer_does_not_take_its_beginning_for_all_of_it() {
    let model = RedisModel::new();
    let faulty = Faulty::new(model.clone(), false, 3);
    let (mut here, there) = (Process::on(model), Process::on(faulty.clone()));
    let (mut answer, mut body, location) = here.begin().await;
    say(&mut body, "data: one\n\n").await;
    let id = events(&mut answer, &["one"]).await;
    let receiving = async {
        sleep(3 * SECS).await;
        faulty.hears.store(true, SeqCst);
    };
    let (back, ()) = tokio::join!(there.get(&location, Some(&id)), receiving);
    assert_eq!(back.status(), 200);
    // Who never hears anything cannot say that there is no more.
    let deaf = Process::on(Faulty::new(faulty.model, false, 0));
    assert!(comes_later(&deaf.get(&location, Some(&id)).await, 502));
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_is_not_heard_is_said_again_or_is_no_success() {
    let model = RedisModel::new();
    let (mut here, there) = (Process::on(model.clone()), Process::on(Faulty::new(model.clone(), true, 2)));
    let (_answer, mut body, location) = here.begin().await;
    assert_eq!(there.delete(&location).await, 204);
    assert!(body.send_data("data: two\n\n".into()).await.is_err(), "its upstream is dropped");
    let lost = Process::on(Faulty::new(model, true, 1000));
    let (_answer, mut body, location) = here.begin().await;
    let request = Request::delete(&location).body(Full::default()).unwrap();
    assert!(comes_later(&lost.send(request).await, 502));
    say(&mut body, "data: one\n\n").await;
    assert_eq!(there.delete(&location).await, 204, "the token still leads there");
    assert!(body.send_data("data: two\n\n".into()).await.is_err());
}

/// Gives the request of a claim to the test.
#[derive(Clone)]
struct Caught(mpsc::UnboundedSender<ClaimRequest>);

impl Store for Caught {
    type Lease = RedisLease;
    type Claim = Ready<Result<Claim<RedisLease>, BoxError>>;

    fn claim(&self, request: ClaimRequest) -> Self::Claim {
        self.0.send(request).unwrap();
        ready(Ok(Claim::full(None)))
    }
}

/// A call of a process, as the layer holds it, and the store of another.
async fn flight(model: &RedisModel) -> (RedisLease, Recorder, RedisStore<RedisModel>) {
    let (lease, recorder) = flight_at(RedisStore::new(model.clone())).await;
    (lease, recorder, RedisStore::new(model.clone()))
}

async fn flight_at<B: Backend>(here: RedisStore<B>) -> (RedisLease, Recorder) {
    let (sender, mut requests) = mpsc::unbounded_channel();
    let upstream =
        service_fn(async |_: Request<CallBody>| Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())));
    let service = DedupLayer::new().store(Caught(sender)).layer(upstream);
    let request = Request::post("/").header("authorization", "Bearer caller").body(Full::<Bytes>::default());
    service.oneshot(request.unwrap()).await.unwrap();
    match here.claim(requests.recv().await.unwrap()).await.unwrap() {
        Claim::Lead { lease, recorder, .. } => (lease, recorder),
        other => panic!("{other:?}"),
    }
}

fn offer(token: u8) -> AnswerOffer {
    let print = |byte| Fingerprint::from_bytes([byte; 32]);
    AnswerOffer::new(print(token), OfferedAnswer::new(7, print(3), true), 300 * SECS, Arc::new(|| ()))
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_given_out_after_the_end_is_known_everywhere() {
    let model = RedisModel::new();
    let (lease, recorder, there) = flight(&model).await;
    let offers = lease.offers().unwrap();
    recorder.finish();
    offers.ended();
    drop(lease);
    sleep(10 * SECS).await;
    offers.offer(offer(9));
    sleep(SECS).await;
    let found = || there.answers().unwrap().find(Fingerprint::from_bytes([9; 32]));
    assert_eq!(found().await.unwrap().map(|answer| answer.number), Some(7));
    // As long as the answer is read, counted from its end.
    sleep(290 * SECS).await;
    assert!(found().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_withdrawn_is_withdrawn_later() {
    let model = RedisModel::new();
    let (lease, recorder, there) = flight(&model).await;
    let offers = lease.offers().unwrap();
    offers.offer(offer(9));
    sleep(SECS).await;
    model.set_reachable(false);
    offers.withdraw();
    recorder.finish();
    drop((lease, offers));
    sleep(20 * SECS).await;
    let found = || there.answers().unwrap().find(Fingerprint::from_bytes([9; 32]));
    assert!(found().await.is_err());
    model.set_reachable(true);
    sleep(4 * SECS).await;
    assert!(found().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn all_tokens_of_an_answer_are_withdrawn_together() {
    let model = RedisModel::new();
    let slow = Faulty { takes: Duration::from_millis(90), ..Faulty::new(model.clone(), true, 0) };
    let (lease, recorder) = flight_at(RedisStore::new(slow)).await;
    let offers = lease.offers().unwrap();
    (0..16).for_each(|token| offers.offer(offer(token)));
    sleep(2 * SECS).await;
    let known = async || {
        let answers = RedisStore::new(model.clone()).answers().unwrap();
        let mut known = 0;
        for token in 0..16 {
            known += usize::from(answers.find(Fingerprint::from_bytes([token; 32])).await.unwrap().is_some());
        }
        known
    };
    assert_eq!(known().await, 16);
    // Told again: that the answer has ended.
    offers.ended();
    offers.withdraw();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(known().await, 0);
    drop((lease, recorder));
}
