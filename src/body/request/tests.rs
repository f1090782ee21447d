use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Empty, Full};
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::CallBody;
use super::{ReadState, Resend};
use crate::body::boxed::Polled;
use crate::call::Memory;
use crate::error::{self, BoxError, ReplayUnavailable};

const MIB: usize = 1024 * 1024;

#[derive(Clone, Debug)]
enum Step {
    Data(Bytes),
    /// Nothing yet; asks to be polled again.
    Pending,
    Trailers,
    Fail,
    Panic,
}

/// A body that follows a script, and says what it knows of its length or nothing.
#[derive(Debug)]
struct Script {
    steps: VecDeque<Step>,
    sized: bool,
    alive: Arc<()>,
    over: bool,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), sized: false, alive: Arc::default(), over: false }
    }

    fn parts(parts: &[&'static str]) -> Self {
        Self::new(parts.iter().map(|part| Step::Data(Bytes::from_static(part.as_bytes()))))
    }

    fn sized(mut self) -> Self {
        self.sized = true;
        self
    }

    fn with(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("sum"))])
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        assert!(!self.over, "polled after its end");
        let step = self.steps.pop_front();
        self.over = matches!(step, None | Some(Step::Fail));
        Poll::Ready(match step {
            Some(Step::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Step::Pending) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Trailers) => Some(Ok(Frame::trailers(trailers()))),
            Some(Step::Fail) => Some(Err("cut")),
            Some(Step::Panic) => panic!("by script"),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.sized && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.steps.iter().map(|step| if let Step::Data(data) = step { data.len() as u64 } else { 0 }).sum();
        if self.sized { SizeHint::with_exact(left) } else { SizeHint::default() }
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn poll(body: &mut CallBody, waker: &Waker) -> Polled {
    Pin::new(body).poll_frame(&mut Context::from_waker(waker))
}

async fn next(body: &mut CallBody) -> String {
    match body.frame().await {
        Some(Ok(frame)) => match frame.into_data() {
            Ok(data) => String::from_utf8_lossy(&data).into_owned(),
            Err(_) => "trailers".into(),
        },
        Some(Err(err)) if error::find::<ReplayUnavailable>(&err).is_some() => "unavailable".into(),
        Some(Err(err)) => format!("error: {err}"),
        None => "end".into(),
    }
}

async fn all(mut body: CallBody) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        seen.push(next(&mut body).await);
        if ["end", "unavailable"].contains(&seen[seen.len() - 1].as_str()) || seen[seen.len() - 1].starts_with("error")
        {
            return seen;
        }
    }
}

/// What makes the attempts at a request with this body and these headers; `None` if it cannot be repeated.
fn split<B>(body: B, limit: usize, headers: HeaderMap) -> Option<Resend>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut request = Request::new(CallBody::new(body));
    *request.headers_mut() = headers;
    Resend::keep(&mut request, limit, &Memory::default())
}

fn resend(script: Script, limit: usize) -> Resend {
    split(script, limit, HeaderMap::new()).unwrap()
}

fn channel() -> (Sender<Bytes>, Resend) {
    let (sender, body) = Channel::new(16);
    (sender, split(body, MIB, HeaderMap::new()).unwrap())
}

