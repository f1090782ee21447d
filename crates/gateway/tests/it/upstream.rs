//! Connections to upstreams: TLS, HTTP/2, many fields, windows.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Request as AxumRequest;
use axum::response::Response as AxumResponse;
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use super::client::{Outgoing, ask, full, http2, raw, raw_upstream, read};
use super::tls::{HTTP1, HTTP2, Party};
use super::{Running, gateway, programs, soon};
use crate::support::Alive;

fn file(name: &str, text: &str) -> String {
    let path = format!("{}/{name}", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&path, text).unwrap();
    path
}

fn get_from(gateway: &Running, path: &str) -> Request<Outgoing> {
    Request::get(format!("http://{}{path}", gateway.addr)).body(full("")).unwrap()
}

async fn over_http2(gateway: &Running, path: &str) -> Response<Incoming> {
    let mut request = get_from(gateway, path);
    *request.version_mut() = Version::HTTP_2;
    soon(http2().request(request)).await.unwrap()
}

/// Returns the version and target of the request.
async fn version(request: AxumRequest) -> String {
    let header = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
    format!("{:?} {} {}", request.version(), header("te"), header("connection"))
}

#[tokio::test]
async fn an_upstream_is_reached_over_tls_in_the_version_that_it_speaks() {
    let party = Party::new();
    let ca = file("upstream-ca.pem", &party.pem.0);
    for (protocol, said) in [(HTTP1, "HTTP/1.1 trailers -"), (HTTP2, "HTTP/2.0 trailers -")] {
        let upstream = party.serve(protocol, Router::new().route("/v", any(version))).await;
        let gateway = gateway(&["--upstream", &format!("https://{upstream}"), "--upstream-ca", &ca]).await;
        for _ in 0..2 {
            let mut request = get_from(&gateway, "/v");
            request.headers_mut().insert("te", "trailers".parse().unwrap());
            assert_eq!(read(ask(request).await.into_body()).await.0, said);
        }
    }
}

#[tokio::test]
async fn an_untrusted_certificate_is_a_502() {
    let stranger = Party::new().serve(HTTP1, Router::new().route("/", get(|| async { "never" }))).await;
    let gateway = gateway(&["--upstream", &format!("https://{stranger}"), "--backoff-base", "5ms"]).await;
    let answer = ask(get_from(&gateway, "/")).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-gateway-attempts"]), (502, &"3".parse().unwrap()));
    assert!(read(answer.into_body()).await.0.contains("upstream_certificate"));
}

fn over_tls(party: &Party, version: Version) -> Client<HttpsConnector<HttpConnector>, Outgoing> {
    let builder = HttpsConnectorBuilder::new().with_tls_config(party.client()).https_only();
    let connector =
        if version == Version::HTTP_2 { builder.enable_http2().build() } else { builder.enable_http1().build() };
    Client::builder(TokioExecutor::new()).build(connector)
}

#[tokio::test]
async fn clients_are_served_over_tls_too() {
    let party = Party::new();
    let (cert, key) = (file("cert.pem", &party.pem.0), file("key.pem", &party.pem.1));
    let gateway = gateway(&["--tls-cert", &cert, "--tls-key", &key]).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let request = Request::get(format!("https://{}/v1/models", gateway.addr)).body(full("")).unwrap();
        let answer = soon(over_tls(&party, version).request(request)).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, version));
    }
}

