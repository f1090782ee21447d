//! Routes: the upstream of each call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tower_buttress_gateway::Provider;

use super::client::{Outgoing, ask, full, raw, read};
use super::config::Config;
use super::forwarding::serve;
use super::{Running, gateway};

async fn call(gateway: &Running, path: &str, model: &str) -> Response<Incoming> {
    let body = json!({ "model": model, "stream": true, "messages": [{ "role": "user", "content": "Hello" }] });
    let request = Request::post(format!("http://{}{path}", gateway.addr))
        .header("content-type", "application/json")
        .body(full(body.to_string()));
    ask(request.unwrap()).await
}

async fn providers<const N: usize>() -> [(Provider, String); N] {
    let mut providers = Vec::new();
    for _ in 0..N {
        let provider = Provider::start().await.unwrap();
        let url = format!("http://{}", provider.addr());
        providers.push((provider, url));
    }
    providers.try_into().unwrap()
}

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn the_first_route_that_a_call_is_among_answers_it() {
    let [(rest, rest_url), (deep, deep_url), (other, other_url)] = providers::<3>().await;
    let config = Config::new(&format!(
        "upstream = \"{rest_url}\"\n\
         [[route]]\nname = \"deep\"\npath = \"/v1/\"\nmodel = \"deep-*\"\nupstream = \"{deep_url}\"\n\
         [[route]]\nname = \"other\"\npath = \"/v1/chat\"\nmodel = \"*p-2\"\nupstream = \"{other_url}\"\n",
    ));
    let gateway = gateway(&["--config", config.path()]).await;
    let calls = || [&rest, &deep, &other].map(|provider| provider.counts().calls);
    for (model, expected) in [("deep-2", [0, 1, 0]), ("sleep-2", [0, 1, 1]), ("shallow", [1, 1, 1])] {
        let answer = call(&gateway, CHAT, model).await;
        assert_eq!(answer.status(), StatusCode::OK, "{model}");
        assert!(read(answer.into_body()).await.1);
        assert_eq!(calls(), expected, "{model}");
    }
    // A call without a known model matches no route with a `model`.
    let request = Request::get(format!("http://{}/v1/models", gateway.addr)).body(full(""));
    assert_eq!(ask(request.unwrap()).await.status(), StatusCode::OK);
    assert_eq!(calls(), [1, 1, 1]);
}

