//! What is held for all calls together.

use std::convert::Infallible;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{Layer, Service, ServiceExt, service_fn};
#[cfg(feature = "schema")]
use tower_buttress::StructuredOutputLayer;
use tower_buttress::{
    CallBody, DedupLayer, InspectRequestLayer, Memory, RetryAfterBackoffLayer, Tenant, TimeoutProfile, presets,
};
#[cfg(feature = "llm")]
use tower_buttress::{LastGoodLayer, StreamGuardLayer};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// 2 MiB, a frame at a time.
fn slow_upload() -> CallBody {
    let frames = stream::unfold(0, |sent| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let frame = Frame::data(Bytes::from_static(&[b'x'; 64 * KIB]));
        (sent < 32).then_some((Ok::<_, Infallible>(frame), sent + 1))
    });
    CallBody::new(StreamBody::new(Box::pin(frames)))
}

#[tokio::test(start_paused = true)]
async fn five_thousand_slow_uploads_stay_within_the_memory() {
    // To be sent again; and to be recognised, inspected and sent again.
    within_the_memory(presets::http_client(TimeoutProfile::STANDARD), Method::PUT, 5_000, 64 * MIB).await;
    within_the_memory(presets::llm_gateway(TimeoutProfile::STANDARD), Method::POST, 250, 16 * MIB).await;
}

async fn within_the_memory(preset: presets::ResilienceLayer, method: Method, uploads: usize, limit: usize) {
    let memory = Memory::new(limit);
    let (most, whole) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let upstream = {
        let (memory, most, whole) = (memory.clone(), most.clone(), whole.clone());
        service_fn(move |request: Request<CallBody>| {
            let (memory, most, whole) = (memory.clone(), most.clone(), whole.clone());
            async move {
                let (mut body, mut bytes) = (request.into_body(), 0);
                while let Some(frame) = body.frame().await {
                    bytes += frame.unwrap().into_data().unwrap().len();
                    most.fetch_max(memory.used(), SeqCst);
                }
                whole.fetch_add(usize::from(bytes == 2 * MIB), SeqCst);
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
            }
        })
    };
    let service = preset.memory(memory.clone()).layer(upstream);
    let calls = (0..uploads).map(|nth| {
        let request = Request::builder().method(method.clone()).uri("/v1/chat/completions");
        let request =
            request.header("content-type", "application/json").header("authorization", format!("Bearer {nth}"));
        service.clone().oneshot(request.body(slow_upload()).unwrap())
    });
    let answers = join_all(calls).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().status() == 200));
    assert_eq!(whole.load(SeqCst), uploads, "each passed whole, recorded or not");
    let most = most.load(SeqCst);
    assert!((limit / 2..=limit).contains(&most), "{} MiB were held", most / MIB);
    assert_eq!(memory.used(), 0);
}

