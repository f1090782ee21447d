//! A store that several processes share, as far as the layer can tell.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use tokio::time::advance;
use tower::{Layer, ServiceExt};
use tower_buttress::error::{BoxError, DedupLagged, LeaderGone, find};
use tower_buttress::store::{
    BodyPart, Claim, ClaimRequest, Fingerprint, Head, Lease, MemoryStore, Recorder, ResponseLog, Retention, Store,
};
use tower_buttress::{DedupLayer, DedupRole, Rejection, RejectionKind};

use super::{RequestBody, dedup, next, post, post_key, role, send, settle, text, waits};
use crate::support::secs;

/// The store of one process over a backend that it shares with another. What the other one's calls record is fed into
/// logs of its own.
#[derive(Clone)]
struct OneOfTwo {
    backend: MemoryStore,
    /// Which process makes the call with this key.
    leaders: Arc<Mutex<HashMap<Fingerprint, usize>>>,
    process: usize,
}

/// Two processes, over one backend.
fn two() -> (OneOfTwo, OneOfTwo) {
    let (backend, leaders) = (MemoryStore::default(), Arc::default());
    let process = |process| OneOfTwo { backend: backend.clone(), leaders: Arc::clone(&leaders), process };
    (process(1), process(2))
}

impl Store for OneOfTwo {
    type Lease = <MemoryStore as Store>::Lease;
    type Claim = Ready<Result<Claim<Self::Lease>, BoxError>>;

    const HANDS_OVER: bool = true;

    fn claim(&self, request: ClaimRequest) -> Self::Claim {
        let mut leaders = self.leaders.lock().unwrap();
        let claim = self.backend.claim(request).into_inner();
        ready(claim.map(|claim| match claim {
            Claim::Follow(log) if leaders.get(request.key()) != Some(&self.process) => {
                let (recorder, fed) = request.open_log();
                tokio::spawn(feed(log, recorder));
                Claim::Follow(fed)
            }
            Claim::Lead { .. } => {
                leaders.insert(*request.key(), self.process);
                claim
            }
            claim => claim,
        }))
    }
}