fn kind(body: &CallBody) -> String {
    format!("{body:?}").split('"').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn any_number_of_copies_read_the_same() {
    let resend = resend(Script::parts(&["a", "b"]).with(Step::Trailers), MIB);
    for _ in 0..3 {
        assert_eq!(all(resend.body()).await, ["a", "b", "trailers", "end"]);
    }
    assert_eq!(resend.state(), ReadState::Whole);
    assert_eq!(resend.whole_body().unwrap(), "ab");
}

#[tokio::test]
async fn what_is_kept_is_shared_and_not_copied() {
    let prompt = Bytes::from(vec![b'x'; MIB]);
    let script = Script::new([Step::Data(prompt.slice(..MIB / 2)), Step::Data(prompt.slice(MIB / 2..))]);
    let resend = resend(script, MIB);
    for _ in 0..3 {
        let mut copy = resend.body();
        let half = copy.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(half.as_ptr(), prompt.as_ptr());
        let half = copy.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(half.as_ptr(), prompt[MIB / 2..].as_ptr());
    }
}

#[tokio::test]
async fn a_copy_goes_on_where_an_attempt_stopped_reading() {
    let resend = resend(Script::parts(&["a", "b", "c"]), MIB);
    let mut first = resend.body();
    assert_eq!(resend.state(), ReadState::Unread);
    assert_eq!(next(&mut first).await, "a");
    assert_eq!(resend.state(), ReadState::Partial);
    drop(first);
    let mut second = resend.body();
    assert_eq!(next(&mut second).await, "a");
    assert_eq!(next(&mut second).await, "b");
    assert_eq!(all(resend.body()).await, ["a", "b", "c", "end"]);
}

#[tokio::test]
async fn an_attempt_that_still_holds_its_copy_is_woken_with_an_error() {
    let (mut sender, resend) = channel();
    let mut first = resend.body();
    sender.send_data("a".into()).await.unwrap();
    assert_eq!(next(&mut first).await, "a");
    let wakes = Arc::new(Wakes::default());
    assert!(poll(&mut first, &wakes.clone().into()).is_pending());

    let mut second = resend.body();
    assert_eq!(wakes.0.load(SeqCst), 1);
    assert_eq!(next(&mut first).await, "unavailable");
    assert_eq!(next(&mut first).await, "end");
    assert_eq!(next(&mut second).await, "a");
    sender.send_data("b".into()).await.unwrap();
    assert_eq!(next(&mut second).await, "b");
    drop(sender);
    assert_eq!(next(&mut second).await, "end");
}

#[tokio::test]
async fn the_new_reader_is_woken_by_the_body() {
    let (mut sender, resend) = channel();
    let mut first = resend.body();
    assert!(poll(&mut first, Waker::noop()).is_pending());
    let mut second = resend.body();
    let reading = tokio::spawn(async move { next(&mut second).await });
    tokio::task::yield_now().await;
    sender.send_data("a".into()).await.unwrap();
    assert_eq!(reading.await.unwrap(), "a");
}

#[tokio::test]
async fn beyond_the_limit_it_streams_on_untouched() {
    let resend = resend(Script::parts(&["abc", "de", "f"]).with(Step::Trailers), 4);
    assert_eq!(all(resend.body()).await, ["abc", "de", "f", "trailers", "end"]);
    assert_eq!(resend.state(), ReadState::TooLarge);
    assert_eq!(resend.whole_body(), None);
}

#[tokio::test]
async fn exactly_the_limit_is_kept() {
    let resend = resend(Script::parts(&["abc", "d"]), 4);
    assert_eq!(all(resend.body()).await, ["abc", "d", "end"]);
    assert_eq!(all(resend.body()).await, ["abc", "d", "end"]);
}

#[test]
fn a_body_that_says_it_is_larger_is_given_back() {
    assert!(split(Full::new(Bytes::from_static(b"abcde")), 4, HeaderMap::new()).is_none());
    assert!(split(Full::new(Bytes::from_static(b"abcd")), 4, HeaderMap::new()).is_some());
}

/// Bytes that can be asked whether they are still held.
fn tracked(len: usize) -> (Bytes, impl Fn() -> bool) {
    struct Owner(Vec<u8>, #[allow(dead_code)] Arc<()>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let alive = Arc::new(());
    let watched = alive.clone();
    (Bytes::from_owner(Owner(vec![b'x'; len], alive)), move || Arc::strong_count(&watched) > 1)
}

#[tokio::test]
async fn beyond_the_limit_nothing_is_kept() {
    let (data, held) = tracked(MIB);
    let resend = resend(Script::new([Step::Data(data)]).with(Step::Data("x".into())), MIB);
    let mut copy = resend.body();
    drop(copy.frame().await);
    assert!(held());
    drop(copy.frame().await);
    assert!(!held());
}

#[tokio::test]
async fn when_the_call_is_over_nothing_is_kept() {
    let ((a, holds_a), (b, holds_b)) = (tracked(10), tracked(10));
    let resend = resend(Script::new([Step::Data(a), Step::Data(b), Step::Data("c".into())]), MIB);
    drop(all(resend.body()).await);
    let mut copy = resend.body();
    assert_eq!(next(&mut copy).await.len(), 10);
    drop(resend);
    assert!(!holds_a(), "has been replayed");
    assert!(holds_b(), "has not");
    assert_eq!(next(&mut copy).await.len(), 10);
    assert!(!holds_b());
    assert_eq!(all(copy).await, ["c", "end"]);
}

#[tokio::test]
async fn when_the_call_is_over_the_rest_streams_on() {
    let (mut sender, resend) = channel();
    let mut copy = resend.body();
    sender.send_data("a".into()).await.unwrap();
    assert_eq!(next(&mut copy).await, "a");
    drop(resend);
    sender.send_data("b".into()).await.unwrap();
    assert_eq!(next(&mut copy).await, "b");
    assert_eq!(kind(&copy), "boxed");
    drop(sender);
    assert_eq!(next(&mut copy).await, "end");
}

#[tokio::test]
async fn a_late_reader_cannot_read_away_what_another_is_to_have() {
    let resend = resend(Script::parts(&["abc", "de", "f"]), 4);
    let mut old = resend.body();
    assert_eq!(next(&mut old).await, "abc");
    assert_eq!(resend.take_over(), ReadState::Partial);
    // A connection that has not noticed that its attempt is over:
    assert_eq!(next(&mut old).await, "unavailable");
    assert_eq!(all(resend.body()).await, ["abc", "de", "f", "end"]);
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_left_to_its_reader() {
    let resend = resend(Script::parts(&["abc", "de", "f"]), 4);
    let mut old = resend.body();
    assert_eq!(next(&mut old).await, "abc");
    assert_eq!(next(&mut old).await, "de");
    assert_eq!(resend.take_over(), ReadState::TooLarge);
    assert_eq!(all(old).await, ["f", "end"]);
}

#[tokio::test]
async fn the_body_inside_is_dropped_when_it_is_over() {
    for (last, seen) in [(Step::Trailers, "trailers"), (Step::Fail, "error: cut")] {
        let script = Script::parts(&["a"]).with(last);
        let alive = script.alive.clone();
        let resend = resend(script, MIB);
        let mut copy = resend.body();
        assert_eq!(next(&mut copy).await, "a");
        assert_eq!(next(&mut copy).await, seen);
        assert_eq!(Arc::strong_count(&alive), 1);
        assert_eq!(next(&mut copy).await, "end");
        assert_eq!(next(&mut copy).await, "end");
    }
}

#[tokio::test]
async fn a_body_that_failed_cannot_be_sent_again() {
    let resend = resend(Script::parts(&["a"]).with(Step::Fail), MIB);
    assert_eq!(all(resend.body()).await, ["a", "error: cut"]);
    assert_eq!(resend.state(), ReadState::Failed);
    assert_eq!(all(resend.body()).await, ["a", "unavailable"]);
}

#[tokio::test]
async fn a_body_that_panicked_is_not_lost_to_the_others() {
    let resend = resend(Script::parts(&["a"]).with(Step::Panic).with(Step::Data("b".into())), MIB);
    let mut first = resend.body();
    assert_eq!(next(&mut first).await, "a");
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll(&mut first, Waker::noop()))).is_err());
    assert_eq!(all(resend.body()).await, ["a", "b", "end"]);
}