/// The callers of most applications have no tenant.
#[tokio::test(start_paused = true)]
async fn one_callers_slow_uploads_leave_room_for_the_others() {
    let stalled = || {
        let begun =
            stream::iter((0..8).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 64 * KIB])))));
        CallBody::new(StreamBody::new(begun.chain(stream::pending())))
    };
    let put = |credential: Option<&'static str>, body| {
        let request = Request::put("/").header("content-type", "application/json");
        credential.into_iter().fold(request, |request, key| request.header("x-api-key", key)).body(body).unwrap()
    };
    for (one, other) in [(Some("mallory"), Some("alice")), (Some("mallory"), None), (None, Some("alice"))] {
        let (memory, calls) = (Memory::new(16 * MIB), Arc::<AtomicUsize>::default());
        let upstream = service_fn(move |request: Request<CallBody>| {
            let calls = calls.clone();
            async move {
                request.into_body().collect().await.unwrap();
                let status = if calls.fetch_add(1, SeqCst) == 0 { 503 } else { 200 };
                Ok::<_, Infallible>(Response::builder().status(status).body(Full::<Bytes>::default()).unwrap())
            }
        });
        let inspect = InspectRequestLayer::new(|_, _| {}).memory(memory.clone());
        let uploads = join_all((0..40).map(|_| inspect.layer(upstream.clone()).oneshot(put(one, stalled()))));
        let call = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!((3 * MIB..=4 * MIB).contains(&memory.used()), "{} KiB", memory.used() / KIB);
            let retry = RetryAfterBackoffLayer::new().memory(memory.clone());
            retry.layer(upstream.clone()).oneshot(put(other, slow_upload())).await.unwrap()
        };
        let answer = tokio::select! {
            _ = uploads => panic!("they are stalled"),
            answer = call => answer,
        };
        assert_eq!((answer.status().as_u16(), memory.used()), (200, 0), "{one:?}, {other:?}: not sent again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_there_is_no_memory_for_passes_unread() {
    let memory = Memory::new(MIB);
    let seen = Arc::<AtomicUsize>::default();
    let counted = seen.clone();
    let inspect = InspectRequestLayer::new(move |_, _| {
        counted.fetch_add(1, SeqCst);
    });
    let upstream = service_fn(|request: Request<CallBody>| async {
        let bytes = request.into_body().collect().await.unwrap().to_bytes().len();
        Ok::<_, Infallible>(Response::new(bytes))
    });
    let service = inspect.memory(memory.clone()).layer(upstream);
    let ask = |tenant: &str| {
        let request = Request::post("/").header("content-type", "application/json").extension(Tenant::new(tenant));
        service.clone().oneshot(request.body(slow_upload()).unwrap())
    };
    let (one, other) = tokio::join!(ask("one"), ask("other"));
    assert_eq!((one.unwrap().into_body(), other.unwrap().into_body()), (2 * MIB, 2 * MIB));
    assert_eq!((seen.load(SeqCst), memory.used()), (0, 0));
}

/// Answers to one caller, each of which stops after 192 KiB.
#[tokio::test(start_paused = true)]
async fn one_callers_answers_leave_room_for_the_others() {
    async fn stalled(_: Request<CallBody>) -> Result<Response<CallBody>, Infallible> {
        let text = br#"{"choices":[{"index":0,"message":{"role":"assistant","content":""#;
        let begun = [&text[..]].into_iter().chain([&[b'x'; 64 * KIB][..]; 3]);
        let frames = stream::iter(begun.map(|data| Ok::<_, Infallible>(Frame::data(Bytes::from_static(data)))));
        let body = CallBody::new(StreamBody::new(frames.chain(stream::pending())));
        Ok(Response::builder().header("content-type", "application/json").body(body).unwrap())
    }
    let (upstream, memory) = (service_fn(stalled), || Memory::new(16 * MIB));
    let dedup = memory();
    one_callers_answers_hold_a_quarter("dedup", DedupLayer::new().memory(dedup.clone()).layer(upstream), dedup).await;
    #[cfg(feature = "llm")]
    {
        let (guard, last_good) = (memory(), memory());
        let hold = StreamGuardLayer::new().hold(MIB).memory(guard.clone());
        one_callers_answers_hold_a_quarter("stream guard", hold.layer(upstream), guard).await;
        let kept = LastGoodLayer::new().memory(last_good.clone());
        one_callers_answers_hold_a_quarter("last good", kept.layer(upstream), last_good).await;
    }
    #[cfg(feature = "schema")]
    {
        let output = memory();
        let structured = StructuredOutputLayer::new().memory(output.clone());
        one_callers_answers_hold_a_quarter("structured output", structured.layer(upstream), output).await;
    }
}

async fn one_callers_answers_hold_a_quarter<S, B>(layer: &str, service: S, memory: Memory)
where
    S: Service<Request<CallBody>, Response = Response<B>, Error: fmt::Debug> + Clone,
    B: Body<Error: fmt::Debug>,
{
    let mut calls = pin!(join_all((0..40).map(|nth| {
        let body = format!(r#"{{"model":"m","messages":[],"seed":{nth},"response_format":{{"type":"json_object"}}}}"#);
        let request = Request::post("http://api/v1/chat/completions").header("content-type", "application/json");
        let request = request.header("authorization", "Bearer mallory").body(CallBody::from(Bytes::from(body)));
        let call = service.clone().oneshot(request.unwrap());
        async { call.await.unwrap().into_body().collect().await.is_ok() }
    })));
    // Dropped with its branch, it would hold nothing any more.
    tokio::select! {
        _ = &mut calls => panic!("they are stalled"),
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
    assert!((3 * MIB..=4 * MIB).contains(&memory.used()), "{layer}: {} KiB", memory.used() / KIB);
}