#[tokio::test]
async fn no_spelling_of_a_path_leads_around_a_route() {
    let [(rest, rest_url), (own, own_url)] = providers::<2>().await;
    let config = Config::new(&format!(
        "upstream = \"{rest_url}\"\n[[route]]\nname = \"own\"\npath = \"/v1/\"\nupstream = \"{own_url}\"\n"
    ));
    let gateway = gateway(&["--config", config.path()]).await;
    for path in [
        "//v1/chat/completions",
        "/./v1/chat/completions",
        "/x/../v1/chat/completions",
        "/%2e/v1/chat/completions",
        "/x/..;/v1/chat/completions",
        "/x/%2e%2e/v1/chat/completions",
        "/%76%31/chat/completions",
        "/V1/chat/completions",
        "/v1/../chat",
    ] {
        let answer =
            raw(gateway.addr, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("path-ambiguous"), "{path}: {answer}");
    }
    assert_eq!([rest.counts().calls, own.counts().calls], [0, 0]);
    // Unambiguous paths pass unchanged.
    for path in ["/v1/models/org%2Fmodel", "/v1/./x", "/v2//x;y"] {
        let answer =
            raw(gateway.addr, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 ") && !answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_body_of_which_parsers_read_different_models_is_refused_where_the_route_depends_on_it() {
    let [(rest, rest_url), (own, own_url)] = providers::<2>().await;
    let config = Config::new(&format!(
        "upstream = \"{rest_url}\"\n[[route]]\nname = \"own\"\nmodel = \"deep\"\npath = \"/v1/\"\nupstream = \"{own_url}\"\n"
    ));
    let gateway = gateway(&["--config", config.path()]).await;
    let send = async |path: &str, body: &'static str| {
        let request =
            Request::post(format!("http://{}{path}", gateway.addr)).header("content-type", "application/json");
        let answer = ask(request.body(full(body)).unwrap()).await;
        (answer.status().as_u16(), read(answer.into_body()).await.0)
    };
    for body in [
        r#"{"model":"deep","model":"sim"}"#,
        r#"{"model":"sim","model":"deep"}"#,
        r#"{"Model":"deep"}"#,
        r#"{"model":"sim","MODEL":"deep"}"#,
        r#"{"model":"deep"} x"#,
    ] {
        let (status, problem) = send(CHAT, body).await;
        assert!(status == 400 && problem.contains("model-unclear"), "{body}: {status} {problem}");
    }
    assert_eq!([rest.counts().calls, own.counts().calls], [0, 0]);
    // Whatever the content type: some upstreams ignore it.
    let send_as = async |content_type: &'static str, body: &'static str| {
        let request = Request::post(format!("http://{}{CHAT}", gateway.addr)).header("content-type", content_type);
        ask(request.body(full(body)).unwrap()).await.status().as_u16()
    };
    let deep = r#"{"model":"deep","messages":[{"role":"user","content":"Hello"}]}"#;
    assert_eq!(send_as("text/plain", deep).await, 200);
    assert_eq!([rest.counts().calls, own.counts().calls], [0, 1]);
    assert_eq!(send_as("text/plain", r#" {"model":"deep"} x"#).await, 400);
    assert_eq!([rest.counts().calls, own.counts().calls], [0, 1]);
    let form = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ndeep\r\n--b--\r\n";
    send_as("multipart/form-data; boundary=b", form).await;
    assert_eq!([rest.counts().calls, own.counts().calls], [1, 1], "an upload is of no model");
    // If the model chooses nothing, the upstream judges.
    let (status, problem) = send("/v2/chat/completions", r#"{"model":"sim","model":"deep"}"#).await;
    assert!(status != 400 || !problem.contains("model-unclear"), "{status} {problem}");
}

#[tokio::test]
async fn no_form_of_a_body_leads_around_the_route_of_its_model() {
    // Upstreams that accept requests of any length.
    let counts = [(); 2].map(|()| Arc::<AtomicU32>::default());
    let upstream = |count: Arc<AtomicU32>| {
        let answer = async move |body: Body| {
            count.fetch_add(u32::from(body.collect().await.is_ok()), Relaxed);
            "taken"
        };
        serve(Router::new().fallback(answer))
    };
    let (rest, own) = (upstream(counts[0].clone()).await, upstream(counts[1].clone()).await);
    let config = Config::new(&format!(
        "upstream = \"http://{rest}\"\n[[route]]\nname = \"own\"\nmodel = \"deep\"\nupstream = \"http://{own}\"\n"
    ));
    let gateway = gateway(&["--config", config.path()]).await;
    let calls = || counts.each_ref().map(|count| count.load(Relaxed));
    let send_by = async |method: &str, headers: &[(&str, &str)], body: Outgoing| {
        let mut request = Request::builder().method(method).uri(format!("http://{}{CHAT}", gateway.addr));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = ask(request.body(body).unwrap()).await;
        (answer.status().as_u16(), read(answer.into_body()).await.0)
    };
    let send = async |headers: &[(&str, &str)], body: Outgoing| send_by("POST", headers, body).await;
    let json = [("content-type", "application/json")];
    let deep = |length: usize| {
        let padding = " ".repeat(length);
        format!(r#"{{"messages":[{{"role":"user","content":"Hello"}}]{padding},"model":"deep"}}"#)
    };
    let chunked = |body: String| {
        let chunks: Vec<_> =
            body.as_bytes().chunks(1_000).map(|chunk| Ok(Frame::data(chunk.to_vec().into()))).collect();
        StreamBody::new(futures_util::stream::iter(chunks)).boxed_unsync()
    };
    const MIB: usize = 1024 * 1024;
    assert_eq!(send(&json, chunked(deep(0))).await.0, 200);
    assert_eq!(calls(), [0, 1], "in chunks");
    assert_eq!(send(&[("content-type", "text/plain")], chunked(deep(10_000))).await.0, 200);
    assert_eq!(calls(), [0, 2], "in chunks, by another name");
    // Scanning everything again for each chunk would take too long.
    let spaces = " ".repeat(8 * MIB);
    assert_eq!(send(&[("content-type", "text/plain")], chunked(spaces + &deep(0))).await.0, 200);
    assert_eq!(calls(), [0, 3], "behind much space");
    assert_eq!(send(&json, full(deep(3 * MIB))).await.0, 200);
    assert_eq!(calls(), [0, 4], "long");
    for method in ["PUT", "PATCH", "GET"] {
        assert_eq!(send_by(method, &json, full(deep(0))).await.0, 200);
    }
    assert_eq!(calls(), [0, 7], "by another method");
    for (headers, body) in [
        (vec![json[0], ("content-encoding", "gzip")], full("not looked into")),
        (vec![], full(deep(0).encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>())),
    ] {
        let (status, problem) = send(&headers, body).await;
        assert!(status == 400 && problem.contains("model_unclear"), "{headers:?}: {status} {problem}");
    }
    for body in [full(deep(32 * MIB)), chunked(deep(32 * MIB))] {
        let (status, problem) = send(&json, body).await;
        assert!(status == 413 && problem.contains("request_too_large"), "{status} {problem}");
    }
    assert_eq!(calls(), [0, 7]);
    // A body that is not JSON has no model, at any length.
    let file = || "x".repeat(3 * MIB);
    for body in [full(file()), chunked(file())] {
        send(&[("content-type", "application/octet-stream")], body).await;
    }
    assert_eq!(calls(), [2, 7]);
}

#[tokio::test]
async fn a_model_in_the_path_is_the_one_that_counts() {
    let counts = [(); 2].map(|()| Arc::<AtomicU32>::default());
    let upstream = |count: Arc<AtomicU32>| {
        let answer = async move || {
            count.fetch_add(1, Relaxed);
            "{}"
        };
        serve(Router::new().fallback(answer))
    };
    let (rest, own) = (upstream(counts[0].clone()).await, upstream(counts[1].clone()).await);
    let config = Config::new(&format!(
        "upstream = \"http://{rest}\"\ndedup = false\n\
         [[route]]\nname = \"own\"\nmodel = \"deep\"\nupstream = \"http://{own}\"\n"
    ));
    let gateway = gateway(&["--config", config.path()]).await;
    let calls = || counts.each_ref().map(|count| count.load(Relaxed));
    let send = async |path: &str, body: &str| {
        let request =
            Request::post(format!("http://{}{path}", gateway.addr)).header("content-type", "application/json");
        let answer = ask(request.body(full(body.to_owned())).unwrap()).await;
        (answer.status().as_u16(), read(answer.into_body()).await.0)
    };
    for (nth, (path, body)) in (1..).zip([
        ("/v1beta/models/deep:generateContent", r#"{"contents":[]}"#),
        ("/v1beta/models/d%65ep:streamGenerateContent?alt=sse", "{}"),
        ("/v1beta/models/deep:embedContent", r#"{"model":"models/deep"}"#),
        ("/openai/deployments/deep/chat/completions?api-version=1", r#"{"model":"deep"}"#),
        ("/openai/Deployments/Deep/chat/completions", r#"{"messages":[]}"#),
        ("/model/deep/converse", "{}"),
        ("/v1/projects/p/publishers/anthropic/models/deep:rawPredict", ""),
    ]) {
        assert_eq!((send(path, body).await.0, calls()), (200, [0, nth]), "{path}");
    }
    for (path, body) in [
        ("/openai/deployments/sim/chat/completions", r#"{"model":"deep"}"#),
        ("/openai/deployments/deep/chat/completions", r#"{"model":"sim"}"#),
        ("/v1beta/models%2Fdeep:generateContent", "{}"),
        ("/openai/deployments/sim/../deep/chat/completions", "{}"),
    ] {
        let (status, problem) = send(path, body).await;
        assert!(status == 400 && problem.contains("model-unclear"), "{path}: {status} {problem}");
    }
    assert_eq!(calls(), [0, 7]);
    assert_eq!((send("/v1beta/models/sim:generateContent", "{}").await.0, calls()), (200, [1, 7]));
    // And each has a circuit.
    let request = Request::get(format!("http://{}/-/breakers", gateway.addr)).body(full("")).unwrap();
    let (circuits, _) = read(ask(request).await.into_body()).await;
    for key in [format!("\"{own} deep\""), format!("\"{rest} other\"")] {
        assert!(circuits.contains(&key), "{key}: {circuits}");
    }
}

#[tokio::test]
async fn coming_back_is_bound_by_no_routes_deadline() {
    let [(_provider, url)] = providers::<1>().await;
    let config = Config::new(&format!(
        "upstream = \"{url}\"\nresumable = true\ndeadline = \"1s\"\n\
         [[route]]\nname = \"quick\"\nmodel = \"quick\"\ndeadline = \"200ms\"\n\
         [[route]]\nname = \"slow\"\nmodel = \"slow*\"\ndeadline = \"30s\"\n"
    ));
    let gateway = gateway(&["--config", config.path()]).await;
    let body = json!({ "model": "slow:gap=100ms; chunks=25", "stream": true, "messages": [{ "role": "user", "content": "Hello" }] });
    let request = Request::post(format!("http://{}{CHAT}", gateway.addr))
        .header("content-type", "application/json")
        .header("authorization", "Bearer a")
        .header("idempotency-key", "k")
        .body(full(body.to_string()));
    let answer = ask(request.unwrap()).await;
    assert!(answer.headers().contains_key("content-location"), "{answer:?}");
    let location = answer.headers()["content-location"].to_str().unwrap().to_owned();
    let again = Request::get(format!("http://{}{location}", gateway.addr)).body(full("")).unwrap();
    let (came_back, stayed) =
        tokio::join!(async { read(ask(again).await.into_body()).await }, read(answer.into_body()));
    assert!(stayed.1 && stayed.0.contains("[DONE]"), "{stayed:?}");
    assert_eq!(came_back, stayed);
}

#[tokio::test]
async fn a_call_of_no_route_gets_404() {
    let [(provider, url)] = providers::<1>().await;
    let config = Config::new(&format!("[[route]]\nname = \"deep\"\nmodel = \"deep\"\nupstream = \"{url}\"\n"));
    let gateway = gateway(&["--config", config.path()]).await;
    let answer = call(&gateway, CHAT, "shallow").await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.headers()["x-gateway-served-by"], "gateway");
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!(provider.counts().calls, 0);
    assert_eq!(call(&gateway, CHAT, "deep").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_route_has_its_own_fallback_attempts_and_circuits() {
    let [(rest, rest_url), (own, own_url), (backup, backup_url)] = providers::<3>().await;
    let config = Config::new(&format!(
        "upstream = \"{rest_url}\"\nattempts = 2\nbackoff_base = \"5ms\"\n\
         [[route]]\nname = \"small\"\nmodel = \"small*\"\nupstream = \"{own_url}\"\nattempts = 1\n\
         [[route.fallback]]\nurl = \"{backup_url}\"\nmodel = \"tiny\"\n",
    ));
    let gateway = gateway(&["--config", config.path()]).await;
    // The fault is in the model's name, which the fallback does not get.
    let answer = call(&gateway, CHAT, "small:status=500").await;
    assert_eq!(answer.headers()["x-gateway-served-by"], "fallback");
    read(answer.into_body()).await;
    assert_eq!([&rest, &own, &backup].map(|provider| provider.counts().calls), [0, 1, 1]);
    let answer = call(&gateway, CHAT, "large:status=500").await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(rest.counts().calls, 2);
    let request = Request::get(format!("http://{}/-/breakers", gateway.addr)).body(full(""));
    let circuits: Value = serde_json::from_str(&read(ask(request.unwrap()).await.into_body()).await.0).unwrap();
    let failures = |name: &str| -> u64 {
        let own = circuits.as_array().unwrap().iter().filter(|circuit| circuit["name"] == name);
        own.map(|circuit| circuit["failures"].as_u64().unwrap()).sum()
    };
    assert_eq!([failures("upstream"), failures("small/upstream"), failures("small/fallback")], [2, 1, 0]);
}

#[tokio::test]
async fn fallbacks_with_weights_are_asked_first_as_often_as_those_say() {
    let [(one, one_url), (other, other_url)] = providers::<2>().await;
    let config = Config::new(&format!(
        "upstream = \"http://127.0.0.1:1\"\nattempts = 1\nbreaker = false\ndedup = false\n\
         [[fallback]]\nurl = \"{one_url}\"\nweight = 1\n[[fallback]]\nurl = \"{other_url}\"\nweight = 9\n",
    ));
    let gateway = gateway(&["--config", config.path()]).await;
    for _ in 0..60 {
        let answer = call(&gateway, CHAT, "sim:gap=0s").await;
        assert_eq!(answer.status(), StatusCode::OK);
        read(answer.into_body()).await;
    }
    let [rarely, often] = [&one, &other].map(|provider| provider.counts().calls);
    // By chance alone, once in a million runs.
    assert!(rarely + often == 60 && rarely < 24, "{rarely} {often}");
    // The other one is tried when the first fails.
    let faulty = call(&gateway, CHAT, "sim:status=500").await;
    assert_eq!(faulty.status(), StatusCode::BAD_GATEWAY);
    assert_eq!([&one, &other].map(|provider| provider.counts().calls), [rarely + 1, often + 1]);
}