#[tokio::test]
async fn an_answer_may_have_250_fields() {
    use std::fmt::Write as _;
    let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n".to_owned();
    for nth in 0..249 {
        write!(answer, "x-field-{nth}: {nth}\r\n").unwrap();
    }
    let (upstream, _tells) = raw_upstream("\r\n\r\n", (answer + "\r\n").leak()).await;
    let gateway = super::gateway_before(upstream).await;
    let answer = raw(gateway.addr, "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("x-field-248: 248\r\n"), "{answer}");

    let many = |_: AxumRequest| async {
        let mut response = AxumResponse::new(axum::body::Body::empty());
        for nth in 0..249 {
            let name: HeaderName = format!("x-field-{nth}").parse().unwrap();
            response.headers_mut().insert(name, "x".repeat(100).parse().unwrap());
        }
        response
    };
    let upstream = h2c(Router::new().route("/", any(many))).await;
    let gateway = self::gateway(&["--upstream", &format!("h2c://{upstream}")]).await;
    let answer = raw(gateway.addr, "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("x-field-248: x"), "{answer}");
}

/// An upstream that speaks HTTP/2 without TLS, with the windows that HTTP/2 begins with.
async fn h2c(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(app.clone());
            tokio::spawn(async move {
                let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
                builder.http2().initial_connection_window_size(65_535).initial_stream_window_size(65_535);
                let _ = builder.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    addr
}

/// A body that never ends, and is always ready.
fn endless() -> Outgoing {
    let frame = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])));
    BodyExt::map_err(StreamBody::new(stream::repeat_with(frame)), |never| match never {}).boxed_unsync()
}

#[tokio::test]
async fn stalled_uploads_stop_no_other_one() {
    let stalled = Alive::default();
    let counted = stalled.clone();
    // It answers nothing, and reads nothing.
    let stall = post(move |request: AxumRequest| async move {
        let _stalled = counted.enter();
        std::future::pending::<()>().await;
        drop(request);
    });
    let echo = post(|body: Bytes| async move { body });
    let upstream = h2c(Router::new().route("/stall", stall).route("/echo", echo)).await;
    let gateway = gateway(&["--upstream", &format!("h2c://{upstream}"), "--first-byte-timeout", "off"]).await;
    // From one client, and on one connection.
    let client = http2();
    let to = |path: &str| Request::post(format!("http://{}{path}", gateway.addr));
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(tokio::spawn(client.request(to("/stall").body(endless()).unwrap())));
    }
    stalled.is(3).await;
    // They fill what there is to fill.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let fourth = vec![b'y'; 300_000];
    let answer = soon(client.request(to("/echo").body(full(fourth.clone())).unwrap())).await.unwrap();
    assert_eq!(soon(answer.into_body().collect()).await.unwrap().to_bytes(), fourth);
}

#[tokio::test]
async fn readers_that_stall_stop_no_other_one() {
    let endless = get(|| async {
        let frame = || Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 16 * 1024]));
        axum::body::Body::from_stream(stream::repeat_with(frame))
    });
    let upstream = h2c(Router::new().route("/endless", endless).route("/short", get(|| async { "short" }))).await;
    let gateway = gateway(&["--upstream", &format!("h2c://{upstream}"), "--dedup", "off"]).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut answer = ask(get_from(&gateway, "/endless")).await.into_body();
        soon(answer.frame()).await.unwrap().unwrap();
        held.push(answer);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(read(ask(get_from(&gateway, "/short")).await.into_body()).await.0, "short");
}

#[tokio::test]
async fn trailers_of_an_http2_upstream_arrive() {
    let trailing = |_: AxumRequest| async {
        let trailers = HeaderMap::from_iter([("x-sum".parse::<HeaderName>().unwrap(), "42".parse().unwrap())]);
        let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"body"))), Ok(Frame::trailers(trailers))];
        AxumResponse::new(axum::body::Body::new(StreamBody::new(stream::iter(frames))))
    };
    let upstream = h2c(Router::new().route("/", any(trailing))).await;
    let gateway = gateway(&["--upstream", &format!("h2c://{upstream}")]).await;
    let answer = over_http2(&gateway, "/").await.into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["x-sum"], "42");
}