#[tokio::test]
async fn an_empty_body_is_empty_in_every_copy() {
    let resend = split(Full::new(Bytes::new()), MIB, HeaderMap::new()).unwrap();
    assert_eq!(resend.state(), ReadState::Whole);
    for _ in 0..2 {
        let copy = resend.body();
        assert!(copy.is_end_stream());
        assert_eq!(copy.size_hint().exact(), Some(0));
        assert_eq!(all(copy).await, ["end"]);
    }
}

#[tokio::test]
async fn the_end_of_a_body_of_known_length_need_not_be_polled() {
    let resend = resend(Script::parts(&["ab", "c"]).sized(), MIB);
    let mut copy = resend.body();
    next(&mut copy).await;
    assert!(!copy.is_end_stream());
    assert_eq!(resend.state(), ReadState::Partial);
    next(&mut copy).await;
    assert!(copy.is_end_stream());
    assert_eq!(resend.state(), ReadState::Whole);
}

#[tokio::test]
async fn the_head_may_say_how_long_the_body_is() {
    let says = |length: &'static str| HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static(length))]);
    let resend = split(Script::parts(&["ab", "c"]), MIB, says("3")).unwrap();
    let mut copy = resend.body();
    next(&mut copy).await;
    assert_eq!(resend.state(), ReadState::Partial);
    next(&mut copy).await;
    // A sender stops here, whatever the body has to say.
    assert_eq!(resend.state(), ReadState::Whole);
    assert_eq!(copy.size_hint().exact(), None, "what the body says of itself is left as it is");

    assert!(split(Script::parts(&["abcde"]), 4, says("5")).is_none());
    for odd in ["", "-3", "3, 3", "99999999999999999999999"] {
        let resend = split(Script::parts(&["abc"]), 4, says(odd)).unwrap();
        assert_eq!(all(resend.body()).await, ["abc", "end"]);
    }
}

