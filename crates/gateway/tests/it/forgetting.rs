//! `POST /-/forget` deletes the stored data of callers.

use std::net::SocketAddr;

use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::client::{Outgoing, ask, chat, read};
use super::{Running, gateway};

const KEYS: &str = "acme:acme-key\nother:other-key\n";

fn keys() -> String {
    let path = format!("{}/forgetting-keys", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&path, KEYS).unwrap();
    path
}

fn of(gateway: &Running, tenant: &str, fault: &str) -> Request<Outgoing> {
    let mut request = chat(gateway.addr, false, fault);
    let key = format!("Bearer {tenant}-key");
    request.headers_mut().insert("authorization", key.parse().unwrap());
    // For the upstream, in addition to the gateway's key.
    request.headers_mut().insert("x-api-key", "of-the-upstream".parse().unwrap());
    request
}

async fn forget(addr: SocketAddr, query: &str) -> Response<Incoming> {
    ask(Request::post(format!("http://{addr}/-/forget{query}")).body(super::client::full("")).unwrap()).await
}

async fn forgotten(addr: SocketAddr, query: &str) -> Value {
    let answer = forget(addr, query).await;
    assert_eq!(answer.status(), 200, "{query}");
    serde_json::from_str(&read(answer.into_body()).await.0).unwrap()
}

#[tokio::test]
async fn what_is_kept_of_a_tenant_is_forgotten_and_then_all() {
    let keys = keys();
    let gateway =
        gateway(&["--caller-keys-file", &keys, "--last-good", "on", "--attempts", "1", "--admin", "127.0.0.1:0"]).await;
    let admin = gateway.admin.unwrap();
    let with_key = |tenant, fault| {
        let mut request = of(&gateway, tenant, fault);
        request.headers_mut().insert("idempotency-key", "one".parse().unwrap());
        request
    };
    let role = async |tenant| ask(with_key(tenant, "")).await.headers()["x-gateway-dedup"].to_str().unwrap().to_owned();
    for tenant in ["acme", "other"] {
        assert!(read(ask(with_key(tenant, "")).await.into_body()).await.1);
        assert_eq!(role(tenant).await, "replayed");
    }
    let said = forgotten(admin, "?tenant=acme").await;
    assert_eq!(said, json!({"forgotten": {"answers": 1, "last_good": 1, "conversations": 0}}));
    // Nothing of it is left, and the other's data is complete.
    assert_eq!(ask(of(&gateway, "acme", "status=503")).await.status(), 503);
    assert_eq!(ask(of(&gateway, "other", "status=503")).await.headers()["x-gateway-served-by"], "cache");
    assert_eq!(role("other").await, "replayed");
    assert_eq!(role("acme").await, "leader");

    assert!(forgotten(admin, "").await["forgotten"]["answers"].as_u64() >= Some(1));
    assert_eq!(role("other").await, "leader");
    assert_eq!(forgotten(admin, "?tenant=nobody").await["forgotten"]["answers"], 0);
}

#[tokio::test]
async fn it_is_not_done_by_mistake_nor_by_a_page_of_another_site() {
    let gateway = gateway(&["--last-good", "on"]).await;
    assert!(read(ask(of(&gateway, "someone", "")).await.into_body()).await.1);
    for query in ["?tennant=acme", "?tenant=", "?"] {
        assert_eq!(forget(gateway.addr, query).await.status(), 400, "{query}");
    }
    let get = Request::get(format!("http://{}/-/forget", gateway.addr)).body(super::client::full("")).unwrap();
    let answer = ask(get).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["allow"]), (405, &"POST".parse().unwrap()));
    let page = Request::post(format!("http://{}/-/forget", gateway.addr)).header("origin", "https://evil.example");
    assert_eq!(ask(page.body(super::client::full("")).unwrap()).await.status(), 403);
    // All of it is still there.
    assert_eq!(forgotten(gateway.addr, "").await["forgotten"]["answers"], 1);
}

#[tokio::test]
async fn beyond_loopback_only_the_admin_listener_has_it() {
    let gateway = gateway(&["--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"]).await;
    let main = SocketAddr::from(([127, 0, 0, 1], gateway.addr.port()));
    assert_eq!(forget(main, "").await.status(), 404);
    assert_eq!(forget(gateway.admin.unwrap(), "").await.status(), 200);
}
