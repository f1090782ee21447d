//! What an operator sees of a call: ids, times, traces, and the server of the answer.

use std::time::Duration;

use axum::Router;
use http::{Request, Response};
use hyper::body::Incoming;

use super::client::{ask, chat, full, read};
use super::{Running, gateway, gateway_before, soon};

fn header<'a>(answer: &'a Response<Incoming>, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn each_answer_has_the_id_of_its_call() {
    let gateway = gateway(&["--dedup", "off"]).await;
    let ask_as = |id: Option<&'static str>| {
        let mut request = chat(gateway.addr, false, "");
        if let Some(id) = id {
            request.headers_mut().insert("x-request-id", id.parse().unwrap());
        }
        ask(request)
    };
    let answer = ask_as(Some("mine-1.a_B")).await;
    assert_eq!(header(&answer, "x-request-id"), "mine-1.a_B");
    // The provider's own id identifies the call in a support request.
    assert_eq!(header(&answer, "x-gateway-upstream-request-id"), "req_00000001");
    assert_eq!(gateway.provider().seen()[0].headers["x-request-id"], "mine-1.a_B");

    let (one, other) = (ask_as(None).await, ask_as(Some("not an id")).await);
    let (one, other) = (header(&one, "x-request-id"), header(&other, "x-request-id"));
    assert!(one.len() == 16 && other.len() == 16 && one != other, "{one} {other}");
}

#[tokio::test]
async fn a_refusal_has_an_id_too() {
    let gateway = gateway(&["--caller-keys-file", &super::trust::keys()]).await;
    let mut request = chat(gateway.addr, false, "");
    request.headers_mut().insert("x-request-id", "mine".parse().unwrap());
    let answer = ask(request).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "x-request-id")), (401, "mine"));
}

#[tokio::test]
async fn an_answer_says_how_long_the_upstream_took() {
    let gateway = gateway(&["--dedup", "off"]).await;
    let answer = ask(chat(gateway.addr, true, "head=120ms")).await;
    let timing = header(&answer, "server-timing");
    let duration = |name: &str| -> f64 {
        let (_, rest) = timing.split_once(&format!("{name};dur=")).unwrap_or_else(|| panic!("{timing}"));
        rest.split(',').next().unwrap().trim().parse().unwrap()
    };
    assert!(duration("upstream") >= 119.0, "{timing}");
    assert!(duration("gateway") >= 0.0, "{timing}");
}

#[tokio::test]
async fn a_trace_goes_on_at_the_upstream() {
    let gateway = gateway(&[]).await;
    let mut request = chat(gateway.addr, false, "");
    let (parent, state) = ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=x");
    request.headers_mut().insert("traceparent", parent.parse().unwrap());
    request.headers_mut().insert("tracestate", state.parse().unwrap());
    ask(request).await;
    let seen = gateway.provider().seen()[0].headers.clone();
    assert_eq!((&seen["traceparent"], &seen["tracestate"]), (&parent.parse().unwrap(), &state.parse().unwrap()));
}

#[tokio::test]
async fn two_gateways_in_a_row_do_not_multiply_attempts() {
    let quick = ["--backoff-base", "5ms", "--dedup", "off", "--breaker", "off"];
    let inner = gateway(&quick).await;
    let outer = gateway(&[&quick[..], &["--upstream", &format!("http://{}", inner.addr)]].concat()).await;
    for (calls, fault) in [(3, "status=503"), (6, "reset"), (9, "error-after=0"), (12, "truncate-after=0")] {
        let answer = ask(chat(outer.addr, true, fault)).await;
        assert!(answer.status().is_server_error(), "{fault}");
        assert_eq!(header(&answer, "x-should-retry"), "false", "{fault}");
        assert_eq!(inner.provider().counts().calls, calls, "{fault}");
    }
}

#[tokio::test]
async fn nor_do_they_where_the_inner_one_begins_its_stream_early() {
    let quick = ["--backoff-base", "5ms", "--dedup", "off", "--breaker", "off"];
    let inner = gateway(&[&quick[..], &["--heartbeat-before-headers", "50ms"]].concat()).await;
    let outer = gateway(&[&quick[..], &["--upstream", &format!("http://{}", inner.addr)]].concat()).await;
    let answer = ask(chat(outer.addr, true, "head=100ms; status=503")).await;
    assert!(answer.status().is_server_error() && header(&answer, "x-should-retry") == "false", "{answer:?}");
    assert_eq!(inner.provider().counts().calls, 3);
}

