//! Requests that are on their way while their calls have places.

use std::pin::Pin;

use http_body_util::channel::{Channel, Sender};
use tokio::time::Instant;
use tower::Layer;
use tower_buttress::CallBody;

use super::*;
use crate::support::secs;

/// A request of which nothing has come yet.
fn slow(tenant: &str) -> (Sender<Bytes>, Request<CallBody>) {
    let (sender, body) = Channel::<Bytes>::new(1);
    (sender, Request::builder().extension(Tenant::new(tenant)).body(CallBody::new(body)).unwrap())
}

fn small(tenant: &str) -> Request<CallBody> {
    Request::builder().extension(Tenant::new(tenant)).body(CallBody::from("small")).unwrap()
}

/// An upstream that reads a request, and answers a second later.
fn reads(
    busy: &Busy,
) -> impl Service<Request<CallBody>, Response = Answer, Error = Infallible, Future: Future + Send> + Clone + Send + 'static
{
    let busy = busy.clone();
    service_fn(move |request: Request<CallBody>| {
        let call = busy.begin();
        async move {
            let _ = request.into_body().collect().await;
            tokio::time::sleep(secs(1)).await;
            drop(call);
            Ok(Response::new(Full::from("done")))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn slow_uploads_hold_a_quarter_of_the_places_and_small_calls_pass() {
    let (layer, busy) = (QueueLayer::new(8), Busy::default());
    let service = layer.layer(reads(&busy));
    let mut uploads = Vec::new();
    for number in 0..30 {
        let (mut sender, request) = slow(&format!("slow {}", number % 5));
        let call = tokio::spawn(service.clone().oneshot(request));
        // Ten MiB in a minute and a half.
        let sending = tokio::spawn(async move {
            for _ in 0..90 {
                if sender.send_data(Bytes::from(vec![0; 120_000])).await.is_err() {
                    return;
                }
                tokio::time::sleep(secs(1)).await;
            }
        });
        uploads.push((call, sending));
    }
    tokio::time::sleep(secs(5)).await;
    assert_eq!((busy.now(), layer.stats().in_flight, layer.stats().waiting), (2, 2, 28));
    let start = Instant::now();
    for tenant in ["a", "b", "slow 1"] {
        assert_eq!(service.clone().oneshot(small(tenant)).await.unwrap().status(), 200);
    }
    assert_eq!(start.elapsed(), secs(3), "a second each");
    // The others were refused when they had waited for half a minute.
    tokio::time::sleep(secs(30)).await;
    assert_eq!((busy.now(), layer.stats().waiting), (2, 0));
    tokio::time::sleep(secs(100)).await;
    let mut statuses = Vec::new();
    for (call, sending) in uploads {
        statuses.push(call.await.unwrap().unwrap().status().as_u16());
        sending.abort();
    }
    assert_eq!((statuses.iter().filter(|status| **status == 200).count(), statuses.len()), (2, 30));
    is_empty(&layer);
}

#[tokio::test(start_paused = true)]
async fn an_upload_makes_room_for_the_next_when_it_is_here_and_when_its_caller_leaves() {
    let (layer, busy) = (QueueLayer::new(4), Busy::default());
    let service = layer.layer(reads(&busy));
    let (first, request) = slow("a");
    let first_call = tokio::spawn(service.clone().oneshot(request));
    let (second, request) = slow("a");
    let second_call = tokio::spawn(service.clone().oneshot(request));
    let (_third, request) = slow("b");
    let third_call = tokio::spawn(service.clone().oneshot(request));
    let (_leaves, request) = slow("b");
    let mut leaves: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(service.clone().oneshot(request));
    assert!(futures_util::poll!(leaves.as_mut()).is_pending());
    tokio::time::sleep(secs(1)).await;
    assert_eq!((busy.now(), layer.stats().waiting), (1, 3));
    drop(leaves);
    assert_eq!(layer.stats().waiting, 2);
    // The first request is here. Its answer takes another second.
    drop(first);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((busy.now(), layer.stats().waiting), (2, 1));
    assert_eq!(first_call.await.unwrap().unwrap().status(), 200);
    // Of another tenant, whose turn it was.
    third_call.abort();
    drop(third_call.await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((busy.now(), layer.stats().waiting), (1, 0));
    drop(second);
    assert_eq!(second_call.await.unwrap().unwrap().status(), 200);
    is_empty(&layer);
}

#[tokio::test(start_paused = true)]
async fn each_of_two_queues_knows_when_an_upload_is_here() {
    let (outer, inner, busy) = (QueueLayer::new(4), QueueLayer::new(4), Busy::default());
    let service = outer.layer(inner.layer(reads(&busy)));
    let (first, request) = slow("a");
    let first_call = tokio::spawn(service.clone().oneshot(request));
    let (second, request) = slow("a");
    let second_call = tokio::spawn(service.clone().oneshot(request));
    tokio::time::sleep(secs(1)).await;
    assert_eq!((busy.now(), outer.stats().waiting), (1, 1));
    drop(first);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((busy.now(), outer.stats().waiting), (2, 0), "the first waits for its answer");
    drop(second);
    for call in [first_call, second_call] {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
}

/// Where the limit is found out, so is the part of it.
#[tokio::test(start_paused = true)]
async fn the_part_for_uploads_follows_a_limit_that_is_found_out() {
    let (layer, busy) = (QueueLayer::auto(1, 1_000).max_wait(secs(1_000)), Busy::default());
    let service = layer.layer(reads(&busy));
    let uploads: Vec<_> = (0..300)
        .map(|_| {
            let (sender, request) = slow("a");
            (sender, tokio::spawn(service.clone().oneshot(request)))
        })
        .collect();
    tokio::time::sleep(secs(1)).await;
    assert_eq!((layer.stats().limit, busy.now()), (10, 2));
    for _ in 0..200 {
        let calls = (0..50).map(async |number| {
            let answer = service.clone().oneshot(small(&number.to_string())).await.unwrap();
            answer.into_body().collect().await.unwrap();
        });
        futures_util::future::join_all(calls).await;
        if layer.stats().limit >= 40 {
            break;
        }
    }
    assert!(layer.stats().limit >= 40);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(busy.now(), usize::try_from(layer.stats().limit / 4).unwrap());
    uploads.iter().for_each(|(_, call)| call.abort());
    for (_, call) in uploads {
        drop(call.await);
    }
    is_empty(&layer);
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_holds_no_place_however_few_there_are() {
    for places in [1, 2, 4] {
        let (layer, busy) = (QueueLayer::new(places), Busy::default());
        let service = layer.layer(reads(&busy));
        let (sender, request) = slow("slow");
        let slow_call = tokio::spawn(service.clone().oneshot(request));
        tokio::time::sleep(secs(3)).await;
        let start = Instant::now();
        let calls: Vec<_> = (0..3 * places)
            .map(|number| tokio::spawn(service.clone().oneshot(small(&format!("tenant {}", number % 3)))))
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().status(), 200);
        }
        // As many at a time as there are places, after the second in which the upload still counts.
        assert!(start.elapsed() <= secs(4), "{places} places: {:?}", start.elapsed());
        // When it is here, it counts again.
        assert_eq!(busy.now(), 1);
        drop(sender);
        assert_eq!(slow_call.await.unwrap().unwrap().status(), 200);
        is_empty(&layer);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_has_come_counts_from_then_on() {
    let (layer, busy) = (QueueLayer::new(1), Busy::default());
    let service = layer.layer(reads(&busy));
    let (sender, request) = slow("slow");
    let slow_call = tokio::spawn(service.clone().oneshot(request));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waits = |tenant| tokio::spawn(service.clone().oneshot(small(tenant)));
    let calls = ["a", "b", "c", "d"].map(waits);
    drop(sender);
    let mut most = 0;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        most = most.max(busy.now());
    }
    assert_eq!(most, 1, "it was here before it was slow");
    slow_call.await.unwrap().unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    is_empty(&layer);
}