#[tokio::test]
async fn single_bytes_do_not_pin_a_buffer_each() {
    let buffers: Vec<_> = (0..1_000).map(|_| tracked(8 * 1024)).collect();
    let steps = buffers.iter().map(|(buffer, _)| Step::Data(buffer.slice(..1))).collect::<Vec<_>>();
    let resend = resend(Script::new(steps), MIB);
    assert_eq!(all(resend.body()).await.len(), 1_001);
    let held: Vec<_> = buffers.into_iter().map(|(_, held)| held).collect();
    assert_eq!(held.iter().filter(|held| held()).count(), 64);
    let copy = all(resend.body()).await;
    assert_eq!(copy.concat(), "x".repeat(1_000) + "end");
    assert_eq!(copy.len(), 66, "64 as they came, one joined, and the end");
}

#[tokio::test]
async fn frames_without_data_are_passed_and_not_kept() {
    let resend = resend(Script::parts(&["", "a", "", ""]), MIB);
    assert_eq!(all(resend.body()).await, ["", "a", "", "", "end"]);
    assert_eq!(all(resend.body()).await, ["a", "end"]);
}

#[tokio::test]
async fn live_and_whole_bodies_are_bodies_like_any_other() {
    let boxed = CallBody::new(Script::parts(&["abc"]).sized().with(Step::Trailers));
    assert_eq!(boxed.size_hint().exact(), Some(3));
    assert!(!boxed.is_end_stream());
    assert_eq!(all(boxed).await, ["abc", "trailers", "end"]);
    let whole = CallBody::from("abc");
    assert_eq!(whole.size_hint().exact(), Some(3));
    assert!(!whole.is_end_stream());
    assert_eq!(all(whole).await, ["abc", "end"]);
    let with_trailers = CallBody::whole("abc".into(), Some(trailers()));
    assert_eq!((with_trailers.size_hint().lower(), with_trailers.size_hint().exact()), (3, None));
    assert_eq!(all(with_trailers).await, ["abc", "trailers", "end"]);
    let failed = CallBody::failed("cut".into());
    assert!(!failed.is_end_stream());
    assert_eq!(all(failed).await, ["error: cut"]);
}

#[tokio::test]
async fn what_needs_no_box_gets_none() {
    let data = Bytes::from(vec![b'x'; 100]);
    let mut full = CallBody::new(Full::new(data.clone()));
    assert_eq!(kind(&full), "whole");
    assert_eq!(full.frame().await.unwrap().unwrap().into_data().unwrap().as_ptr(), data.as_ptr());
    for empty in [CallBody::new(Full::new(Bytes::new())), CallBody::new(Empty::<Bytes>::new()), CallBody::empty()] {
        assert!(empty.is_end_stream());
        assert_eq!(empty.size_hint().exact(), Some(0));
    }
    // It is the same body, however many layers wrap it.
    let boxed = CallBody::new(CallBody::new(CallBody::new(Script::parts(&["abc"]))));
    assert_eq!(kind(&boxed), "boxed");
    assert_eq!(kind(&CallBody::new(full)), "whole");
}

#[test]
fn debug_shows_no_content() {
    let (_sender, resend) = channel();
    let recorded = resend.body();
    let bodies = [
        CallBody::from("my secret diary"),
        CallBody::new(Script::parts(&["my secret diary"])),
        CallBody::failed("refused".into()),
        recorded,
    ];
    for body in bodies {
        assert!(!format!("{body:?}").contains("secret"), "{body:?}");
    }
    let mut request = Request::new(CallBody::from("my secret diary"));
    request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer secret"));
    let resend = Resend::keep(&mut request, MIB, &Memory::default()).unwrap();
    assert!(!format!("{resend:?}").contains("secret"), "{resend:?}");
}

