//! The fallback serves no stranger on the operator's account: one test per fault that a caller can provoke.

use axum::Router;
use axum::extract::Request as AxumRequest;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::any;

use super::again::backup;
use super::client::{ask, chat, read};
use super::forwarding::serve;
use super::trust::OPERATOR;
use super::{Running, gateway};

/// A gateway with the simulated provider, whose fallback has the operator's credential. Its callers are trusted, but
/// not identified.
async fn before(upstream: &[&str]) -> (Running, impl Fn() -> usize + use<>) {
    let (fallback, seen) = backup(StatusCode::OK).await;
    let own = ["--fallback", &fallback, "--fallback-authorization-env", OPERATOR, "--trust-callers"];
    let usual = ["--attempts", "1", "--dedup", "off", "--pace", "off"];
    let gateway = gateway(&[upstream, &own, &usual].concat()).await;
    (gateway, move || seen.lock().unwrap().len())
}

/// The status, and the server of the answer.
async fn answered(gateway: &Running, stream: bool, fault: &str, credential: Option<&str>) -> (u16, String) {
    let mut request = chat(gateway.addr, stream, fault);
    if let Some(credential) = credential {
        request.headers_mut().insert("authorization", credential.parse().unwrap());
    }
    let answer = ask(request).await;
    let served_by = answer.headers().get("x-gateway-served-by").map(|name| name.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    let (body, _) = read(answer.into_body()).await;
    assert!(!body.contains("from the backup"), "{fault}: {body}");
    (status, served_by.unwrap_or_default())
}

async fn refused_by_the_upstream(stream: bool, fault: &str, status: u16) {
    let (gateway, backups) = before(&[]).await;
    for credential in [None, Some("Bearer stranger")] {
        assert_eq!(answered(&gateway, stream, fault, credential).await, (status, "upstream".to_owned()), "{fault}");
    }
    assert_eq!(backups(), 0, "{fault}");
}

#[tokio::test]
async fn a_401() {
    refused_by_the_upstream(true, "status=401", 401).await;
}

#[tokio::test]
async fn a_401_that_is_to_be_tried_again() {
    refused_by_the_upstream(true, "status=401; should-retry=true", 401).await;
}

#[tokio::test]
async fn a_402() {
    refused_by_the_upstream(true, "status=402", 402).await;
}

#[tokio::test]
async fn a_403() {
    refused_by_the_upstream(true, "status=403", 403).await;
}

#[tokio::test]
async fn a_429() {
    refused_by_the_upstream(true, "status=429", 429).await;
}

#[tokio::test]
async fn a_quota_that_is_spent() {
    refused_by_the_upstream(true, "status=429; code=insufficient_quota", 429).await;
    // Behind another status.
    refused_by_the_upstream(false, "status=500; code=insufficient_quota", 500).await;
}

#[tokio::test]
async fn an_error_of_that_kind_in_a_stream() {
    refused_by_the_upstream(true, "error-after=0; code=insufficient_quota", 429).await;
    refused_by_the_upstream(true, "error-after=0; code=invalid_api_key", 401).await;
    refused_by_the_upstream(true, "error-after=0; code=rate_limit_exceeded", 429).await;
}

#[tokio::test]
async fn an_error_of_that_kind_in_a_body() {
    let body = r#"{"error":{"message":"no","type":"x","code":"insufficient_quota"}}"#;
    let answer = move |_: AxumRequest| async move { ([("content-type", "application/json")], body).into_response() };
    let upstream = format!("http://{}", serve(Router::new().fallback(any(answer))).await);
    let (gateway, backups) = before(&["--upstream", &upstream]).await;
    assert_eq!(answered(&gateway, false, "", Some("Bearer stranger")).await, (429, "upstream".to_owned()));
    assert_eq!(backups(), 0);
}

/// A stranger can provoke the refusals of the stack. Here callers are not even trusted. A fallback without a
/// credential is used, because the caller's is withheld; a fallback with the operator's is not.
#[tokio::test]
async fn a_413() {
    let answer = |_: AxumRequest| async { StatusCode::PAYLOAD_TOO_LARGE };
    let upstream = format!("http://{}", serve(Router::new().fallback(any(answer))).await);
    let (fallback, seen) = backup(StatusCode::OK).await;
    let options = ["--upstream", &upstream, "--fallback", &fallback, "--dedup", "off"];
    let operators = ["--fallback-authorization-env", OPERATOR, "--caller-keys-file"];
    let keys = super::trust::keys();
    let gateway = gateway(&[&options[..], &operators, &[&keys]].concat()).await;
    // A stranger gets only the refusal, whatever it sends.
    assert_eq!(answered(&gateway, false, "", Some("Bearer stranger")).await, (401, "gateway".to_owned()));
    assert_eq!(seen.lock().unwrap().len(), 0);
    // A caller that the operator knows may be served.
    let mut request = chat(gateway.addr, false, "");
    request.headers_mut().insert("authorization", "Bearer acme-key".parse().unwrap());
    assert_eq!(ask(request).await.headers()["x-gateway-served-by"], "fallback");
}

#[tokio::test]
async fn our_own_open_circuit() {
    let (fallback, seen) = backup(StatusCode::OK).await;
    let keys = super::trust::keys();
    let operators = ["--fallback", &fallback, "--fallback-authorization-env", OPERATOR, "--caller-keys-file", &keys];
    let quick = ["--attempts", "1", "--dedup", "off", "--breaker-consecutive", "1"];
    let gateway = gateway(&[&operators[..], &quick].concat()).await;
    let known = |fault| {
        let mut request = chat(gateway.addr, true, fault);
        request.headers_mut().insert("authorization", "Bearer acme-key".parse().unwrap());
        request
    };
    assert_eq!(ask(known("status=500")).await.headers()["x-gateway-served-by"], "fallback");
    // The circuit is open: known callers are served, strangers are not.
    assert_eq!(ask(known("")).await.headers()["x-gateway-served-by"], "fallback");
    assert_eq!(answered(&gateway, true, "", None).await, (401, "gateway".to_owned()));
    assert_eq!(answered(&gateway, true, "", Some("Bearer stranger")).await, (401, "gateway".to_owned()));
    assert_eq!((seen.lock().unwrap().len(), gateway.provider().counts().calls), (2, 1));
}
