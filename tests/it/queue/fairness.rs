//! What one caller can take from the others.

use std::sync::Mutex;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::Layer;

use tower_buttress::Deadline;

use super::*;
use crate::support::secs;

#[tokio::test(start_paused = true)]
async fn tenants_take_turns() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = order.clone();
    let upstream = service_fn(move |request: Ask| {
        seen.lock().unwrap().push(Tenant::of(&request).unwrap().to_owned());
        async {
            tokio::time::sleep(secs(1)).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    let service = QueueLayer::new(1).layer(upstream);
    let mut calls = JoinSet::new();
    for tenant in ["a", "a", "a", "a", "b", "b", "c"] {
        calls.spawn(whole(service.clone(), ask(tenant)));
        tokio::task::yield_now().await;
    }
    calls.join_all().await;
    assert_eq!(order.lock().unwrap().concat(), "aabcaba");
}

/// Ten tenants, of which nine send a call a second and the first so many; the longest that one of the nine waits.
async fn longest_wait(of_the_first: u32) -> Duration {
    let (layer, busy) = (QueueLayer::new(10).max_waiting(100_000).max_wait(secs(10_000)), Busy::default());
    let service = layer.layer(takes(secs(1), &busy));
    let longest = Arc::new(Mutex::new(Duration::ZERO));
    let mut tenants = JoinSet::new();
    for tenant in 0..10 {
        let (service, longest) = (service.clone(), longest.clone());
        let every = if tenant == 0 { secs(1) / of_the_first } else { secs(1) };
        tenants.spawn(async move {
            let mut calls = JoinSet::new();
            let start = Instant::now();
            while start.elapsed() < secs(20) {
                let (service, longest) = (service.clone(), longest.clone());
                calls.spawn(async move {
                    let sent = Instant::now();
                    assert_eq!(whole(service, ask(&format!("tenant {tenant}"))).await, 200);
                    if tenant != 0 {
                        let mut longest = longest.lock().unwrap();
                        *longest = longest.max(sent.elapsed() - secs(1));
                    }
                });
                tokio::time::sleep(every).await;
            }
            if tenant == 0 { calls.shutdown().await } else { drop(calls.join_all().await) }
        });
    }
    tenants.join_all().await;
    assert_eq!(busy.most(), 10);
    drop(service);
    Arc::into_inner(longest).unwrap().into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_sends_a_hundred_times_more_makes_the_others_wait_no_longer() {
    let (fair, flooded) = (longest_wait(1).await, longest_wait(100).await);
    // One call of each, at most, is under way or before it.
    assert!(flooded <= fair + secs(1), "{flooded:?} against {fair:?}");
}

#[tokio::test(start_paused = true)]
async fn readers_that_do_not_read_hold_half_of_the_places() {
    let (layer, busy) = (QueueLayer::new(10), Busy::default());
    let service = layer.layer(takes(Duration::ZERO, &busy));
    let mut unread = Vec::new();
    for _ in 0..10 {
        unread.push(service.clone().oneshot(ask("sleepy")).await.unwrap());
    }
    assert_eq!(layer.stats().in_flight, 10);
    let start = Instant::now();
    let mut calls = JoinSet::new();
    for tenant in 0..20 {
        calls.spawn(whole(service.clone(), ask(&format!("tenant {tenant}"))));
    }
    assert_eq!(calls.join_all().await, [200; 20]);
    // Two looks, a second apart, to know that the callers do not read.
    assert!(start.elapsed() <= secs(3), "{:?}", start.elapsed());
    // What they have they may still read.
    for response in unread {
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "done");
    }
    is_empty(&layer);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_does_not_read_cannot_take_what_is_passed_over_for_others() {
    for sleepy in [20, 40] {
        let (layer, busy) = (QueueLayer::new(10).max_wait(secs(100)), Busy::default());
        let service = layer.layer(takes(Duration::ZERO, &busy));
        let mut unread = JoinSet::new();
        for _ in 0..sleepy {
            unread.spawn(service.clone().oneshot(ask("sleepy")));
        }
        // It is given what others did not ask for.
        tokio::time::sleep(secs(10)).await;
        assert!(layer.stats().in_flight > 10, "{:?}", layer.stats());
        let start = Instant::now();
        let mut calls = JoinSet::new();
        for tenant in 0..20 {
            calls.spawn(whole(service.clone(), ask(&format!("tenant {tenant}"))));
        }
        assert_eq!(calls.join_all().await, [200; 20]);
        assert!(start.elapsed() <= secs(3), "{sleepy}: {:?}", start.elapsed());
    }
}

/// Also where calls are known to take longer than they can wait.
#[tokio::test(start_paused = true)]
async fn what_is_kept_for_others_is_theirs_at_once() {
    let (layer, busy) = (QueueLayer::new(10).max_wait(secs(500)), Busy::default());
    let service = layer.layer(takes(Duration::ZERO, &busy));
    let slow = service.clone().oneshot(ask("slow")).await.unwrap();
    tokio::time::sleep(secs(100)).await;
    drop(slow);
    let mut unread = JoinSet::new();
    for _ in 0..40 {
        unread.spawn(service.clone().oneshot(ask("sleepy")));
    }
    tokio::time::sleep(secs(10)).await;
    let start = Instant::now();
    let mut other = ask("other");
    other.extensions_mut().insert(Deadline::after(Duration::from_millis(500)).unwrap());
    assert_eq!(whole(service.clone(), other).await, 200);
    assert_eq!(start.elapsed(), secs(0));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_fills_the_line_makes_room_for_others() {
    let (layer, busy) = (QueueLayer::new(1).max_waiting(10), Busy::default());
    let service = layer.layer(takes(secs(1), &busy));
    let mut flood = JoinSet::new();
    for _ in 0..11 {
        flood.spawn(whole(service.clone(), ask("flood")));
        tokio::task::yield_now().await;
    }
    let other = tokio::spawn(whole(service.clone(), ask("other")));
    tokio::task::yield_now().await;
    assert_eq!(layer.stats().waiting, 10);
    assert_eq!(other.await.unwrap(), 200);
    let refused = flood.join_all().await.into_iter().filter(|status| *status == 503).count();
    assert_eq!(refused, 1);
}