#[test]
fn copies_are_send_sync_and_unpin() {
    fn check<T: Send + Sync + Unpin>() {}
    check::<CallBody>();
    check::<Resend>();
}

#[test]
fn a_copy_that_comes_while_the_body_is_polled_waits_for_it_and_misses_nothing() {
    /// Tells that it is being polled, and then takes its time.
    struct Slow(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<Polled>);
    impl Body for Slow {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
            self.0.send(()).unwrap();
            self.1.recv().unwrap()
        }
    }
    type Expected = fn(&Polled) -> bool;
    let outcomes: [(Polled, Expected); 3] = [
        (Poll::Ready(Some(Ok(Frame::data("a".into())))), |next| matches!(next, Poll::Ready(Some(Ok(_))))),
        (Poll::Ready(None), |next| matches!(next, Poll::Ready(None))),
        (Poll::Ready(Some(Err("cut".into()))), |next| matches!(next, Poll::Ready(Some(Err(_))))),
    ];
    for (outcome, expected) in outcomes {
        let ((entered, is_entered), (go, gone)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let Some(resend) = split(Slow(entered, gone), MIB, HeaderMap::new()) else { panic!("no length, no limit") };
        let mut first = resend.body();
        std::thread::scope(|scope| {
            let old = scope.spawn(move || poll(&mut first, Waker::noop()));
            is_entered.recv().unwrap();
            let mut second = resend.body();
            let wakes = Arc::new(Wakes::default());
            assert!(poll(&mut second, &wakes.clone().into()).is_pending());
            assert_eq!(wakes.0.load(SeqCst), 0);
            go.send(outcome).unwrap();
            assert!(matches!(old.join().unwrap(), Poll::Ready(Some(Err(_)))));
            assert_eq!(wakes.0.load(SeqCst), 1);
            let next = poll(&mut second, Waker::noop());
            assert!(expected(&next), "{next:?}");
        });
    }
}

#[tokio::test]
async fn a_body_that_is_all_there_is_not_recorded() {
    for body in [CallBody::from("hello"), CallBody::new(Script::parts(&["hello"]).sized())] {
        let resend = split(body, MIB, HeaderMap::new()).unwrap();
        assert_eq!(resend.state(), ReadState::Whole);
        for _ in 0..2 {
            let mut copy = resend.body();
            assert_eq!((kind(&copy).as_str(), copy.size_hint().exact()), ("whole", Some(5)));
            assert_eq!(next(&mut copy).await, "hello");
            assert!(copy.is_end_stream());
        }
    }
}

