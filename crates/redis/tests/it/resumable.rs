//! Callers come back to their answer in another process than the one that makes the call.

use std::convert::Infallible;
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
use tower_buttress::{CallBody, DedupLayer, DedupRole, Resumable};
use tower_buttress_redis::backend::Backend;
use tower_buttress_redis::{Model, Redis, RedisStore};

use crate::support::Server;

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
        let resumable = Resumable::at("/answers").respond_async(true);
        let layer = DedupLayer::new().store(RedisStore::new(backend)).grace(Duration::ZERO).resumable(resumable);
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
        let request = Request::post("http://upstream/v1/chat/completions")
            .header("authorization", "Bearer caller")
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
    let model = Model::new();
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
async fn nobody_reads_it_without_its_token_or_as_another_tenant() {
    let model = Model::new();
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
    let model = Model::new();
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
    let model = Model::new();
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
    let model = Model::new();
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
    let model = Model::new();
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
    let again = Request::get(&location).header("prefer", "wait=1").body(Full::default()).unwrap();
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
    let model = Model::new();
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
    let model = Model::new();
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
