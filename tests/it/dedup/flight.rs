//! Several callers, one call.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::error::{self, SharedError};
use tower_buttress::{
    Attempts, CallBody, Deadline, DedupLayer, DedupRole, Event, Rejection, RejectionKind, RetryAfterBackoffLayer,
    RetryReport,
};

use super::{Broken, dedup, next, post, post_key, role, send, settle, starts_a_new_call, text, waits};
use crate::support::{Log, secs, trailers};

#[tokio::test(start_paused = true)]
async fn a_second_caller_receives_everything_from_the_first_byte_and_then_live() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let first = send(&service, post("hi")).await;
    let call = stage.call().await;
    let say = call.answer(Response::builder().status(201).header("x-model", "m").body(()).unwrap());
    say.data("one");
    say.data("two");
    let mut first = first.await.unwrap().unwrap();
    assert_eq!(next(&mut first).await, "one");
    assert_eq!(next(&mut first).await, "two");
    assert!(waits(&mut first));

    let mut second = send(&service, post("hi")).await.await.unwrap().unwrap();
    assert_eq!((second.status().as_u16(), &second.headers()["x-model"]), (201, &"m".parse().unwrap()));
    assert_eq!(next(&mut second).await, "one");
    assert_eq!(next(&mut second).await, "two");
    assert!(waits(&mut second));

    say.data("three");
    say.trailers(trailers());
    say.end();
    for answer in [&mut second, &mut first] {
        assert_eq!(next(answer).await, "three");
        assert_eq!(next(answer).await, "trailers");
        assert_eq!(next(answer).await, "end");
    }
    assert_eq!((role(&first), role(&second)), (Some(DedupRole::Leader), Some(DedupRole::Joined)));
    assert!(stage.is_quiet().await);
    assert_eq!(stage.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn frames_and_trailers_are_the_same_for_all() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let calls = [send(&service, post("hi")).await, send(&service, post("hi")).await];
    let say = stage.call().await.ok();
    // Long enough to be shared and not copied.
    let data = Bytes::from(vec![b'x'; 10_000]);
    say.bytes(data.clone());
    say.trailers(trailers());
    say.end();
    for call in calls {
        let mut body = call.await.unwrap().unwrap().into_body();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.as_ptr(), data.as_ptr(), "it was copied");
        assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers());
        assert!(body.is_end_stream() || body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn two_keys_at_once_do_not_mix() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let a = [send(&service, post_key("a", "hi")).await, send(&service, post_key("a", "hi")).await];
    let b = [send(&service, post_key("b", "hi")).await, send(&service, post_key("b", "hi")).await];
    stage.call().await.ok_with("to a");
    stage.call().await.ok_with("to b");
    for call in a {
        assert_eq!(text(call.await.unwrap().unwrap()).await, "to a");
    }
    for call in b {
        assert_eq!(text(call.await.unwrap().unwrap()).await, "to b");
    }
    assert!(stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn when_the_leader_leaves_before_the_head_the_others_get_it() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let leader = send(&service, post("hi")).await;
    let call = stage.call().await;
    let follower = send(&service, post("hi")).await;
    leader.abort();
    settle().await;
    assert_eq!(stage.alive(), 1);
    call.ok_with("hello");
    let answer = follower.await.unwrap().unwrap();
    assert_eq!(role(&answer), Some(DedupRole::Joined));
    assert_eq!(text(answer).await, "hello");
    assert!(stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn when_the_leader_leaves_mid_stream_the_others_hear_it_all() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    say.data("one ");
    let mut leader = leader.await.unwrap().unwrap();
    let follower = send(&service, post("hi")).await.await.unwrap().unwrap();
    next(&mut leader).await;
    drop(leader);
    let follower = tokio::spawn(text(follower));
    settle().await;
    say.data("two");
    say.end();
    assert_eq!(follower.await.unwrap(), "one two");
    assert_eq!(stage.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn when_a_follower_leaves_nothing_happens() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let leader = send(&service, post("hi")).await;
    let follower = send(&service, post("hi")).await;
    follower.abort();
    let say = stage.call().await.ok();
    let mut leader = leader.await.unwrap().unwrap();
    let mut follower = send(&service, post("hi")).await.await.unwrap().unwrap();
    assert!(waits(&mut follower));
    drop(follower);
    say.data("one");
    assert_eq!(next(&mut leader).await, "one");
    say.end();
    assert_eq!(next(&mut leader).await, "end");
}

#[tokio::test(start_paused = true)]
async fn when_all_have_left_the_upstream_is_dropped_after_the_grace_and_not_before() {
    for before_the_head in [true, false] {
        let log = Arc::new(Log::default());
        let (service, mut stage) = dedup(&DedupLayer::new().grace(secs(5)).observer(log.clone()));
        let calls = [send(&service, post("hi")).await, send(&service, post("hi")).await];
        let call = stage.call().await;
        if before_the_head {
            calls.into_iter().for_each(|call| call.abort());
        } else {
            let say = call.ok();
            say.data("one");
            for call in calls {
                drop(call.await.unwrap().unwrap());
            }
        }
        settle().await;
        advance(Duration::from_millis(4_999)).await;
        settle().await;
        assert_eq!(stage.alive(), 1);
        advance(Duration::from_millis(2)).await;
        settle().await;
        assert_eq!(stage.alive(), 0);
        assert!(log.names().contains(&"flight_abandoned: dedup".to_owned()));

        // The next caller starts a new call.
        starts_a_new_call(&service, &mut stage, post("hi")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_within_the_grace_takes_the_call_over() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    drop(leader.await.unwrap().unwrap());
    for round in 0..3 {
        advance(secs(4)).await;
        // Data without a listener is recorded.
        say.data("more ");
        settle().await;
        assert_eq!(say.untaken(), 0, "no caller polls the upstream in round {round}");
        // A browser tries again, and leaves again: the grace begins anew.
        let again = send(&service, post("hi")).await.await.unwrap().unwrap();
        assert_eq!(role(&again), Some(DedupRole::Joined));
        advance(secs(60)).await;
        settle().await;
        assert_eq!(stage.alive(), 1);
        drop(again);
        settle().await;
    }
    let last = send(&service, post("hi")).await.await.unwrap().unwrap();
    say.end();
    assert_eq!(text(last).await, "more more more ");
    assert!(stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn the_grace_ends_even_if_the_upstream_never_stops_talking() {
    let (service, mut stage) = dedup(&DedupLayer::new().max_response(100_000));
    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    drop(leader.await.unwrap().unwrap());
    settle().await;
    // More than can be recorded: no caller can ever join.
    for _ in 0..1_000 {
        say.bytes(Bytes::from(vec![0; 1_000]));
    }
    settle().await;
    assert_eq!(stage.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_grace_the_upstream_is_dropped_at_once() {
    let (service, mut stage) = dedup(&DedupLayer::new().grace(Duration::ZERO));
    let leader = send(&service, post("hi")).await;
    let _say = stage.call().await.ok();
    drop(leader.await.unwrap().unwrap());
    assert_eq!(stage.alive(), 0);
}

#[test]
fn without_a_runtime_the_upstream_is_dropped_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (answer, stage, _say) = runtime.block_on(async {
        let (service, mut stage) = dedup(&DedupLayer::new());
        let leader = send(&service, post("hi")).await;
        let say = stage.call().await.ok();
        (leader.await.unwrap().unwrap(), stage, say)
    });
    drop(answer);
    assert_eq!(stage.alive(), 0);
}

#[test]
fn a_runtime_that_ends_drops_the_upstream() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (stage, _say) = runtime.block_on(async {
        let (service, mut stage) = dedup(&DedupLayer::new());
        let leader = send(&service, post("hi")).await;
        let say = stage.call().await.ok();
        drop(leader.await.unwrap().unwrap());
        settle().await;
        (stage, say)
    });
    assert_eq!(stage.alive(), 1);
    drop(runtime);
    assert_eq!(stage.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_abandoned_may_be_finished_and_replayed() {
    let (service, mut stage) = dedup(&DedupLayer::new().finish_abandoned(true));
    let leader = send(&service, post("hi")).await;
    let call = stage.call().await;
    leader.abort();
    settle().await;
    advance(secs(600)).await;
    call.ok_with("done");
    settle().await;
    assert_eq!(stage.alive(), 0);
    let later = send(&service, post("hi")).await.await.unwrap().unwrap();
    assert_eq!(role(&later), Some(DedupRole::Replayed));
    assert_eq!(text(later).await, "done");
}

#[tokio::test(start_paused = true)]
async fn what_is_abandoned_may_be_finished_even_if_it_cannot_be_recorded() {
    let (service, mut stage) = dedup(&DedupLayer::new().finish_abandoned(true).max_response(100));
    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    drop(leader.await.unwrap().unwrap());
    for _ in 0..1_000 {
        say.data("a line of text");
        settle().await;
    }
    assert_eq!((say.untaken(), stage.alive()), (0, 1));
    say.end();
    settle().await;
    assert_eq!(stage.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_before_the_head_reaches_everyone() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let leader = send(&service, post("hi")).await;
    let followers = [send(&service, post("hi")).await, send(&service, post("hi")).await];
    stage.call().await.fail("connection refused");
    // The leader's error is its service's own.
    assert_eq!(leader.await.unwrap().unwrap_err(), Broken("connection refused"));
    for follower in followers {
        let answer = follower.await.unwrap().unwrap();
        assert_eq!(answer.status(), 502);
        assert_eq!(Rejection::of(&answer).unwrap().kind(), RejectionKind::SharedCallFailed);
    }
    // It is no answer: the next caller starts a new call.
    starts_a_new_call(&service, &mut stage, post("hi")).await;
    assert_eq!(stage.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_reaches_followers_whose_leader_has_left() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let leader = send(&service, post("hi")).await;
    let follower = send(&service, post("hi")).await;
    leader.abort();
    settle().await;
    stage.call().await.fail("connection refused");
    assert_eq!(follower.await.unwrap().unwrap().status(), 502);
}

/// Else the SDK of a caller that clicked twice would begin the same attempts again.
#[tokio::test(start_paused = true)]
async fn those_who_follow_a_call_learn_that_its_attempts_are_spent() {
    let reset = |_: Request<CallBody>| async {
        tokio::time::sleep(secs(1)).await;
        Err::<Response<Full<Bytes>>, _>(io::Error::from(io::ErrorKind::ConnectionReset))
    };
    let service = DedupLayer::new().layer(RetryAfterBackoffLayer::llm().attempts(3).layer(service_fn(reset)));
    let report = RetryReport::new();
    let mut first = post("hi");
    first.extensions_mut().insert(report.clone());
    let (leader, follower) = tokio::join!(service.clone().oneshot(first), service.clone().oneshot(post("hi")));
    leader.unwrap_err();
    assert_eq!((report.attempts(), report.is_final()), (3, true));
    // The leader's client may keep no report.
    let (_, other) = tokio::join!(service.clone().oneshot(post("hi")), service.oneshot(post("hi")));
    for answer in [follower.unwrap(), other.unwrap()] {
        assert_eq!(Rejection::of(&answer).unwrap().kind(), RejectionKind::SharedCallFailed);
        assert_eq!(Attempts::of(&answer), Attempts(3));
        assert_eq!(answer.headers()["x-should-retry"], "false");
    }
}

/// A layer outside of it, as a deadline, then makes the answer.
#[tokio::test(start_paused = true)]
async fn one_who_follows_a_call_and_leaves_before_its_end_learns_of_its_attempts() {
    let calls = Arc::<AtomicUsize>::default();
    let upstream = service_fn(move |_: Request<CallBody>| {
        let is_first = calls.fetch_add(1, SeqCst) == 0;
        async move {
            if !is_first {
                std::future::pending::<()>().await;
            }
            Err::<Response<Full<Bytes>>, _>(io::Error::from(io::ErrorKind::ConnectionReset))
        }
    });
    let service = DedupLayer::new().layer(RetryAfterBackoffLayer::llm().attempts(3).layer(upstream));
    let report = RetryReport::new();
    let mut second = post("hi");
    second.extensions_mut().insert(report.clone());
    let (leader, follower) = tokio::join!(
        tokio::time::timeout(secs(30), service.clone().oneshot(post("hi"))),
        tokio::time::timeout(secs(20), service.clone().oneshot(second))
    );
    assert!(leader.is_err() && follower.is_err());
    assert_eq!((report.attempts(), report.is_final()), (2, false));
}

#[tokio::test(start_paused = true)]
async fn an_error_in_the_body_reaches_everyone_after_what_was_said_before() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let calls = [send(&service, post("hi")).await, send(&service, post("hi")).await];
    let say = stage.call().await.ok();
    say.data("one");
    say.fail(Broken("reset"));
    let mut slow = send(&service, post("hi")).await.await.unwrap().unwrap();
    for call in calls {
        let mut answer = call.await.unwrap().unwrap();
        assert_eq!(next(&mut answer).await, "one");
        let failed = answer.body_mut().frame().await.unwrap().unwrap_err();
        assert_eq!(error::find::<Broken>(&failed), Some(&Broken("reset")));
        assert!(error::find::<SharedError>(&failed).is_some());
        assert_eq!(next(&mut answer).await, "end");
        assert!(answer.body().is_end_stream());
    }
    assert_eq!(stage.alive(), 0);
    assert_eq!(next(&mut slow).await, "one");
    assert_eq!(next(&mut slow).await, "error: reset");
    assert_eq!(next(&mut slow).await, "end");

    // Nothing truncated is stored.
    starts_a_new_call(&service, &mut stage, post("hi")).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_before_the_head_does_not_strand_the_followers() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let leader = send(&service, post("hi")).await;
    let followers = [send(&service, post("hi")).await, send(&service, post("hi")).await];
    stage.call().await.panic();
    let mut panicked = usize::from(leader.await.is_err());
    for follower in followers {
        // The panic surfaces where the upstream was polled, which may be any of them.
        match follower.await {
            Ok(answer) => assert_eq!(answer.unwrap().status(), 502),
            Err(_) => panicked += 1,
        }
    }
    assert_eq!(panicked, 1);
    starts_a_new_call(&service, &mut stage, post("hi")).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_body_does_not_strand_the_followers() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let calls = [send(&service, post("hi")).await, send(&service, post("hi")).await, send(&service, post("hi")).await];
    let say = stage.call().await.ok();
    say.data("one");
    let mut readers = Vec::new();
    for call in calls {
        let answer = call.await.unwrap().unwrap();
        readers.push(tokio::spawn(answer.into_body().collect()));
    }
    settle().await;
    say.panic();
    let (mut panicked, mut failed) = (0, 0);
    for reader in readers {
        match reader.await {
            Ok(body) => {
                assert!(body.is_err());
                failed += 1;
            }
            Err(_) => panicked += 1,
        }
    }
    assert_eq!((panicked, failed), (1, 2));
    assert_eq!(stage.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_without_listeners_frees_the_key() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let leader = send(&service, post("hi")).await;
    let call = stage.call().await;
    leader.abort();
    settle().await;
    call.panic();
    settle().await;
    starts_a_new_call(&service, &mut stage, post("hi")).await;
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_woken_listener_that_does_not_poll_holds_up_no_other() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let calls = [send(&service, post("hi")).await, send(&service, post("hi")).await];
    let say = stage.call().await.ok();
    let [first, second] = calls.map(|call| async { call.await.unwrap().unwrap() });
    let (mut first, second) = (first.await, second.await);
    // The first waits last, so that the upstream was asked by it; then it is left alone, as by a `select!`.
    let second = tokio::spawn(text(second));
    settle().await;
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    assert!(Pin::new(first.body_mut()).poll_frame(&mut Context::from_waker(&waker)).is_pending());
    say.data("one");
    say.end();
    assert_eq!(second.await.unwrap(), "one");
    assert!(woken.0.load(SeqCst) > 0);
    assert_eq!(next(&mut first).await, "one");
}

#[tokio::test(start_paused = true)]
async fn the_listener_that_polled_last_may_leave() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let calls = [send(&service, post("hi")).await, send(&service, post("hi")).await];
    let say = stage.call().await.ok();
    let [first, second] = calls.map(|call| async { call.await.unwrap().unwrap() });
    let (mut first, second) = (first.await, second.await);
    let second = tokio::spawn(text(second));
    settle().await;
    assert!(waits(&mut first));
    // Woken, and gone before it comes.
    say.data("one");
    drop(first);
    say.end();
    assert_eq!(second.await.unwrap(), "one");
}

#[tokio::test(start_paused = true)]
async fn no_listener_spins() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let mut calls = Vec::new();
    for _ in 0..10 {
        calls.push(send(&service, post("hi")).await);
    }
    let say = stage.call().await.ok();
    let polls = Arc::<AtomicUsize>::default();
    let mut readers = Vec::new();
    for call in calls {
        let (mut answer, polls) = (call.await.unwrap().unwrap(), polls.clone());
        readers.push(tokio::spawn(poll_fn(move |cx| {
            polls.fetch_add(1, SeqCst);
            loop {
                match Pin::new(answer.body_mut()).poll_frame(cx) {
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Ready(Some(frame)) => drop(frame.unwrap()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })));
    }
    settle().await;
    let (polled, asked) = (polls.load(SeqCst), say.polls());
    advance(secs(60)).await;
    settle().await;
    assert_eq!(polls.load(SeqCst), polled, "a caller is polled though nothing happens");
    assert_eq!(say.polls(), asked, "the upstream is asked though it said nothing");

    // Each frame wakes everyone, and is polled once, by any of them; then that there is no other.
    for _ in 0..100 {
        say.data("x");
        settle().await;
    }
    let woken = polls.load(SeqCst) - polled;
    assert!(woken <= 10 * 100 * 2, "{woken} polls for 100 frames and 10 listeners");
    let asked = say.polls() - asked;
    assert!(asked <= 100 * 2, "the upstream was asked {asked} times for 100 frames");
    say.end();
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_listeners_hear_one_stream() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let mut calls = Vec::new();
    for _ in 0..1_000 {
        calls.push(tokio::spawn(service.clone().oneshot(post("hi"))));
    }
    let say = stage.call().await.ok();
    let readers: Vec<_> =
        calls.into_iter().map(|call| tokio::spawn(async move { text(call.await.unwrap().unwrap()).await })).collect();
    let mut expected = String::new();
    for event in 0..50 {
        let event = format!("data: {event}\n\n");
        say.data(&event);
        expected += &event;
        tokio::task::yield_now().await;
    }
    say.end();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), expected);
    }
    assert!(stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_wake_without_news_is_no_end_of_waiting() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let calls = [send(&service, post("hi")).await, send(&service, post("hi")).await];
    let say = stage.call().await.ok();
    let readers = calls.map(|call| tokio::spawn(async { text(call.await.unwrap().unwrap()).await }));
    for _ in 0..10 {
        settle().await;
        say.nudge();
    }
    settle().await;
    say.data("one");
    say.end();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), "one");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_below_is_the_latest_of_the_listeners() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let until = |seconds| Deadline::after(secs(seconds)).unwrap();
    let with = |deadline: Option<Deadline>| {
        let mut request = post("hi");
        deadline.map(|deadline| request.extensions_mut().insert(deadline));
        request
    };
    let (short, long) = (until(10), until(30));
    let _leader = send(&service, with(Some(short))).await;
    let call = stage.call().await;
    assert_eq!(Deadline::of(call.request.extensions()), Some(short));
    let _shorter = send(&service, with(Some(until(1)))).await;
    assert_eq!(Deadline::of(call.request.extensions()), Some(short));
    let _longer = send(&service, with(Some(long))).await;
    assert_eq!(Deadline::of(call.request.extensions()), Some(long));
    let _without = send(&service, with(None)).await;
    assert_eq!(Deadline::of(call.request.extensions()), None);
}

#[tokio::test(start_paused = true)]
async fn the_callers_own_deadline_does_not_end_the_call_for_others() {
    use tower::Layer;
    use tower_buttress::DeadlineLayer;

    let layer = DedupLayer::new();
    let (upstream, mut stage) = super::upstream();
    let shared = layer.layer(upstream);
    let patient = DeadlineLayer::new(secs(60)).layer(shared.clone());
    let hasty = DeadlineLayer::new(secs(1)).layer(shared);
    let hasty = tokio::spawn(hasty.oneshot(post("hi")));
    settle().await;
    let call = stage.call().await;
    let patient = tokio::spawn(patient.oneshot(post("hi")));
    settle().await;
    assert_eq!(hasty.await.unwrap().unwrap().status(), 504);
    advance(secs(30)).await;
    let say = call.ok();
    say.data("late");
    say.end();
    let answer = patient.await.unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "late");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_joins_is_counted() {
    let log = Arc::new(Log::default());
    let (service, mut stage) = dedup(&DedupLayer::new().observer(log.clone()));
    let _leader = send(&service, post("hi")).await;
    let _call = stage.call().await;
    let _follower = send(&service, post("hi")).await;
    assert_eq!(log.names(), ["flight_joined: dedup"]);
    assert_eq!(Event::FlightJoined.name(), "flight_joined");
}
