//! Which callers are served, and on whose account.

use std::ffi::OsString;

use axum::Router;
use axum::extract::Request as AxumRequest;
use axum::routing::any;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tower_buttress_gateway::{Args, Stop};

use super::client::{Outgoing, ask, chat, raw, read};
use super::forwarding::serve;
use super::{Running, gateway, soon};

/// An existing variable, and its value.
pub(super) const OPERATOR: &str = "CARGO_PKG_NAME";
const OPERATOR_SECRET: &str = env!("CARGO_PKG_NAME");

/// A file with the keys of two tenants.
pub(super) fn keys() -> String {
    let path = format!("{}/caller-keys", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&path, "acme:acme-key\nother:other-key\n").unwrap();
    path
}

/// An upstream that returns the headers and path of each request.
async fn mirror() -> String {
    async fn show(request: AxumRequest) -> String {
        let shown = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        let headers: serde_json::Map<String, Value> =
            request.headers().iter().map(|(name, value)| (name.to_string(), shown(value).into())).collect();
        json!({"headers": headers, "uri": request.uri().to_string()}).to_string()
    }
    format!("http://{}", serve(Router::new().fallback(any(show))).await)
}

fn call(gateway: &Running, headers: &[(&'static str, &str)]) -> Request<Outgoing> {
    let mut request = chat(gateway.addr, false, "");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

async fn json_of(answer: Response<Incoming>) -> Value {
    serde_json::from_str(&read(answer.into_body()).await.0).unwrap()
}

fn wrong(options: &[&str]) -> String {
    match Args::read(["gateway"].iter().chain(options).map(OsString::from)) {
        Err(Stop::Wrong(line)) => line,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_credential_of_the_operator_is_not_for_all_callers() {
    for options in [
        &["--upstream", "http://h", "--upstream-authorization-env", OPERATOR][..],
        &["--upstream", "http://h", "--upstream-header", "x-api-key=CARGO_PKG_NAME"],
        &["--fallback", "http://h", "--fallback-authorization-env", OPERATOR],
        &["--fallback", "http://a", "--fallback", "http://b", "--fallback-header", "api-key=CARGO_PKG_NAME"],
    ] {
        let line = wrong(options);
        assert!(line.contains("--caller-keys-file") && line.contains("--trust-callers"), "{line}");
        assert!(!line.contains('\n') && !line.contains(OPERATOR_SECRET), "{line}");
        for trust in [&["--trust-callers"][..], &["--caller-keys-file", &keys()]] {
            assert!(Args::read(["gateway"].iter().chain(options).chain(trust).map(OsString::from)).is_ok());
        }
    }
    assert!(Args::read(["gateway", "--fallback", "http://h"].map(OsString::from)).is_ok(), "without an account");
}

#[test]
fn unreadable_keys_are_a_one_line_error() {
    let nowhere = std::env::temp_dir().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let line = wrong(&["--caller-keys-file", nowhere]);
    let expected = format!("invalid value '{nowhere}' for '--caller-keys-file <FILE>': cannot be read");
    assert!(line.starts_with(&expected), "{line}");
    assert!(wrong(&["--caller-keys-env", OPERATOR]).ends_with(": line 1 is not name:key"));
    assert!(
        wrong(&["--caller-keys-env", "GATEWAY_TEST_NO_SUCH_VARIABLE"])
            .ends_with("no environment variable of this name is set")
    );
}

#[tokio::test]
async fn callers_without_a_key_are_refused_before_their_body_is_read() {
    let gateway = gateway(&["--caller-keys-file", &keys()]).await;
    for headers in [&[][..], &[("authorization", "Bearer stranger")], &[("x-api-key", "acme-ke")]] {
        let answer = ask(call(&gateway, headers)).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["x-gateway-served-by"]),
            (401, &"gateway".parse().unwrap())
        );
        assert!(!answer.headers().contains_key("x-gateway-attempts"));
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        let problem = json_of(answer).await;
        assert_eq!(
            (&problem["error"]["code"], &problem["error"]["type"]),
            (&json!("invalid_api_key"), &json!("authentication_error"))
        );
    }
    // This body never arrives.
    let head = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
    assert!(soon(raw(gateway.addr, head)).await.starts_with("HTTP/1.1 401 Unauthorized\r\n"));
    assert_eq!(gateway.provider().counts().calls, 0);
}

#[tokio::test]
async fn a_callers_key_never_reaches_the_upstream() {
    let upstream = mirror().await;
    let keys = keys();
    let gateway = gateway(&["--upstream", &upstream, "--caller-keys-file", &keys]).await;
    for headers in [
        &[("authorization", "Bearer acme-key")][..],
        &[("x-api-key", "other-key")],
        &[("authorization", "Bearer acme-key"), ("x-api-key", "other-key")],
    ] {
        let seen = json_of(ask(call(&gateway, headers)).await).await;
        assert!(["acme-key", "other-key"].iter().all(|key| !seen.to_string().contains(key)), "{seen}");
    }
    // A client for several providers sends its key in more than one place.
    let copies = [
        ("x-api-key", "acme-key"),
        ("authorization", "Bearer acme-key"),
        ("api-key", "acme-key"),
        ("x-goog-api-key", "acme-key"),
        ("x-of-their-own", "acme-key"),
        ("cookie", "theme=dark; key=acme-key"),
    ];
    for first in &copies[..2] {
        let mut request = call(&gateway, &[&[*first], &copies[2..]].concat());
        *request.uri_mut() =
            format!("http://{}/v1?key=acme-key&alt=sse&token=acme%2Dkey", gateway.addr).parse().unwrap();
        let seen = json_of(ask(request).await).await;
        assert_eq!(seen["uri"], "/v1?alt=sse");
        assert!(!seen.to_string().contains("acme"), "{seen}");
    }
    // Credentials that are not the gateway's pass.
    let headers = [("authorization", "Bearer acme-key"), ("x-api-key", "of-the-provider")];
    let seen = json_of(ask(call(&gateway, &headers)).await).await;
    assert_eq!(
        (&seen["headers"]["x-api-key"], &seen["headers"]["authorization"]),
        (&json!("of-the-provider"), &Value::Null)
    );
}

#[tokio::test]
async fn the_operators_credential_stands_in_place_of_the_callers() {
    let upstream = mirror().await;
    let own = ["--upstream-authorization-env", OPERATOR, "--upstream-header", "x-goog-api-key=CARGO_PKG_NAME"];
    let gateway = gateway(&[&["--upstream", &upstream, "--trust-callers"], &own[..]].concat()).await;
    let mut request = call(&gateway, &[("authorization", "Bearer mine"), ("api-key", "mine"), ("cookie", "mine")]);
    *request.uri_mut() = format!("http://{}/v1?key=mine&alt=sse", gateway.addr).parse().unwrap();
    let seen = json_of(ask(request).await).await;
    assert_eq!(seen["headers"]["authorization"], OPERATOR_SECRET);
    assert_eq!(seen["headers"]["x-goog-api-key"], OPERATOR_SECRET);
    assert_eq!(seen["uri"], "/v1?alt=sse");
    assert!(!seen.to_string().contains("mine"), "{seen}");
}

/// Browsers cannot set headers of a WebSocket: OpenAI accepts the key among its protocols.
#[tokio::test]
async fn a_key_among_the_protocols_of_a_websocket_goes_to_no_other_account() {
    const PROTOCOLS: &str = "realtime, openai-insecure-api-key.sk-mine";
    let upstream = mirror().await;
    let shake = async |options: &[&str]| {
        let gateway = gateway(options).await;
        let request = Request::get(format!("http://{}/v1/realtime", gateway.addr))
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-protocol", PROTOCOLS)
            .header("sec-websocket-protocol", "openai-insecure-api-key.sk-mine, openai-beta.realtime-v1")
            .body(super::client::full(""));
        json_of(ask(request.unwrap()).await).await
    };
    let operator = ["--upstream", &upstream, "--upstream-authorization-env", OPERATOR, "--trust-callers"];
    let fallback = ["--upstream", "http://127.0.0.1:1", "--attempts", "1", "--fallback", &upstream];
    for options in [&operator[..], &fallback] {
        let seen = shake(options).await;
        assert!(!seen.to_string().contains("sk-mine"), "{seen}");
    }
    // The upstream that the caller means gets everything.
    assert!(shake(&["--upstream", &upstream]).await.to_string().contains("sk-mine"));
}

#[tokio::test]
async fn what_the_operator_has_as_a_credential_is_one_of_the_callers_too() {
    let upstream = mirror().await;
    let closed = "http://127.0.0.1:1";
    let own = "x-team-key=CARGO_PKG_NAME";
    for options in [
        &["--upstream", closed, "--upstream-header", own, "--fallback", &upstream][..],
        &["--upstream", closed, "--fallback", closed, "--fallback-header", own, "--fallback", &upstream],
        &[
            "--upstream",
            &upstream,
            "--upstream-authorization-env",
            OPERATOR,
            "--fallback",
            closed,
            "--fallback-header",
            own,
        ],
    ] {
        let gateway = gateway(&[options, &["--attempts", "1", "--trust-callers"]].concat()).await;
        let seen = json_of(ask(call(&gateway, &[("x-team-key", "mine"), ("x-team", "a")])).await).await;
        assert_eq!(
            (&seen["headers"]["x-team-key"], &seen["headers"]["x-team"]),
            (&Value::Null, &json!("a")),
            "{options:?}"
        );
    }
}

#[tokio::test]
async fn what_a_proxy_says_of_others_is_believed_where_it_is_trusted() {
    let upstream = mirror().await;
    for (options, believed) in
        [(&[][..], false), (&["--trusted-proxies", "10.0.0.0/8"], false), (&["--trusted-proxies", "127.0.0.0/8"], true)]
    {
        let gateway = gateway(&[&["--upstream", &upstream], options].concat()).await;
        let claims = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=192.0.2.1"),
            ("x_forwarded_for", "192.0.2.1"),
            ("cf-connecting-ip", "192.0.2.1"),
        ];
        let seen = json_of(ask(call(&gateway, &claims)).await).await;
        let seen = |name: &str| seen["headers"][name].as_str().map(str::to_owned);
        let (chain, proto) = if believed { ("192.0.2.1, 127.0.0.1", "https") } else { ("127.0.0.1", "http") };
        assert_eq!(seen("x-forwarded-for").as_deref(), Some(chain));
        assert_eq!(seen("x-forwarded-proto").as_deref(), Some(proto));
        for name in ["forwarded", "x_forwarded_for", "cf-connecting-ip"] {
            assert_eq!(seen(name).is_some(), believed, "{name}");
        }
    }
}

#[tokio::test]
async fn a_tenants_answer_is_for_that_tenant() {
    let keys = keys();
    let gateway = gateway(&["--caller-keys-file", &keys]).await;
    let role = |key: &'static str| {
        let request = call(&gateway, &[("x-api-key", key)]);
        async { ask(request).await.headers()["x-gateway-dedup"].to_str().unwrap().to_owned() }
    };
    assert_eq!((role("acme-key").await, role("acme-key").await), ("leader".to_owned(), "replayed".to_owned()));
    assert_eq!(role("other-key").await, "leader");
}

#[tokio::test]
async fn a_header_that_names_a_tenant_does_not_stand_for_a_credential() {
    let gateway = gateway(&["--dedup-tenant-header", "x-user"]).await;
    let role = |user: &'static str, key: &'static str| {
        let request = call(&gateway, &[("x-user", user), ("authorization", key)]);
        async { ask(request).await.headers()["x-gateway-dedup"].to_str().unwrap().to_owned() }
    };
    assert_eq!((role("u", "valid").await, role("u", "valid").await), ("leader".to_owned(), "replayed".to_owned()));
    // A caller that writes the header does not get the answer of another key.
    assert_eq!((role("u", "forged").await, role("v", "valid").await), ("leader".to_owned(), "leader".to_owned()));
}

#[tokio::test]
async fn fallbacks_are_a_chain_each_with_its_own_credential() {
    let (first, second) = (mirror().await, mirror().await);
    let closed = "http://127.0.0.1:1";
    let options = [
        &["--trust-callers", "--attempts", "1", "--fallback", closed, "--fallback-header", "api-key=CARGO_PKG_NAME"][..],
        &["--fallback", &first, "--fallback-header", "x-api-key=CARGO_PKG_NAME", "--fallback", &second],
    ];
    let gateway = gateway(&options.concat()).await;
    let mut request = call(&gateway, &[("authorization", "Bearer mine")]);
    request.headers_mut().insert("x-fault", "reset".parse().unwrap());
    let answer = ask(request).await;
    assert_eq!(answer.headers()["x-gateway-served-by"], "fallback-2");
    let seen = json_of(answer).await;
    assert_eq!((&seen["headers"]["x-api-key"], &seen["headers"]["api-key"]), (&json!(OPERATOR_SECRET), &Value::Null));
    assert_eq!(seen["headers"]["authorization"], Value::Null);
}

/// Calls with this credential and fault: returns the server of the answer, and the status.
async fn served(gateway: &Running, fault: &str, credential: Option<&str>) -> (String, u16) {
    let mut request = chat(gateway.addr, false, fault);
    if let Some(credential) = credential {
        request.headers_mut().insert("authorization", credential.parse().unwrap());
    }
    let answer = ask(request).await;
    (answer.headers()["x-gateway-served-by"].to_str().unwrap().to_owned(), answer.status().as_u16())
}

#[tokio::test]
async fn no_stranger_is_served_by_the_fallback_on_the_operators_account() {
    let backup = mirror().await;
    let fallback = ["--fallback", &backup, "--fallback-authorization-env", OPERATOR, "--dedup", "off"];
    // An unauthenticated caller, and one with a valid key for the gateway but not for the upstream.
    for trust in [&["--trust-callers"][..], &["--caller-keys-file", &keys()]] {
        let gateway = gateway(&[&fallback[..], trust, &["--attempts", "1"]].concat()).await;
        for (fault, status) in [
            ("status=401", 401),
            ("status=401; should-retry=true", 401),
            ("status=402", 402),
            ("status=403", 403),
            ("status=429", 429),
            ("status=429; code=insufficient_quota", 429),
        ] {
            let gateway_key = Some("Bearer acme-key");
            assert_eq!(served(&gateway, fault, gateway_key).await, ("upstream".to_owned(), status), "{fault}");
            if trust.len() == 1 {
                for credential in [Some("Bearer stranger"), None] {
                    assert_eq!(served(&gateway, fault, credential).await, ("upstream".to_owned(), status), "{fault}");
                }
            }
        }
        // Faults of the upstream itself differ.
        assert_eq!(served(&gateway, "status=500", Some("Bearer acme-key")).await, ("fallback".to_owned(), 200));
    }
}

#[tokio::test]
async fn where_the_operator_pays_for_both_the_fallback_serves_what_the_primary_refuses() {
    let backup = mirror().await;
    // The simulated provider accepts any credential.
    let own = ["--upstream-authorization-env", OPERATOR, "--caller-keys-file", &keys()].map(str::to_owned);
    let fallback =
        ["--fallback", &backup, "--fallback-authorization-env", OPERATOR, "--attempts", "1", "--dedup", "off"];
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let gateway = gateway(&[&fallback[..], &own].concat()).await;
    for fault in ["status=401", "status=403", "status=429", "status=500"] {
        assert_eq!(served(&gateway, fault, Some("Bearer acme-key")).await, ("fallback".to_owned(), 200), "{fault}");
        assert_eq!(served(&gateway, fault, Some("Bearer stranger")).await, ("gateway".to_owned(), 401), "{fault}");
    }
}