#[tokio::test]
async fn trailers_of_an_http2_upstream_reach_http1_callers_who_asked_for_them() {
    // This upstream announces no trailers, and hyper writes only announced ones to HTTP/1.1.
    let trailing = |_: AxumRequest| async {
        let fields = [("grpc-status", "0"), ("server-timing", "db;dur=1"), ("x-of-their-own", "1")];
        let fields = fields.map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
        let trailers = Frame::trailers(HeaderMap::from_iter(fields));
        let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"body"))), Ok(trailers)];
        AxumResponse::new(axum::body::Body::new(StreamBody::new(stream::iter(frames))))
    };
    let upstream = h2c(Router::new().route("/", any(trailing))).await;
    let gateway = gateway(&["--upstream", &format!("h2c://{upstream}")]).await;
    // What is shared, and then what is replayed, too.
    let key = "content-length: 0\r\nauthorization: Bearer a\r\nidempotency-key: k\r\n";
    for (method, dedup, role) in [("GET", "", None), ("POST", key, Some("leader")), ("POST", key, Some("replayed"))] {
        let ask = async |te: &str| {
            let head = format!("{method} / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{te}{dedup}\r\n");
            raw(gateway.addr, &head).await
        };
        let answer = ask("te: trailers\r\n").await;
        let end = "\r\n\r\n4\r\nbody\r\n0\r\ngrpc-status: 0\r\nserver-timing: db;dur=1\r\nx-of-their-own: 1\r\n\r\n";
        assert!(answer.ends_with(end), "{answer}");
        let said = answer.lines().find_map(|line| line.strip_prefix("x-gateway-dedup: "));
        assert_eq!(said, role);
        let unasked = ask("").await;
        assert!(unasked.ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n") && !unasked.contains("trailer"), "{unasked}");
    }
}

/// In a network of its own: an upstream, a gateway before it, and a kept connection whose packets no longer arrive. The
/// address that the gateway had for it leads nowhere; for new connections it has another one.
#[cfg(target_os = "linux")]
const SWALLOWED: &str = r#"
set -e
ip link set lo up
for n in 1 2 3; do ip addr add 10.9.9.$n/32 dev lo; done
ip route replace local 10.9.9.1 dev lo table local src 10.9.9.2
"$GATEWAY" --listen 10.9.9.1:9000 >/dev/null 2>&1 &
upstream=$!
"$GATEWAY" --listen 127.0.0.1:8080 --upstream http://10.9.9.1:9000 >/dev/null 2>&1 &
gateway=$!
trap 'kill $upstream $gateway' EXIT
ask() { curl -sS -o /dev/null -w '%{http_code} %header{x-gateway-attempts} %{time_total}\n' http://127.0.0.1:8080/v1/models; }
for n in 1 2 3 4 5 6 7 8 9; do sleep 0.3; [ "$(curl -s http://127.0.0.1:8080/v1/models)" ] && break; done
ask
ip route del local 10.9.9.2 dev lo table local
ip route add blackhole 10.9.9.2 table local
ip route replace local 10.9.9.1 dev lo table local src 10.9.9.3
ask
"#;

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_kept_connection_that_died_without_a_word_is_noticed_within_ten_seconds() {
    const NAME: &str = "a_kept_connection_that_died_without_a_word_is_noticed_within_ten_seconds";
    if !programs::are_there(NAME, &["unshare", "ip", "curl"]) {
        return;
    }
    let isolated = ["--user", "--map-root-user", "--net", "sh", "-c"];
    let allowed = std::process::Command::new("unshare").args(isolated).arg("ip link").output().unwrap();
    if !allowed.status.success() {
        programs::skipped(NAME, "this machine allows no network of one's own");
        return;
    }
    let mut command = tokio::process::Command::new("unshare");
    command.args(isolated).arg(SWALLOWED).env("GATEWAY", env!("CARGO_BIN_EXE_buttress-gateway")).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Vec<&str>> = said.lines().map(|line| line.split(' ').collect()).collect();
    let [first, second] = &answers[..] else { panic!("{said}{}", String::from_utf8_lossy(&output.stderr)) };
    assert_eq!((first[0], first[1]), ("200", "1"), "{said}");
    // The call was made again, on another connection.
    assert_eq!((second[0], second[1]), ("200", "2"), "{said}");
    assert!(second[2].parse::<f64>().unwrap() < 10.0, "{said}");
}