#[tokio::test]
async fn looking_changes_nothing() {
    let scripts: [fn() -> Script; 6] = [
        || Script::parts(&["a", "b"]),
        || Script::parts(&["a"]).with(Step::Trailers),
        || Script::new([Step::Pending, Step::Data("a".into())]),
        || Script::new([Step::Trailers]),
        || Script::new([Step::Fail]),
        || Script::parts(&["a"]).with(Step::Fail),
    ];
    for script in scripts {
        let plain = all(CallBody::new(script().sized())).await;
        let resend = split(script().sized(), MIB, HeaderMap::new()).unwrap();
        assert_eq!(all(resend.body()).await, plain);
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_not_looked_at() {
    let untouched = Script::parts(&["a"]);
    let resend = split(untouched, MIB, HeaderMap::new()).unwrap();
    assert_eq!(resend.state(), ReadState::Unread);
    assert!(resend.whole_body().is_none());
}

#[test]
fn a_body_that_its_client_holds_back_is_not_looked_at() {
    let expects = HeaderMap::from_iter([(EXPECT, HeaderValue::from_static("100-continue"))]);
    let panics_when_polled = Script::new([Step::Panic]).sized();
    let resend = split(panics_when_polled, MIB, expects).unwrap();
    assert_eq!(resend.state(), ReadState::Unread);
}

#[tokio::test]
async fn looking_is_not_reading() {
    let resend = split(Script::parts(&["a", "b"]).sized(), MIB, HeaderMap::new()).unwrap();
    assert_eq!(resend.state(), ReadState::Unread);
    let mut copy = resend.body();
    assert_eq!(next(&mut copy).await, "a");
    assert_eq!(resend.state(), ReadState::Partial);
}

/// Two threads: one goes on reading a copy that is taken over at any moment, the other reads the one that took over.
#[test]
fn a_body_can_be_taken_over_while_it_is_being_polled() {
    const FRAMES: u8 = 200;
    for round in 0..300_usize {
        let steps = (0..FRAMES).flat_map(|n| [Step::Data(Bytes::from(vec![b'0' + n % 10])), Step::Pending]);
        let resend = Arc::new(resend(Script::new(steps.collect::<Vec<_>>()), MIB));
        let mut first = resend.body();
        let read = |mut body: CallBody| futures_util::future::poll_fn(move |cx| poll(&mut body, cx.waker()));
        std::thread::scope(|scope| {
            let old = scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async { while let Some(Ok(_)) = first.frame().await {} });
            });
            for _ in 0..round * 7 {
                std::hint::spin_loop();
            }
            let mut seen = Vec::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut read = pin!(read(resend.body()));
                while let Some(frame) = read.as_mut().await {
                    seen.extend_from_slice(&frame.unwrap().into_data().unwrap());
                }
            });
            let expected: Vec<u8> = (0..FRAMES).map(|n| b'0' + n % 10).collect();
            assert_eq!(seen, expected);
            old.join().unwrap();
        });
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..64_usize).prop_map(|len| Step::Data(vec![b'a'; len].into())),
        1 => (0..20_000_usize).prop_map(|len| Step::Data(vec![b'b'; len].into())),
        1 => any::<bool>().prop_map(|_| Step::Pending),
    ];
    proptest::collection::vec(step, 0..120)
}

fn data_of(steps: &[Step]) -> Vec<u8> {
    steps
        .iter()
        .filter_map(|step| if let Step::Data(data) = step { Some(&data[..]) } else { None })
        .flatten()
        .copied()
        .collect()
}

proptest! {
    /// Whatever earlier attempts have read, and whether or not they let go of it, the last one reads all, with the
    /// trailers, and its length is right at each step.
    #[test]
    fn the_last_attempt_reads_everything(
        steps in steps(), trailing in any::<bool>(), sized in any::<bool>(),
        attempts in proptest::collection::vec((0..200_usize, any::<bool>()), 0..4), limit in 0..200_000_usize,
    ) {
        let expected = data_of(&steps);
        let mut script = Script::new(steps);
        script.sized = sized;
        if trailing {
            script = script.with(Step::Trailers);
        }
        let Some(resend) = split(script, limit, HeaderMap::new()) else {
            prop_assert!(sized && expected.len() > limit);
            return Ok(());
        };
        let mut still_held = Vec::new();
        for (frames, hold) in attempts {
            if resend.state() == ReadState::TooLarge {
                break;
            }
            let mut copy = resend.body();
            for _ in 0..frames {
                let _ = poll(&mut copy, Waker::noop());
            }
            if hold {
                still_held.push(copy);
            }
        }
        let lost = resend.state() == ReadState::TooLarge;
        prop_assert!(!lost || expected.len() > limit);
        if lost {
            return Ok(());
        }

        let mut copy = resend.body();
        let (mut seen, mut trailers_seen) = (Vec::new(), 0);
        loop {
            if sized {
                prop_assert_eq!(copy.size_hint().exact(), Some((expected.len() - seen.len()) as u64));
            }
            if copy.is_end_stream() {
                prop_assert_eq!(seen.len(), expected.len());
                prop_assert_eq!(trailers_seen, usize::from(trailing));
            }
            match poll(&mut copy, Waker::noop()) {
                Poll::Pending => {}
                Poll::Ready(None) => break,
                Poll::Ready(Some(frame)) => match frame.unwrap().into_data() {
                    Ok(data) => seen.extend_from_slice(&data),
                    Err(_) => trailers_seen += 1,
                },
            }
        }
        prop_assert!(seen == expected);
        prop_assert_eq!(trailers_seen, usize::from(trailing));
        match resend.whole_body() {
            Some(bytes) => prop_assert!(bytes == expected && expected.len() <= limit),
            None => prop_assert!(expected.len() > limit),
        }
    }
}
