//! Each caller has its own time, and the call the most of them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_buttress::{CallBody, Deadline, DeadlineHeader, DeadlineLayer, DedupLayer, DedupRole};

use super::{RequestBody, dedup, post, post_key, role, send, settle};
use crate::support::{Log, secs};

#[tokio::test(start_paused = true)]
async fn a_call_that_was_abandoned_ends_at_its_deadline() {
    struct Hung(Arc<AtomicUsize>);
    impl Drop for Hung {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }
    let alive = Arc::<AtomicUsize>::default();
    let counted = alive.clone();
    let upstream = tower::service_fn(move |_: Request<RequestBody>| {
        counted.fetch_add(1, SeqCst);
        let hung = Hung(counted.clone());
        async move {
            let _hung = hung;
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
        }
    });
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new(secs(10)))
        .layer(DedupLayer::new().finish_abandoned(true))
        .service(upstream);
    for _ in 0..10 {
        assert_eq!(service.clone().oneshot(post("hi")).await.unwrap().status(), 504);
    }
    settle().await;
    assert_eq!(alive.load(SeqCst), 0, "calls without a caller, and whose time is over");
}

#[tokio::test(start_paused = true)]
async fn the_grace_ends_at_the_deadline() {
    let (service, mut stage) = dedup(&DedupLayer::new().grace(secs(5)));
    let mut request = post("hi");
    request.extensions_mut().insert(Deadline::after(secs(3)).unwrap());
    let call = send(&service, request).await;
    let _upstream = stage.call().await;
    call.abort();
    settle().await;
    assert_eq!(stage.alive(), 1);
    sleep(secs(3)).await;
    settle().await;
    assert_eq!(stage.alive(), 0);
}

/// An upstream that needs five seconds, and gives up when it was told that it has less.
async fn obedient(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let left: u64 = request.headers()["x-deadline-ms"].to_str().unwrap().parse().unwrap();
    drop(request);
    sleep(std::time::Duration::from_millis(left.saturating_sub(10).min(5_000))).await;
    let status = if left < 5_000 { 504 } else { 200 };
    Ok(Response::builder().status(status).body(Full::from("x")).unwrap())
}

fn with_time(mut request: Request<Full<Bytes>>, ms: u64) -> Request<Full<Bytes>> {
    request.headers_mut().insert("x-deadline-ms", ms.into());
    request
}

#[tokio::test(start_paused = true)]
async fn a_patient_caller_is_not_held_to_the_deadline_of_a_hasty_one() {
    let header = DeadlineHeader::millis(HeaderName::from_static("x-deadline-ms"));
    let log = Arc::new(Log::default());
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new(secs(60)).accept(header.clone()).propagate(header))
        .layer(DedupLayer::new().observer(log.clone()))
        .service_fn(obedient);
    let ask = |ms| service.clone().oneshot(with_time(post("hi"), ms));
    let (hasty, patient) = tokio::join!(ask(1_000), ask(60_000));
    assert_eq!((hasty.unwrap().status().as_u16(), patient.unwrap().status().as_u16()), (504, 200));
    assert_eq!(log.names()[0], "bypassed: dedup");

    // Some more time makes no call of its own: twice that of the other, and ten seconds.
    sleep(secs(60)).await;
    let ask = |ms| service.clone().oneshot(with_time(post("ho"), ms));
    let (first, second) = tokio::join!(ask(6_000), ask(22_000));
    assert_eq!((role(&first.unwrap()), role(&second.unwrap())), (Some(DedupRole::Leader), Some(DedupRole::Joined)));
    // Nor does it with a key, which must not be executed twice.
    let ask = |ms| service.clone().oneshot(with_time(post_key("k", "hi"), ms));
    let (hasty, patient) = tokio::join!(ask(1_000), ask(60_000));
    assert_eq!(role(&hasty.unwrap()), Some(DedupRole::Leader));
    let patient = patient.unwrap();
    assert_eq!((role(&patient), patient.status().as_u16()), (Some(DedupRole::Joined), 504));
}

