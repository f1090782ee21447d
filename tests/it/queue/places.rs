//! Who holds a place, for how long, and what becomes of a call that finds none.

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread;

use futures_util::FutureExt;
use tokio::runtime::{Builder, Handle};
use tokio::time::Instant;
use tower::Layer;
use tower_buttress::verdict::{Health, NextStep, Outcome, Verdict};
use tower_buttress::{Deadline, FirstByteTimeoutLayer, TimeoutProfile};

use super::*;
use crate::support::upstream::{Answer as Scripted, Upstream, request};
use crate::support::{Log, Script, Step, secs, stopped_for};

async fn head(service: &Queue<Upstream>) -> io::Result<Response<QueueBody<Script>>> {
    service.clone().oneshot(request("POST", [])).await
}

fn stream() -> Scripted {
    Scripted::status(200).body(Script::new([Step::Data("a"), Step::Wait(secs(5)), Step::Data("b")]).unsized_())
}

#[tokio::test(start_paused = true)]
async fn a_call_holds_its_place_until_its_body_ends() {
    let layer = QueueLayer::new(1);
    let upstream = Upstream::new([stream(), Scripted::status(200)]);
    let service = layer.layer(upstream.clone());
    let first = head(&service).await.unwrap();
    let second = tokio::spawn({
        let service = service.clone();
        async move { head(&service).await.unwrap().status() }
    });
    tokio::time::sleep(secs(1)).await;
    assert_eq!((layer.stats().in_flight, layer.stats().waiting, upstream.seen().len()), (1, 1, 1));
    first.into_body().collect().await.unwrap();
    assert_eq!(second.await.unwrap(), 200);
    assert_eq!(upstream.times(), [0.0, 6.0]);
    is_empty(&layer);
}

