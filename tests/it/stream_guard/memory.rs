//! What is withheld is counted with what the other layers hold.

use std::sync::Arc;

use http::{Method, Request};
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{Memory, StreamGuardLayer, Tenant};

use super::{Answer, CHAT, DONE, HELLO, ROLE, STOP, ask, read, status_and_code};
use crate::support::Log;
use crate::support::Step::{self, Data, Hang};

const KIB: usize = 1024;

/// 8 KiB, of which nothing is content.
fn prelude() -> &'static str {
    Box::leak(format!(": {}\n\n", "-".repeat(8 * KIB)).into_boxed_str())
}

/// Whole answers whose content comes late.
fn stream() -> Vec<Step> {
    vec![Data(ROLE), Data(prelude()), Data(HELLO), Data(STOP), Data(DONE)]
}

#[tokio::test(start_paused = true)]
async fn what_is_withheld_is_counted_until_it_is_handed_on() {
    let memory = Memory::new(64 * KIB);
    let layer = StreamGuardLayer::new().memory(memory.clone());
    let hangs = ask(layer.clone(), Method::POST, CHAT, Answer::stream([Data(prelude()), Hang]));
    let mut hangs = Box::pin(hangs);
    assert!(futures_util::poll!(&mut hangs).is_pending());
    assert_eq!(memory.used(), 16 * KIB, "it is counted in steps");
    drop(hangs);
    assert_eq!(memory.used(), 0);

    let response = ask(layer, Method::POST, CHAT, Answer::stream(stream())).await;
    assert_eq!(memory.used(), 16 * KIB, "its reader has not taken it");
    let (text, error) = read(response).await;
    assert!(text.ends_with(DONE) && error.is_none());
    assert_eq!(memory.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn when_it_is_spent_the_guard_lets_go_and_looks_on() {
    let log = Arc::new(Log::default());
    let layer = StreamGuardLayer::new().memory(Memory::new(8 * KIB)).observer(log.clone());
    let response = ask(layer.clone(), Method::POST, CHAT, Answer::stream([Data(ROLE), Data(prelude()), Hang])).await;
    assert_eq!(response.status(), 200, "its head is not withheld");
    assert_eq!(log.names(), ["bypassed: stream-guard"]);

    let cut = stream().into_iter().take(3);
    let (text, error) = read(ask(layer, Method::POST, CHAT, Answer::stream(cut)).await).await;
    assert!(text.starts_with(ROLE) && text.ends_with(HELLO), "unchanged");
    assert!(error.is_some(), "what ends without a reason is still an error");
}

#[tokio::test(start_paused = true)]
async fn when_it_is_spent_answers_and_errors_pass_as_they_are() {
    let body = Box::leak(format!("{{\"choices\": [], \"x\": \"{}\"}}", "-".repeat(8 * KIB)).into_boxed_str());
    for status in [200, 400] {
        let layer = StreamGuardLayer::new().memory(Memory::new(0));
        let response = ask(layer, Method::POST, CHAT, Answer::json(status, body)).await;
        assert_eq!(response.status(), status);
        let (text, error) = read(response).await;
        assert_eq!((text.as_str(), error.is_none()), (&*body, true));
    }
}

#[tokio::test(start_paused = true)]
async fn when_it_is_spent_nothing_is_held() {
    let hold = |memory| StreamGuardLayer::new().hold(64 * KIB).memory(memory);
    let memory = Memory::new(8 * KIB);
    let refused = ask(hold(memory.clone()), Method::POST, CHAT, Answer::stream(stream())).await;
    assert_eq!(status_and_code(&refused), Some((502, "no_memory".to_owned())));
    drop(refused);
    assert_eq!(memory.used(), 0);
    let body = Box::leak(format!("{{\"choices\": [], \"x\": \"{}\"}}", "-".repeat(8 * KIB)).into_boxed_str());
    let refused = ask(hold(Memory::new(8 * KIB)), Method::POST, CHAT, Answer::json(200, body)).await;
    assert_eq!(status_and_code(&refused), Some((502, "no_memory".to_owned())));
    let response = ask(hold(Memory::new(64 * KIB)), Method::POST, CHAT, Answer::stream(stream())).await;
    assert!(read(response).await.0.ends_with(DONE));
}

#[tokio::test(start_paused = true)]
async fn one_tenant_withholds_a_quarter() {
    let memory = Memory::new(64 * KIB);
    let layer = StreamGuardLayer::new().memory(memory.clone());
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, std::convert::Infallible>(Answer::stream([Data(prelude()), Hang]).response())
    }));
    let call = |tenant: &'static str| {
        let request = Request::builder().method(Method::POST).uri(CHAT).extension(Tenant::new(tenant));
        Box::pin(service.clone().oneshot(request.body(()).unwrap()))
    };
    let (mut first, mut second, mut other) = (call("one"), call("one"), call("other"));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_ready(), "beyond its share the guard lets go");
    assert!(futures_util::poll!(&mut other).is_pending(), "another tenant has its own");
    assert_eq!(memory.used(), 32 * KIB);
}
