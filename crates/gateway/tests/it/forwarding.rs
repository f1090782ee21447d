//! Requests and answers, in both directions.

use axum::Router;
use axum::body::Body;
use axum::extract::Request as AxumRequest;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::Response as AxumResponse;
use axum::routing::any;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, StatusCode, Version};
use http_body::Frame;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, StreamBody};
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tower_buttress::error::BoxError;

use super::client::{ask, chat, content, full, http1, http2, raw, raw_upstream, read};
use super::{gateway, gateway_before, soon};

pub(super) async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    addr
}

/// Returns the request that it received.
async fn echo(request: AxumRequest) -> String {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    format!("{} {} {}", parts.method, parts.uri, String::from_utf8_lossy(&body))
}

#[tokio::test]
async fn every_method_and_path_is_passed_on() {
    let gateway = gateway_before(serve(Router::new().fallback(any(echo))).await).await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
        let request = Request::builder().method(method).uri(format!("http://{}/a%2Fb//c?d=e&f", gateway.addr));
        let answer = ask(request.body(full("data")).unwrap()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(read(answer.into_body()).await, (format!("{method} /a%2Fb//c?d=e&f data"), true));
    }
    let request = Request::head(format!("http://{}/", gateway.addr)).body(full("")).unwrap();
    let answer = ask(request).await;
    assert_eq!((answer.headers()["content-length"].to_str().unwrap(), answer.status().as_u16()), ("7", 200));
    assert_eq!(read(answer.into_body()).await, (String::new(), true));
}

#[tokio::test]
async fn what_has_no_place_under_the_prefix_is_no_fault_of_the_upstream() {
    let (upstream, mut tells) = raw_upstream("\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n").await;
    let gateway = gateway(&["--upstream", &format!("http://{upstream}/base"), "--breaker-consecutive", "1"]).await;
    // It leaves the prefix; it is as long as a URI may be.
    for path in ["/../secret".to_owned(), "/a/%2E%2e/%2e./secret".to_owned(), format!("/{}", "a".repeat(65_533))] {
        let answer =
            raw(gateway.addr, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(tells.try_recv().is_err());
    }
    let answer = raw(gateway.addr, "GET /a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204 No Content\r\n"), "the circuit is closed: {answer}");
    assert!(tells.recv().await.unwrap().starts_with("GET /base/a HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_question_about_the_server_stays_one() {
    let (upstream, mut tells) = raw_upstream("\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n").await;
    let gateway = gateway_before(upstream).await;
    let answer = raw(gateway.addr, "OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204 No Content\r\n"));
    assert!(tells.recv().await.unwrap().starts_with("OPTIONS * HTTP/1.1\r\n"));
}

#[tokio::test]
async fn an_event_is_here_while_the_upstream_still_speaks() {
    let gateway = gateway(&[]).await;
    let mut body = ask(chat(gateway.addr, true, "gap=0s; stall-after=2")).await.into_body();
    let mut events = String::new();
    while content(&events) != "You said " {
        let frame = soon(body.frame()).await.unwrap().unwrap();
        events.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert_eq!((gateway.provider().counts().finished, gateway.provider().counts().abandoned), (0, 0));
}

#[tokio::test]
async fn a_request_is_at_the_upstream_while_its_client_still_speaks() {
    // Each piece returns before the next is sent.
    let upstream =
        serve(Router::new().route("/", any(|request: AxumRequest| async { AxumResponse::new(request.into_body()) })));
    let gateway = gateway_before(upstream.await).await;
    let (mut speak, body) = Channel::<Bytes, BoxError>::new(1);
    speak.send_data(Bytes::from_static(b"0")).await.unwrap();
    let request = Request::post(format!("http://{}/", gateway.addr)).body(body.boxed_unsync()).unwrap();
    let mut answer = ask(request).await.into_body();
    for piece in ["0", "1", "2"] {
        assert_eq!(soon(answer.frame()).await.unwrap().unwrap().into_data().unwrap(), piece);
        let next = piece.parse::<u8>().unwrap() + 1;
        speak.send_data(Bytes::from(next.to_string())).await.unwrap();
    }
    drop(speak);
    assert_eq!(read(answer).await, ("3".to_owned(), true));
}

#[tokio::test]
async fn unannounced_trailers_reach_http1_callers_who_asked_for_them() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\
                          grpc-status: 0\r\nserver-timing: db;dur=1\r\nx-of-their-own: 1\r\n\r\n";
    let (upstream, _tells) = raw_upstream("\r\n\r\n", ANSWER).await;
    let gateway = gateway_before(upstream).await;
    let ask = |fields: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{fields}\r\n");
        async move { raw(gateway.addr, &request).await }
    };
    let answer = ask("te: trailers\r\n").await;
    let end = "\r\n\r\n4\r\nbody\r\n0\r\ngrpc-status: 0\r\nserver-timing: db;dur=1\r\nx-of-their-own: 1\r\n\r\n";
    assert!(answer.ends_with(end), "{answer}");
    let unasked = ask("").await;
    assert!(unasked.ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n") && !unasked.contains("trailer"), "{unasked}");
}

#[tokio::test]
async fn no_trailers_are_announced_where_none_can_follow() {
    let (upstream, _tells) = raw_upstream("\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let gateway = gateway_before(upstream).await;
    let request = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nte: trailers\r\n\r\n";
    let answer = raw(gateway.addr, request).await;
    assert!(answer.ends_with("\r\n\r\nok") && !answer.contains("trailer"), "{answer}");
}

#[tokio::test]
async fn trailers_arrive_in_both_directions() {
    /// Lists in its own trailers those that it received.
    async fn trailing(request: AxumRequest) -> AxumResponse {
        assert_eq!(request.headers()["te"], "trailers");
        let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap();
        let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"body"))), Ok(Frame::trailers(trailers))];
        let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        AxumResponse::builder().header("trailer", "x-sum").body(body).unwrap()
    }

    let gateway = gateway_before(serve(Router::new().route("/", any(trailing))).await).await;
    for (client, version) in [(http1(), Version::HTTP_11), (http2(), Version::HTTP_2)] {
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "42".parse().unwrap())]);
        let frames = [Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"data"))), Ok(Frame::trailers(trailers))];
        let request = Request::post(format!("http://{}/", gateway.addr))
            .version(version)
            .header("te", "trailers")
            .header("trailer", "x-sum")
            .body(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
            .unwrap();
        let answer = soon(client.request(request)).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(answer.trailers().unwrap()["x-sum"], "42", "{version:?}");
        assert_eq!(answer.to_bytes(), "body");
    }
}

