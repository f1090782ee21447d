//! Limits that are set, and those that are learned.

use futures_util::FutureExt;
use futures_util::future::join_all;
use tower::Layer;
use tower_buttress::Rate;

use super::*;
use crate::support::secs;

#[tokio::test(start_paused = true)]
async fn calls_are_one_interval_apart_and_a_burst_goes_at_once() {
    let calls = Calls::new();
    let service = PaceLayer::new().requests(Rate::per_minute(30)).layer(upstream(&calls, |_| answer(200, &[])));
    join_all((0..4).map(|_| service.clone().oneshot(ask("a")))).await;
    assert_eq!(calls.times(), [0.0, 2.0, 4.0, 6.0]);

    let calls = Calls::new();
    let rate = Rate::per_minute(30).burst(3);
    let service = PaceLayer::new().requests(rate).layer(upstream(&calls, |_| answer(200, &[])));
    join_all((0..5).map(|_| service.clone().oneshot(ask("a")))).await;
    assert_eq!(calls.times(), [0.0, 0.0, 0.0, 2.0, 4.0]);
}

#[tokio::test(start_paused = true)]
async fn the_tightest_of_several_limits_holds() {
    let calls = Calls::new();
    let layer =
        PaceLayer::new().requests(Rate::per_second(2)).requests(Rate::new(3, secs(60)).burst(3)).max_wait(secs(100));
    let service = layer.layer(upstream(&calls, |_| answer(200, &[])));
    join_all((0..5).map(|_| service.clone().oneshot(ask("a")))).await;
    assert_eq!(calls.times(), [0.0, 0.5, 1.0, 20.0, 40.0]);
}

#[tokio::test(start_paused = true)]
async fn tenants_take_turns_and_no_call_is_overtaken() {
    let calls = Calls::new();
    let service = PaceLayer::new().requests(Rate::per_second(1)).layer(upstream(&calls, |_| answer(200, &[])));
    let early = join_all("aaaab".chars().map(|tenant| service.clone().oneshot(ask(&tenant.to_string()))));
    let late = async {
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
        service.clone().oneshot(ask("c")).await
    };
    let (_, late) = tokio::join!(early, late);
    late.unwrap();
    assert_eq!(calls.tenants(), "aabaca");
    assert_eq!(calls.times(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_makes_room_for_those_behind_it() {
    let calls = Calls::new();
    let layer = PaceLayer::new().requests(Rate::per_second(1));
    let service = layer.layer(upstream(&calls, |_| answer(200, &[])));
    service.clone().oneshot(ask("a")).await.unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(service.clone().oneshot(ask("a")))).collect();
    for call in &mut waiting {
        assert!(call.as_mut().now_or_never().is_none());
    }
    assert_eq!(layer.stats().waiting, 3);
    // The one whose turn it is, and one behind it.
    drop(waiting.remove(0));
    assert_eq!(layer.stats().waiting, 2);
    let last = waiting.remove(1);
    drop(waiting);
    last.await.unwrap();
    assert_eq!((calls.times(), layer.stats().waiting), (vec![0.0, 1.0], 0));
}

#[tokio::test(start_paused = true)]
async fn what_did_not_reach_the_upstream_takes_nothing() {
    let calls = Calls::new();
    let inner = upstream(&calls, |_| answer(200, &[]));
    let refuses = service_fn({
        let inner = inner.clone();
        move |request: Ask| {
            let inner = inner.clone();
            async move {
                if Tenant::of(&request) == Some("open") {
                    let refusal = Rejection::new(RejectionKind::CircuitOpen);
                    return Ok(refusal.into_response(tower_buttress::RejectionFormat::Http).map(Full::new));
                }
                inner.oneshot(request).await
            }
        }
    });
    let service = PaceLayer::new().requests(Rate::per_minute(1)).layer(refuses);
    for _ in 0..3 {
        assert_eq!(kind(&service.clone().oneshot(ask("open")).await.unwrap()), Some(RejectionKind::CircuitOpen));
    }
    service.clone().oneshot(ask("a")).await.unwrap();
    assert_eq!(calls.times(), [0.0]);
    // Now it is taken.
    let refused = service.clone().oneshot(ask("open")).await.unwrap();
    assert_eq!((kind(&refused), retry_after(&refused)), (Some(RejectionKind::Paced), 60));
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_learned_and_of_what_is_left_elsewhere_nothing_is_taken() {
    let calls = Calls::new();
    let headers = &[
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "2"),
        ("x-ratelimit-reset-requests", "58.0s"),
    ];
    let told = |call| if call == 1 { answer(200, headers) } else { answer(200, &[]) };
    let service = PaceLayer::new().learn(true).layer(upstream(&calls, told));
    service.clone().oneshot(ask("a")).await.unwrap();
    join_all((0..4).map(|_| service.clone().oneshot(ask("a")))).await;
    assert_eq!(calls.times(), [0.0, 0.0, 0.0, 1.0, 2.0]);

    // Without being told to, it learns nothing.
    let calls = Calls::new();
    let service = PaceLayer::new().layer(upstream(&calls, told));
    service.clone().oneshot(ask("a")).await.unwrap();
    join_all((0..4).map(|_| service.clone().oneshot(ask("a")))).await;
    assert_eq!(calls.times(), [0.0; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_fills_the_line_makes_room_for_others() {
    let calls = Calls::new();
    let layer = PaceLayer::new().requests(Rate::per_second(1_000));
    let service = layer.layer(upstream(&calls, |_| answer(200, &[])));
    service.clone().oneshot(ask("a")).await.unwrap();
    let mut flood: Vec<_> = (0..10_000).map(|_| Box::pin(service.clone().oneshot(ask("a")))).collect();
    for call in &mut flood {
        assert!(call.as_mut().now_or_never().is_none());
    }
    assert_eq!(layer.stats().waiting, 10_000);
    assert_eq!(kind(&service.clone().oneshot(ask("a")).await.unwrap()), Some(RejectionKind::Paced), "it has the most");
    let start = Instant::now();
    let mut other = Box::pin(service.clone().oneshot(ask("b")));
    assert!(other.as_mut().now_or_never().is_none());
    assert_eq!(layer.stats().waiting, 10_000);
    let (flooded, other) = tokio::join!(join_all(flood), async { (other.await.unwrap(), start.elapsed()) });
    assert_eq!(other.0.status(), 200);
    assert!(other.1 <= std::time::Duration::from_millis(4), "{:?}", other.1);
    let refused = flooded.iter().filter(|answer| kind(answer.as_ref().unwrap()).is_some()).count();
    assert_eq!(refused, 1);
}
