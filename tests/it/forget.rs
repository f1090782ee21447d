//! What is kept of a tenant is forgotten when its operator says so, and what is kept of others is not.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::{CallBody, DedupLayer, DedupRole, SupersedeLayer, Tenant};

use crate::support::secs;

fn request(tenant: Option<&str>, text: &'static str) -> Request<Full<Bytes>> {
    let mut request = Request::post("/v1/chat/completions")
        .header("content-type", "application/json")
        .header("idempotency-key", "one")
        .header("authorization", "Bearer anyone")
        .header("x-conversation-id", "7")
        .body(Full::from(text))
        .unwrap();
    if let Some(tenant) = tenant {
        request.extensions_mut().insert(Tenant::new(tenant));
    }
    request
}

/// An upstream that answers after a second, and counts its calls.
fn upstream(
    calls: &Arc<AtomicUsize>,
) -> impl Service<Request<CallBody>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> + Clone + use<>
{
    let calls = calls.clone();
    service_fn(move |_: Request<CallBody>| {
        calls.fetch_add(1, SeqCst);
        async {
            tokio::time::sleep(secs(1)).await;
            Ok(Response::builder().header("content-length", "6").body(Full::from("answer")).unwrap())
        }
    })
}

#[tokio::test(start_paused = true)]
async fn answers_to_keys_of_a_tenant_are_forgotten() {
    let calls = Arc::default();
    // The tenant is told apart by more than its name.
    let layer = DedupLayer::new().tenant(|parts| Some(parts.headers["authorization"].as_bytes().to_vec()));
    let service = layer.layer(upstream(&calls));
    let role = |tenant: Option<&'static str>| {
        let service = service.clone();
        async move {
            let response = service.oneshot(request(tenant, "{}")).await.unwrap();
            let role = response.extensions().get::<DedupRole>().copied().unwrap();
            response.into_body().collect().await.unwrap();
            role
        }
    };
    let callers = [Some("acme"), Some("other"), None];
    for caller in callers {
        assert_eq!(role(caller).await, DedupRole::Leader);
        assert_eq!(role(caller).await, DedupRole::Replayed);
    }
    assert_eq!(layer.forget(&Tenant::new("acme")), 1);
    assert_eq!(role(Some("acme")).await, DedupRole::Leader);
    assert_eq!((role(Some("other")).await, role(None).await), (DedupRole::Replayed, DedupRole::Replayed));
    assert_eq!(layer.forget_all(), 3);
    for caller in callers {
        assert_eq!(role(caller).await, DedupRole::Leader);
    }
    assert_eq!(calls.load(SeqCst), 7);
}

#[tokio::test(start_paused = true)]
async fn superseded_messages_of_a_tenant_are_forgotten() {
    let calls = Arc::default();
    let layer = SupersedeLayer::by_header(HeaderName::from_static("x-conversation-id"));
    let service = layer.layer(upstream(&calls));
    let say = |tenant: &'static str, text: &'static str| {
        let service = service.clone();
        async move {
            let response = service.oneshot(request(Some(tenant), text)).await.unwrap();
            let status = response.status().as_u16();
            response.into_body().collect().await.unwrap();
            status
        }
    };
    for tenant in ["acme", "other"] {
        let older = tokio::spawn(say(tenant, "older"));
        tokio::time::sleep(secs(1) / 2).await;
        assert_eq!(say(tenant, "newer").await, 200);
        assert_eq!((older.await.unwrap(), say(tenant, "older").await), (410, 410));
    }
    assert_eq!(layer.forget(&Tenant::new("acme")), 1);
    assert_eq!((say("acme", "older").await, say("other", "older").await), (200, 410));
    assert_eq!(layer.forget_all(), 1);
    assert_eq!(say("other", "older").await, 200);
}

#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn last_good_answers_of_a_tenant_are_forgotten() {
    use crate::last_good::{Upstream, WHOLE, json, status};
    use tower_buttress::LastGoodLayer;

    const QUESTION: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hello?"}]}"#;

    let upstream = Upstream::new();
    let layer = LastGoodLayer::new();
    let service = layer.layer(upstream.service());
    let ask = |tenant: &'static str| {
        let service = service.clone();
        async move {
            let response = service.oneshot(request(Some(tenant), QUESTION)).await.unwrap();
            let status = response.status().as_u16();
            response.into_body().collect().await.unwrap();
            status
        }
    };
    upstream.set(json(WHOLE));
    assert_eq!((ask("acme").await, ask("other").await), (200, 200));
    upstream.set(status(503));
    assert_eq!((ask("acme").await, ask("other").await), (200, 200));
    assert_eq!(layer.forget(&Tenant::new("acme")), 1);
    assert_eq!((ask("acme").await, ask("other").await), (503, 200));
    assert_eq!(layer.forget_all(), 1);
    assert_eq!(ask("other").await, 503);
}