#[tokio::test]
async fn http2_clients_stream_side_by_side_on_one_connection() {
    let gateway = gateway(&[]).await;
    let client = http2();
    let calls = (0..50).map(|nth| {
        let (client, request) = (client.clone(), chat(gateway.addr, true, &format!("gap=1ms; chunks={nth}")));
        tokio::spawn(async move {
            let answer = client.request(request).await.unwrap();
            assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
            let (events, whole) = read(answer.into_body()).await;
            assert!(whole && events.ends_with("data: [DONE]\n\n"));
            assert_eq!(events.matches(r#""delta":{"content":"#).count(), nth);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        soon(call).await.unwrap();
    }
    assert_eq!(gateway.provider().counts().finished, 50);
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_keeps_its_length() {
    let gateway = gateway(&[]).await;
    let answer = ask(chat(gateway.addr, false, "")).await;
    let length: usize = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let (body, whole) = read(answer.into_body()).await;
    assert!(whole && body.len() == length);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["object"], &body["model"]), (&"chat.completion".into(), &"sim".into()));
    assert_eq!(gateway.provider().counts().abandoned, 0);
    let asked: serde_json::Value = serde_json::from_slice(&gateway.provider().seen()[0].body).unwrap();
    assert_eq!(asked["messages"][0]["content"], "Hello");
}

#[tokio::test]
async fn connections_to_the_upstream_are_used_again() {
    let gateway = gateway(&[]).await;
    let client = http1();
    for _ in 0..5 {
        let answer = soon(client.request(chat(gateway.addr, true, "gap=0s"))).await.unwrap();
        assert!(read(answer.into_body()).await.1);
    }
    assert_eq!((gateway.provider().counts().connections, gateway.provider().counts().calls), (1, 5));
}

#[tokio::test]
async fn old_clients_get_an_answer_that_ends_with_the_connection() {
    let gateway = gateway(&[]).await;
    let body = r#"{"model":"sim","stream":true,"messages":[{"role":"user","content":"Hi"}]}"#;
    let head =
        format!("POST /v1/chat/completions HTTP/1.0\r\ncontent-length: {}\r\nx-fault: gap=0s\r\n\r\n", body.len());
    let answer = raw(gateway.addr, &(head + body)).await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && !answer.contains("transfer-encoding"), "{answer}");
    assert!(answer.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_websocket_is_carried_through() {
    async fn shout(upgrade: WebSocketUpgrade) -> AxumResponse {
        upgrade.on_upgrade(|mut socket| async move {
            while let Some(Ok(Message::Text(text))) = socket.recv().await {
                socket.send(Message::Text(text.to_uppercase().into())).await.unwrap();
            }
        })
    }

    let gateway = gateway_before(serve(Router::new().route("/ws", any(shout))).await).await;
    let (mut socket, answer) =
        soon(tokio_tungstenite::connect_async(format!("ws://{}/ws", gateway.addr))).await.unwrap();
    assert_eq!(
        (&answer.headers()["upgrade"], &answer.headers()["connection"]),
        (&"websocket".parse().unwrap(), &"upgrade".parse().unwrap())
    );
    for text in ["one", "two"] {
        socket.send(text.into()).await.unwrap();
        assert_eq!(soon(socket.next()).await.unwrap().unwrap(), text.to_uppercase().into());
    }
    soon(socket.close(None)).await.unwrap();
}

/// A tunnel has no deadline: while it is open, its caller could send.
#[tokio::test]
async fn a_websocket_ends_when_the_key_of_its_caller_is_removed() {
    let upstream = serve(Router::new().route(
        "/ws",
        any(|upgrade: WebSocketUpgrade| async {
            upgrade.on_upgrade(|mut socket| async move { while socket.recv().await.is_some() {} })
        }),
    ));
    let keys = format!("{}/websocket-keys", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&keys, "acme:one\nother:two\n").unwrap();
    let upstream = format!("http://{}", upstream.await);
    let gateway = gateway(&["--upstream", &upstream, "--caller-keys-file", &keys]).await;
    let mut request = format!("ws://{}/ws", gateway.addr).into_client_request().unwrap();
    request.headers_mut().insert("authorization", "Bearer two".parse().unwrap());
    let (mut socket, _) = soon(tokio_tungstenite::connect_async(request)).await.unwrap();
    socket.send("hello".into()).await.unwrap();
    std::fs::write(&keys, "acme:one\n").unwrap();
    gateway.reload.now().await.unwrap();
    // The upstream has not answered.
    assert!(soon(socket.next()).await.is_none_or(|said| said.is_err()));
}

#[tokio::test]
async fn a_caller_has_no_more_websockets_than_it_may_have() {
    let upstream = serve(Router::new().route(
        "/ws",
        any(|upgrade: WebSocketUpgrade| async {
            upgrade.on_upgrade(|mut socket| async move { while socket.recv().await.is_some() {} })
        }),
    ));
    let upstream = format!("http://{}", upstream.await);
    let gateway = gateway(&["--upstream", &upstream, "--caller-concurrency", "1"]).await;
    let open = async |caller: &str| {
        let mut request = format!("ws://{}/ws", gateway.addr).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {caller}").parse().unwrap());
        soon(tokio_tungstenite::connect_async(request)).await.map(|(socket, _)| socket)
    };
    let mut socket = open("acme").await.unwrap();
    match open("acme").await.unwrap_err() {
        tokio_tungstenite::tungstenite::Error::Http(refusal) => assert_eq!(refusal.status(), 429),
        other => panic!("{other}"),
    }
    // Other callers have their own limit, and calls count separately.
    let _other = open("other").await.unwrap();
    let mut call = Request::get(format!("http://{}/elsewhere", gateway.addr)).body(full("")).unwrap();
    call.headers_mut().insert("authorization", "Bearer acme".parse().unwrap());
    assert_eq!(ask(call).await.status(), StatusCode::NOT_FOUND);
    soon(socket.close(None)).await.unwrap();
    drop(socket);
    let freed = async {
        while open("acme").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    soon(freed).await;
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_502_that_tells_nothing_of_it() {
    let upstream = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let gateway = gateway_before(upstream).await;
    let answer = ask(Request::get(format!("http://{}/", gateway.addr)).body(full("")).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!(answer.headers()["x-gateway-served-by"], "gateway");
    let problem: serde_json::Value = serde_json::from_str(&read(answer.into_body()).await.0).unwrap();
    let detail = "The upstream cannot be reached; try again later.";
    let error = serde_json::json!({"message": detail, "type": "api_error", "code": "upstream_unreachable"});
    assert_eq!(
        problem,
        serde_json::json!({
            "type": "about:blank", "title": "Bad Gateway", "status": 502, "detail": detail,
            "kind": "upstream-unreachable", "error": error,
        })
    );
}