#[tokio::test(start_paused = true)]
async fn every_end_of_a_call_gives_its_place_back() {
    let layer = QueueLayer::new(1);
    let upstream = Upstream::new([
        Scripted::fails(io::ErrorKind::ConnectionReset),
        Scripted::status(200).body(Script::new([Step::Data("a"), Step::Fail("cut")]).unsized_()),
        Scripted::status(200).body(Script::new([Step::Data("a"), Step::Hang]).unsized_()),
        Scripted::status(204).body(Script::new([])),
        Scripted::status(101).body(Script::new([Step::Hang]).unsized_()),
        Scripted::status(200).body(Script::new([Step::Trailers]).unsized_()),
        Scripted::never(),
    ]);
    let service = layer.layer(upstream.clone());

    head(&service).await.unwrap_err();
    is_empty(&layer);
    head(&service).await.unwrap().into_body().collect().await.unwrap_err();
    is_empty(&layer);
    let mut left = head(&service).await.unwrap().into_body();
    left.frame().await.unwrap().unwrap();
    assert_eq!(layer.stats().in_flight, 1);
    drop(left);
    is_empty(&layer);
    let _empty = head(&service).await.unwrap();
    is_empty(&layer);
    let _upgraded = head(&service).await.unwrap();
    is_empty(&layer);
    let mut body = head(&service).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    is_empty(&layer);
    assert!(tokio::time::timeout(secs(1), head(&service)).await.is_err());
    is_empty(&layer);
    // No answer is left: the upstream panics.
    assert!(AssertUnwindSafe(head(&service)).catch_unwind().await.is_err());
    is_empty(&layer);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_no_trace() {
    let (layer, busy) = (QueueLayer::new(1), Busy::default());
    let service = layer.layer(takes(secs(10), &busy));
    let first = tokio::spawn(service.clone().oneshot(ask("a")));
    tokio::time::sleep(secs(1)).await;
    // One leaves while it waits.
    assert!(tokio::time::timeout(secs(1), service.clone().oneshot(ask("a"))).await.is_err());
    assert_eq!(layer.stats().waiting, 0);
    // One has been given the place, and leaves before it has been polled again.
    let mut unlucky = Box::pin(service.clone().oneshot(ask("a")));
    assert!(unlucky.as_mut().now_or_never().is_none());
    let mut next = Box::pin(service.clone().oneshot(ask("a")));
    assert!(next.as_mut().now_or_never().is_none());
    first.await.unwrap().unwrap();
    assert_eq!((layer.stats().in_flight, layer.stats().waiting), (1, 1));
    drop(unlucky);
    assert_eq!((layer.stats().in_flight, layer.stats().waiting), (1, 0));
    // The calls were under one alarm, whose task ends at once.
    tokio::task::yield_now().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    assert_eq!(next.await.unwrap().status(), 200);
    is_empty(&layer);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_kept_and_not_polled_lets_others_give_up_and_be_served() {
    let (layer, busy) = (QueueLayer::new(1).max_wait(secs(5)), Busy::default());
    let service = layer.layer(takes(secs(7), &busy));
    let first = tokio::spawn(service.clone().oneshot(ask("a")));
    tokio::task::yield_now().await;
    let start = Instant::now();
    let mut kept = Box::pin(service.clone().oneshot(ask("a")));
    assert!(kept.as_mut().now_or_never().is_none());
    tokio::time::sleep(secs(1)).await;
    let refused = service.clone().oneshot(ask("b")).await.unwrap();
    assert_eq!((start.elapsed(), kind(&refused)), (secs(6), Some(RejectionKind::QueueFull)));
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    // Its wait is over, but it has got a place before it was polled.
    assert_eq!((start.elapsed(), layer.stats().in_flight), (secs(7), 1));
    assert_eq!(kept.await.unwrap().status(), 200);
    is_empty(&layer);
}

#[test]
fn a_call_gives_up_in_time_where_a_runtime_in_which_others_wait_ends_or_rests() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    for is_dropped in [true, false] {
        let layer = QueueLayer::new(1).max_wait(Duration::from_millis(50));
        let service = layer.layer(takes(secs(600), &Busy::default()));
        let other = runtime();
        let calls = other.block_on(async {
            let mut calls: Vec<_> = (0..2).map(|_| Box::pin(service.clone().oneshot(ask("a")))).collect();
            assert!(calls.iter_mut().all(|call| call.as_mut().now_or_never().is_none()));
            tokio::task::yield_now().await;
            calls
        });
        let kept = (!is_dropped).then_some(other);
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let refused = runtime().block_on(service.oneshot(ask("b"))).unwrap();
            done.send(kind(&refused)).unwrap();
        });
        assert_eq!(is_done.recv_timeout(secs(60)).unwrap(), Some(RejectionKind::QueueFull));
        drop((kept, calls));
        is_empty(&layer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_would_wait_for_too_long_is_refused_when_it_comes() {
    let log = Arc::new(Log::default());
    let layer = QueueLayer::new(1).max_wait(secs(25)).observer(log.clone());
    let busy = Busy::default();
    let service = layer.layer(takes(secs(10), &busy));
    // It is known how long a place is held.
    service.clone().oneshot(ask("a")).await.unwrap();
    let calls: Vec<_> = (0..3).map(|_| tokio::spawn(service.clone().oneshot(ask("a")))).collect();
    tokio::time::sleep(secs(1)).await;
    let refused = service.clone().oneshot(ask("a")).await.unwrap();
    assert_eq!((refused.status().as_u16(), kind(&refused)), (503, Some(RejectionKind::QueueFull)));
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((30..=38).contains(&wait), "{wait}");
    // Another tenant has only one before it.
    let other = tokio::spawn(service.clone().oneshot(ask("b")));
    assert_eq!(other.await.unwrap().unwrap().status(), 200);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(log.names(), ["refused: queue-full"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_too_long_gets_another_refusal_than_one_past_its_deadline() {
    let (layer, busy) = (QueueLayer::new(1).max_wait(secs(5)), Busy::default());
    let service = layer.layer(takes(secs(60), &busy));
    let _first = tokio::spawn(service.clone().oneshot(ask("a")));
    tokio::task::yield_now().await;
    let start = Instant::now();
    let refused = service.clone().oneshot(ask("a")).await.unwrap();
    assert_eq!((start.elapsed(), kind(&refused)), (secs(5), Some(RejectionKind::QueueFull)));

    let mut hurried = ask("a");
    hurried.extensions_mut().insert(Deadline::after(secs(2)).unwrap());
    let refused = service.clone().oneshot(hurried).await.unwrap();
    assert_eq!((start.elapsed(), kind(&refused)), (secs(7), Some(RejectionKind::DeadlineExceeded)));
    assert_eq!((layer.stats().waiting, busy.most()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_grpc_caller_gets_a_grpc_status() {
    let (layer, busy) = (QueueLayer::new(1).max_waiting(0), Busy::default());
    let service = layer.layer(takes(secs(60), &busy));
    let _first = tokio::spawn(service.clone().oneshot(ask("a")));
    tokio::task::yield_now().await;
    let mut request = ask("b");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let refused = service.clone().oneshot(request).await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["grpc-status"]), (200, &"8".parse().unwrap()));
    assert!(refused.headers().contains_key("grpc-retry-pushback-ms"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_of_the_service_inside_while_a_call_waits() {
    let layer = QueueLayer::new(1);
    let upstream = Upstream::new([stream(), Scripted::status(200)]).ready_after(secs(1));
    let service = layer.layer(upstream.clone());
    let first = head(&service).await.unwrap();
    let second = tokio::spawn({
        let service = service.clone();
        async move { head(&service).await.unwrap().status() }
    });
    first.into_body().collect().await.unwrap();
    assert_eq!(second.await.unwrap(), 200);
    // It was asked for its readiness, which takes a second, after the place was given.
    assert_eq!(upstream.times(), [1.0, 7.0]);
}

/// An upstream that answers within half a second, but for its second hundred seconds.
#[derive(Clone)]
struct Hangs(Instant);

impl<B> Service<Request<B>> for Hangs {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let Self(start) = *self;
        Box::pin(async move {
            if (secs(100)..secs(200)).contains(&start.elapsed()) {
                tokio::time::sleep_until(start + secs(200)).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok(Response::new(Full::from("done")))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_upstream_shrinks_the_limit_to_its_minimum_and_it_recovers() {
    let log = Arc::new(Log::default());
    let layer = QueueLayer::auto(2, 40).max_wait(secs(1_000)).max_waiting(10_000).observer(log.clone());
    let start = Instant::now();
    let service = layer.layer(FirstByteTimeoutLayer::new(secs(10)).layer(Hangs(start)));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let service = service.clone();
        calls.spawn(async move {
            while start.elapsed() < secs(600) {
                let answer = service.clone().oneshot(Request::new(Full::<Bytes>::default())).await.unwrap();
                answer.into_body().collect().await.unwrap();
            }
        });
    }
    tokio::time::sleep_until(start + secs(100)).await;
    assert_eq!(layer.stats().limit, 40, "{:?}", layer.stats());
    tokio::time::sleep_until(start + secs(199)).await;
    assert_eq!(layer.stats().limit, 2, "{:?}", layer.stats());
    tokio::time::sleep_until(start + secs(400)).await;
    assert_eq!(layer.stats().limit, 40, "{:?}", layer.stats());
    calls.join_all().await;
    is_empty(&layer);
    assert!(log.names().iter().all(|name| name == "concurrency_changed: queue"), "{:?}", log.names());
}

/// A batch endpoint answers 200 while it is overloaded, and the connection of one that is refused executed nothing.
#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_follows_a_classifier_that_reads_requests() {
    let of_batch = |outcome: &Outcome<'_>| match outcome.request() {
        Some(request) if request.uri.path() == "/batch" && outcome.status().is_some() => {
            Verdict::new(NextStep::retry(None), Health::Throttled)
        }
        Some(request) if request.uri.path() == "/batch" => {
            Verdict::new(NextStep::retry(None), Health::Failure).not_executed()
        }
        _ => Verdict::new(NextStep::Done, Health::Success),
    };
    for answer in [|| Scripted::status(200), || Scripted::fails(io::ErrorKind::Other)] {
        for (path, limit) in [("/chat", 10), ("/batch", 7)] {
            let layer = QueueLayer::auto(2, 40).classifier(of_batch);
            let mut request = request("POST", []);
            *request.uri_mut() = path.parse().unwrap();
            if let Ok(answer) = layer.layer(Upstream::new([answer()])).oneshot(request).await {
                answer.into_body().collect().await.unwrap();
            }
            assert_eq!(layer.stats().limit, limit, "{path}");
        }
    }
}

/// No limit of time ends their calls: their callers do.
#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_keeps_no_place() {
    for answer in [|| Scripted::status(200), || Scripted::fails(io::ErrorKind::Other)] {
        let layer = QueueLayer::auto(1, 2).classifier(|_: &Outcome<'_>| -> Verdict { panic!("a mistake") });
        let call = layer.layer(Upstream::new([answer()])).oneshot(request("POST", []));
        assert!(AssertUnwindSafe(call).catch_unwind().await.is_err());
        is_empty(&layer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_upstream_shrinks_the_limit_also_where_callers_give_up_first() {
    let layer = QueueLayer::auto(2, 40).max_wait(secs(1_000)).max_waiting(10_000);
    let start = Instant::now();
    let service = layer.layer(Hangs(start));
    let callers = |patience: Duration| {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let service = service.clone();
            calls.spawn(async move {
                while start.elapsed() < secs(199) {
                    let mut request = Request::new(Full::<Bytes>::default());
                    request.extensions_mut().insert(TimeoutProfile::FAST);
                    let call = async { service.clone().oneshot(request).await.unwrap().into_body().collect().await };
                    let _ = tokio::time::timeout(patience, call).await;
                }
            });
        }
        calls
    };
    let calls = callers(TimeoutProfile::FAST.first_byte / 2 + secs(1));
    tokio::time::sleep_until(start + secs(100)).await;
    assert_eq!(layer.stats().limit, 40, "{:?}", layer.stats());
    tokio::time::sleep_until(start + secs(198)).await;
    assert_eq!(layer.stats().limit, 2, "{:?}", layer.stats());
    calls.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_off_bounds_nothing() {
    let busy = Busy::default();
    let service = QueueLayer::disabled().layer(takes(secs(1), &busy));
    let calls = (0..50).map(|_| service.clone().oneshot(ask("a")));
    futures_util::future::join_all(calls).await;
    assert_eq!(busy.most(), 50);
}

/// Places are taken without a lock while none waits, and by turns when some do.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_many_threads_no_more_calls_are_under_way_than_there_are_places() {
    let busy = Busy::default();
    let upstream = {
        let busy = busy.clone();
        service_fn(move |_: Ask| {
            let call = busy.begin();
            async move {
                tokio::task::yield_now().await;
                drop(call);
                Ok::<_, Infallible>(Response::new(Full::from("done")))
            }
        })
    };
    let layer = QueueLayer::new(3);
    let service = layer.layer(upstream);
    let callers: Vec<_> = (0..12)
        .map(|caller: u32| {
            let service = service.clone();
            tokio::spawn(async move {
                for call in 0..200 {
                    if (caller + call) % 7 == 0 {
                        // It goes away before it has come far.
                        let leaves = tokio::time::timeout(Duration::ZERO, service.clone().oneshot(ask("leaves")));
                        drop(leaves.await);
                    } else {
                        assert_eq!(whole(service.clone(), ask(&format!("{}", caller % 4))).await, 200);
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(busy.most() <= 3, "{}", busy.most());
    assert_eq!((layer.stats().in_flight, layer.stats().waiting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_refuses_no_call_whose_turn_has_come() {
    let answer = Arc::new(tokio::sync::Notify::new());
    let upstream = service_fn({
        let answer = answer.clone();
        move |request: Ask| {
            let answer = answer.clone();
            async move {
                if Tenant::of(&request) == Some("a") {
                    answer.notified().await;
                }
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        }
    });
    let service = QueueLayer::new(1).layer(upstream);
    let first = tokio::spawn(whole(service.clone(), ask("a")));
    tokio::task::yield_now().await;
    let second = tokio::spawn(whole(service.clone(), ask("b")));
    tokio::time::sleep(secs(15)).await;
    stopped_for(secs(21), answer).await;
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
}