/// Sends what one log says to another, as long as it has a reader there.
async fn feed(from: ResponseLog, mut to: Recorder) {
    let Some(mut source) = from.observer() else { return };
    source.listen(true);
    match poll_fn(|cx| source.poll_head(cx)).await {
        Ok(head) => to.head(copy(&head)),
        Err(_) => return to.fail(LeaderGone::new()),
    }
    loop {
        to.ready().await;
        match poll_fn(|cx| source.poll_part(cx)).await {
            Some(Ok(part)) => to.part(part),
            Some(Err(why)) => return to.fail(why),
            None => return to.finish(),
        }
        if to.log().listeners() == 0 {
            source.listen(false);
            return;
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A head as it comes out of a backend.
fn copy(head: &Head) -> Head {
    let copy = Head::new(head.status(), head.version(), head.headers().clone(), now());
    copy.with_age(head.age(now())).with_attempts(head.attempts())
}

#[cfg(feature = "store-suite")]
#[tokio::test(start_paused = true)]
async fn the_store_of_these_tests_holds_to_the_contract() {
    use tower_buttress::store::suite;

    suite::run(|| two().0).await;
    suite::run_shared(two).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_of_another_process_joins_and_keeps_the_call_going() {
    let (here, there) = two();
    let (here, mut stage) = dedup(&DedupLayer::new().store(here));
    let (there, mut other_stage) = dedup(&DedupLayer::new().store(there));
    let leader = send(&here, post("hi")).await;
    let say = stage.call().await.ok();
    say.data("one ");
    let mut leader = leader.await.unwrap().unwrap();
    assert_eq!(next(&mut leader).await, "one ");
    let mut follower = send(&there, post("hi")).await.await.unwrap().unwrap();
    assert_eq!(role(&follower), Some(DedupRole::Joined));
    assert_eq!(next(&mut follower).await, "one ");
    // Its own callers have left, for longer than the grace.
    drop(leader);
    settle().await;
    advance(secs(60)).await;
    settle().await;
    assert_eq!(stage.alive(), 1);
    say.data("two");
    say.end();
    assert_eq!(text(follower).await, "two");
    assert!(other_stage.is_quiet().await);
    assert_eq!(stage.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn when_the_caller_of_another_process_leaves_too_the_grace_begins() {
    let (here, there) = two();
    let (here, mut stage) = dedup(&DedupLayer::new().store(here).grace(secs(5)));
    let (there, _other_stage) = dedup(&DedupLayer::new().store(there));
    let leader = send(&here, post("hi")).await;
    let say = stage.call().await.ok();
    let leader = leader.await.unwrap().unwrap();
    let follower = send(&there, post("hi")).await.await.unwrap().unwrap();
    drop(leader);
    settle().await;
    advance(secs(60)).await;
    drop(follower);
    // The store notices with the next part.
    say.data("one");
    settle().await;
    assert_eq!(stage.alive(), 1);
    advance(secs(6)).await;
    settle().await;
    assert_eq!(stage.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn when_the_process_that_makes_a_call_dies_before_its_head_another_makes_it() {
    for key in [None, Some("k")] {
        let request = || key.map_or(post("hi"), |key| post_key(key, "hi"));
        let (here, there) = two();
        let (here, mut stage) = dedup(&DedupLayer::new().store(here).grace(secs(0)));
        let (there, mut other_stage) = dedup(&DedupLayer::new().store(there));
        let leader = send(&here, request()).await;
        let call = stage.call().await;
        let followers = [send(&there, request()).await, send(&there, request()).await];
        assert!(other_stage.is_quiet().await);
        call.fail("killed");
        leader.await.unwrap().unwrap_err();
        other_stage.call().await.ok_with("from there");
        let mut roles = Vec::new();
        for follower in followers {
            let answer = follower.await.unwrap().unwrap();
            roles.push(role(&answer).unwrap());
            assert_eq!(text(answer).await, "from there");
        }
        assert!(other_stage.is_quiet().await, "one of them makes the call, and the other joins it");
        roles.sort_by_key(|role| *role != DedupRole::Leader);
        assert_eq!(roles, [DedupRole::Leader, DedupRole::Joined]);
    }
}

/// A store all of whose calls are made by processes that die at once.
#[derive(Clone, Default)]
struct Doomed(Arc<AtomicUsize>);

impl Store for Doomed {
    type Lease = NoLease;
    type Claim = Ready<Result<Claim<NoLease>, BoxError>>;

    const HANDS_OVER: bool = true;

    fn claim(&self, request: ClaimRequest) -> Self::Claim {
        self.0.fetch_add(1, SeqCst);
        let (recorder, log) = request.open_log();
        tokio::spawn(async move { recorder.fail(LeaderGone::new()) });
        ready(Ok(Claim::Follow(log)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_processes_die_again_and_again_fails() {
    let store = Doomed::default();
    let (service, mut stage) = dedup(&DedupLayer::new().store(store.clone()));
    let answer = send(&service, post("hi")).await.await.unwrap().unwrap();
    assert_eq!(Rejection::of(&answer).unwrap().kind(), RejectionKind::SharedCallFailed);
    assert_eq!(store.0.load(SeqCst), 3);
    assert!(stage.is_quiet().await);
}

/// A store that cannot say what other processes have answered.
#[derive(Clone)]
struct Unreachable;

impl Store for Unreachable {
    type Lease = NoLease;
    type Claim = Ready<Result<Claim<NoLease>, BoxError>>;

    fn claim(&self, _: ClaimRequest) -> Self::Claim {
        ready(Err("the backend is unreachable".into()))
    }
}

#[tokio::test(start_paused = true)]
async fn with_strict_keys_a_key_that_others_may_have_used_is_refused_as_such() {
    let (service, mut stage) = dedup(&DedupLayer::new().store(Unreachable).strict_keys(true));
    let answer = send(&service, post_key("k", "hi")).await.await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    assert_eq!(Rejection::of(&answer).unwrap().kind(), RejectionKind::DedupStoreUnreachable);
    let told = text(answer).await;
    assert!(told.contains("unreachable") && !told.contains("full"), "{told}");
    assert!(stage.is_quiet().await);
}

/// A store whose calls are all made elsewhere: it is told of `parts` parts of 100 KiB, as fast as `waits` allows.
#[derive(Clone)]
struct Elsewhere {
    log: Arc<Mutex<Option<ResponseLog>>>,
    waits: bool,
}

const PARTS: usize = 200;

#[derive(Debug)]
struct NoLease;

impl Lease for NoLease {
    fn resize(&mut self, _: usize) -> bool {
        true
    }

    fn release(&mut self) {}

    fn keep(self, _: Retention) {}
}

impl Store for Elsewhere {
    type Lease = NoLease;
    type Claim = Ready<Result<Claim<NoLease>, BoxError>>;

    fn claim(&self, request: ClaimRequest) -> Self::Claim {
        let (mut recorder, log) = request.open_log();
        *self.log.lock().unwrap() = Some(log.clone());
        let waits = self.waits;
        tokio::spawn(async move {
            recorder.head(Head::new(StatusCode::OK, Version::HTTP_11, HeaderMap::new(), now()));
            for _ in 0..PARTS {
                if waits {
                    recorder.ready().await;
                }
                recorder.part(BodyPart::Data(vec![7; 100 * 1024].into()));
                tokio::task::yield_now().await;
            }
            recorder.finish();
        });
        ready(Ok(Claim::Follow(log)))
    }
}

impl Elsewhere {
    fn held_bytes(&self) -> usize {
        let shown = format!("{:?}", self.log.lock().unwrap().as_ref().unwrap());
        let bytes = shown.split("bytes: ").nth(1).unwrap().split(',').next().unwrap();
        bytes.parse().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_of_a_call_that_is_made_elsewhere_is_bounded() {
    for waits in [true, false] {
        let store = Elsewhere { log: Arc::default(), waits };
        let nowhere = tower::service_fn(|_: Request<RequestBody>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let service = DedupLayer::new().store(store.clone()).layer(nowhere);
        let mut body = service.oneshot(post("hi")).await.unwrap().into_body();
        let mut read = body.frame().await.unwrap().unwrap().into_data().unwrap().len();
        tokio::time::sleep(secs(60)).await;
        let limit = if waits { 1024 * 1024 } else { 2 * 1024 * 1024 };
        assert!(store.held_bytes() <= limit + 101 * 1024, "{} bytes are held", store.held_bytes());
        let end = loop {
            match body.frame().await {
                Some(Ok(frame)) => read += frame.into_data().unwrap().len(),
                end => break end,
            }
        };
        match end {
            // One that waits for its reader loses nothing, however slow that is.
            None => assert!(waits && read == PARTS * 100 * 1024, "{read}"),
            Some(Err(why)) => assert!(!waits && find::<DedupLagged>(&why).is_some(), "{why}"),
            Some(Ok(_)) => unreachable!(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_slowest_of_those_who_follow_elsewhere_holds_up_the_others_for_no_longer_than_the_lag() {
    let (here, there) = two();
    let (here, mut stage) = dedup(&DedupLayer::new().store(here).max_response(100_000).lag(secs(5)));
    let (there, _other_stage) = dedup(&DedupLayer::new().store(there).max_response(100_000).lag(secs(5)));
    let leader = send(&here, post("hi")).await;
    let say = stage.call().await.ok();
    let mut fast = leader.await.unwrap().unwrap();
    let mut stuck = send(&there, post("hi")).await.await.unwrap().unwrap();
    for _ in 0..100 {
        say.bytes(vec![7; 10_000].into());
    }
    say.end();
    let reading = tokio::spawn(async move { fast.body_mut().collect().await.unwrap().to_bytes().len() });
    settle().await;
    assert!(!reading.is_finished(), "no caller waits for the one elsewhere");
    advance(secs(5)).await;
    settle().await;
    assert_eq!(reading.await.unwrap(), 1_000_000);
    while !matches!(
        next(&mut stuck).await.as_str(),
        "end" | "error: this reader was too slow: the other readers of the shared answer waited 5s"
    ) {}
    assert!(!waits(&mut stuck));
}