#[tokio::test]
async fn plain_passes_everything_through_and_keeps_the_deadline() {
    let gateway = gateway(&["--plain", "--deadline", "700ms"]).await;
    let answer = ask(chat(gateway.addr, true, "gap=0s; truncate-after=2")).await;
    assert!(read(answer.into_body()).await.1, "an end is an end");
    let answer = ask(chat(gateway.addr, true, "status=503")).await;
    assert_eq!((answer.status().as_u16(), gateway.provider().counts().calls), (503, 2));
    assert_eq!(ask(chat(gateway.addr, true, "silent")).await.status(), 504);
}

#[tokio::test]
async fn readiness_follows_the_circuits() {
    let gateway = gateway(&["--attempts", "1", "--breaker-consecutive", "1"]).await;
    let ready = || ask(Request::get(format!("http://{}/-/readyz", gateway.addr)).body(full("")).unwrap());
    assert_eq!(ready().await.status(), 200);
    assert_eq!(ask(chat(gateway.addr, true, "status=500")).await.status(), 500);
    let answer = ready().await;
    assert_eq!(answer.status(), 503);
    assert_eq!(read(answer.into_body()).await.0, "all circuits are open\n");
    let alive = Request::get(format!("http://{}/-/healthz", gateway.addr)).body(full("")).unwrap();
    assert_eq!(ask(alive).await.status(), 200, "it lives");
}

/// The status and text of `/-/readyz`.
async fn readiness(gateway: &Running) -> (u16, String) {
    let answer = ask(Request::get(format!("http://{}/-/readyz", gateway.addr)).body(full("")).unwrap()).await;
    (answer.status().as_u16(), read(answer.into_body()).await.0)
}

/// Load balancers must send calls again once one may probe; otherwise the circuit would never close.
#[tokio::test]
async fn a_gateway_is_ready_again_when_the_open_time_is_over() {
    let options = ["--attempts", "1", "--breaker-consecutive", "1", "--breaker-open", "300ms", "--dedup", "off"];
    let gateway = gateway(&options).await;
    assert_eq!(ask(chat(gateway.addr, true, "status=500")).await.status(), 500);
    assert_eq!(readiness(&gateway).await.0, 503);
    soon(async {
        while readiness(&gateway).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(ask(chat(gateway.addr, true, "gap=0s")).await.status(), 200);
}

#[tokio::test]
async fn a_circuit_without_calls_does_not_make_a_gateway_ready() {
    let ratio = ["--attempts", "1", "--breaker-min-calls", "2", "--breaker-failure-ratio", "0.5", "--dedup", "off"];
    let gateway = gateway(&[&ratio[..], &["--breaker-window", "400ms", "--breaker-open-max", "1m"]].concat()).await;
    // The circuit of unknown models gets the first call, that of this model all others.
    assert_eq!(ask(chat(gateway.addr, false, "gap=0s")).await.status(), 200);
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..2 {
        assert_eq!(ask(chat(gateway.addr, false, "status=500")).await.status(), 500);
    }
    assert_eq!(readiness(&gateway).await, (503, "all circuits are open\n".to_owned()));
}

#[tokio::test]
async fn a_fallback_that_was_not_asked_yet_makes_a_gateway_ready() {
    let fallback = ["--fallback", "http://127.0.0.1:1", "--fallback-authorization-env", super::trust::OPERATOR];
    let options = ["--trust-callers", "--attempts", "1", "--breaker-min-calls", "1"];
    let gateway = gateway(&[&fallback[..], &options].concat()).await;
    // Concerns the caller's credential: the fallback is not tried.
    assert_eq!(ask(chat(gateway.addr, false, "status=429")).await.status(), 429);
    let circuits = Request::get(format!("http://{}/-/breakers", gateway.addr)).body(full("")).unwrap();
    let (circuits, _) = read(ask(circuits).await.into_body()).await;
    assert!(circuits.contains("\"state\":\"open\""), "{circuits}");
    assert_eq!(readiness(&gateway).await, (200, "ready\n".to_owned()));
}

#[tokio::test]
async fn the_simulated_provider_shows_the_way_and_a_real_upstream_is_not_shadowed() {
    let simulated = gateway(&[]).await;
    let root = |addr| ask(Request::get(format!("http://{addr}/")).body(full("")).unwrap());
    let (text, _) = read(root(simulated.addr).await.into_body()).await;
    assert!(text.contains("/v1/chat/completions") && text.contains("/-/"), "{text}");
    let real = super::forwarding::serve(Router::new().fallback(|| async { "theirs" })).await;
    let real = gateway_before(real).await;
    assert_eq!(read(root(real.addr).await.into_body()).await.0, "theirs");
}