#[tokio::test(start_paused = true)]
async fn a_header_that_is_written_below_the_layer_counts_too() {
    let header = DeadlineHeader::millis(HeaderName::from_static("x-deadline-ms"));
    let below = |total| {
        ServiceBuilder::new()
            .layer(DedupLayer::new())
            .layer(DeadlineLayer::new(total).propagate(header.clone()))
            .service_fn(obedient)
    };
    // What the hasty one has is all that the upstream was told.
    let service = below(std::time::Duration::MAX);
    let ask = |seconds| DeadlineLayer::new(secs(seconds)).layer(service.clone()).oneshot(post("hi"));
    let (hasty, patient) = tokio::join!(ask(1), ask(60));
    assert_eq!((hasty.unwrap().status(), patient.unwrap().status().as_u16()), (504.try_into().unwrap(), 200));

    // Where the layer below has a limit of its own, a patient caller's own call would be told no more: it joins.
    let service = below(secs(8));
    let ask = |seconds| DeadlineLayer::new(secs(seconds)).layer(service.clone()).oneshot(post("hi"));
    let (first, second) = tokio::join!(ask(20), ask(600));
    assert_eq!((role(&first.unwrap()), role(&second.unwrap())), (Some(DedupRole::Leader), Some(DedupRole::Joined)));
}

/// A retry tells the upstream anew, and by then a caller with more time may have joined.
#[tokio::test(start_paused = true)]
async fn a_patient_caller_joins_when_a_later_attempt_got_more_time() {
    let header = DeadlineHeader::millis(HeaderName::from_static("x-deadline-ms"));
    let attempts = Arc::new(AtomicUsize::new(0));
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new(secs(600)).accept(header.clone()).propagate(header))
        .layer(DedupLayer::new())
        .layer(tower_buttress::RetryAfterBackoffLayer::new())
        .service_fn(move |_: Request<RequestBody>| {
            let attempt = attempts.fetch_add(1, SeqCst);
            async move {
                sleep(secs(if attempt == 0 { 2 } else { 20 })).await;
                let response = Response::builder().status(if attempt == 0 { 503 } else { 200 });
                let response = if attempt == 0 { response.header("retry-after", "1") } else { response };
                Ok::<_, Infallible>(response.body(Full::<Bytes>::from("x")).unwrap())
            }
        });
    let ask = |ms| service.clone().oneshot(with_time(post("hi"), ms));
    let patient = async {
        sleep(secs(1)).await;
        ask(25_000).await
    };
    let most_patient = async {
        // The second attempt was told of some 22 s, the first of 9.
        sleep(secs(5)).await;
        ask(50_000).await
    };
    let (_, patient, most_patient) = tokio::join!(ask(9_000), patient, most_patient);
    assert_eq!(role(&patient.unwrap()), Some(DedupRole::Joined));
    assert_eq!(role(&most_patient.unwrap()), Some(DedupRole::Joined));
}

#[tokio::test(start_paused = true)]
async fn a_patient_caller_joins_where_the_upstream_got_no_deadline() {
    let service = ServiceBuilder::new().layer(DedupLayer::new()).service_fn(|_: Request<RequestBody>| async {
        sleep(secs(5)).await;
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("x")))
    });
    let ask = |seconds| DeadlineLayer::new(secs(seconds)).layer(service.clone()).oneshot(post("hi"));
    let (hasty, patient) = tokio::join!(ask(1), ask(60));
    assert_eq!(hasty.unwrap().status(), 504);
    let patient = patient.unwrap();
    assert_eq!((role(&patient), patient.status().as_u16()), (Some(DedupRole::Joined), 200));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_layer_inside_that_has_no_time_of_its_own_does_not_end_a_shared_call() {
    let upstream = ServiceBuilder::new()
        .layer(DedupLayer::new())
        .layer(DeadlineLayer::new(std::time::Duration::MAX))
        .service_fn(|_: Request<CallBody>| async {
            sleep(secs(5)).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("x")))
        });
    let start = Instant::now();
    let ask = |seconds| DeadlineLayer::new(secs(seconds)).layer(upstream.clone()).oneshot(post("hi"));
    let (hasty, patient) = tokio::join!(ask(1), ask(60));
    assert_eq!(hasty.unwrap().status(), 504);
    let patient = patient.unwrap();
    assert_eq!((role(&patient), patient.status().as_u16(), start.elapsed()), (Some(DedupRole::Joined), 200, secs(5)));
    assert_eq!(patient.into_body().collect().await.unwrap().to_bytes(), "x");
}
