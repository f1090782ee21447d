//! What real clients' errors mean, over real sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, Version};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper_util::client::legacy::connect::{Connect, HttpConnector, dns};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::ConnectTimeoutLayer;
use tower_buttress::error::BoxError;
use tower_buttress::verdict::{Classify, Health, NextStep, Outcome, Standard, Verdict};

type ReqBody = UnsyncBoxBody<Bytes, BoxError>;

const RETRY: NextStep = NextStep::retry(None);
const BROKEN: Verdict = Verdict::new(RETRY, Health::Failure);
const UNSENT: Verdict = BROKEN.not_executed();
/// What only hyper's own types can tell.
const SEES_HYPER: bool = cfg!(feature = "hyper");

fn judge<E: std::error::Error + 'static>(err: &E) -> Verdict {
    Standard::new().classify(&Outcome::failure(err))
}

fn whole(text: &'static str) -> ReqBody {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

/// Breaks off, because its sender does.
fn half() -> ReqBody {
    let frames = [Ok(http_body::Frame::data(Bytes::from_static(b"half"))), Err(BoxError::from("the caller left"))];
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

async fn send<C>(connector: C, http2: bool, to: &str, body: ReqBody) -> Error
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let mut builder = Client::builder(TokioExecutor::new());
    let client = builder.http2_only(http2).pool_timer(TokioTimer::new()).build(connector);
    let request = Request::post(to).body(body).unwrap();
    tokio::time::timeout(Duration::from_secs(600), client.request(request)).await.unwrap().unwrap_err()
}

/// A server that lets `behave` loose on its first connection.
async fn server<F>(behave: impl FnOnce(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = io::Result<()>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { behave(listener.accept().await.unwrap().0).await });
    at
}

/// A port without a listener.
async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Reads the head of an HTTP/1 request.
async fn read_head(socket: &mut TcpStream) -> io::Result<()> {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
        seen.push(socket.read_u8().await?);
    }
    Ok(())
}

/// Says hello in HTTP/2, reads until the request's HEADERS frame, and answers with `frame`.
async fn answer_h2(mut socket: TcpStream, frame: &[u8]) -> io::Result<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    socket.write_all(&SETTINGS).await?;
    let mut preface = [0; 24];
    socket.read_exact(&mut preface).await?;
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).await?;
        if head[3] == 1 {
            break;
        }
    }
    socket.write_all(frame).await?;
    // Until the client has gone.
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.map(drop)
}

#[tokio::test]
async fn a_refused_connection_proves_that_nothing_was_done() {
    let to = format!("http://{}", closed_port().await);
    assert_eq!(judge(&send(HttpConnector::new(), false, &to, whole("x")).await), UNSENT);
}

#[tokio::test]
async fn a_connection_that_broke_before_the_head_proves_nothing() {
    let at = server(|mut socket| async move { read_head(&mut socket).await }).await;
    assert_eq!(judge(&send(HttpConnector::new(), false, &format!("http://{at}"), whole("x")).await), BROKEN);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_never_reached() {
    let resolver =
        service_fn(|_: dns::Name| async { Err::<std::vec::IntoIter<SocketAddr>, _>(io::Error::other("no such host")) });
    let err = send(HttpConnector::new_with_resolver(resolver), false, "http://upstream.invalid", whole("x")).await;
    assert_eq!(judge(&err), if SEES_HYPER { UNSENT } else { BROKEN });
}

#[tokio::test]
async fn a_handshake_that_fails_in_the_connector_is_never_reached() {
    let at = server(|socket| async move { socket.readable().await }).await;
    let tls = service_fn(|to: Uri| {
        Box::pin(async move {
            HttpConnector::new().oneshot(to).await?;
            let untrusted = io::Error::new(io::ErrorKind::InvalidData, "unknown certificate authority");
            Err::<TokioIo<TcpStream>, BoxError>(untrusted.into())
        })
    });
    let err = send(tls, false, &format!("http://{at}"), whole("x")).await;
    assert_eq!(judge(&err), if SEES_HYPER { UNSENT } else { BROKEN });
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_was_given_up_is_not_asked_again() {
    let never = service_fn(|_: Uri| std::future::pending::<Result<TokioIo<TcpStream>, BoxError>>());
    let connector = ConnectTimeoutLayer::new(Duration::from_secs(5)).layer(never);
    let err = send(connector, false, "http://127.0.0.1:1", whole("x")).await;
    assert_eq!(judge(&err), Verdict::new(NextStep::TryAnother, Health::Failure).not_executed());
}

#[tokio::test]
async fn a_refused_stream_was_not_processed() {
    // RST_STREAM on stream 1, REFUSED_STREAM.
    let at = server(|socket| answer_h2(socket, &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7])).await;
    let err = send(HttpConnector::new(), true, &format!("http://{at}"), whole("x")).await;
    assert_eq!(judge(&err), if SEES_HYPER { UNSENT } else { BROKEN });
}

#[tokio::test]
async fn a_stream_that_was_reset_in_another_way_may_have_been() {
    // RST_STREAM on stream 1, INTERNAL_ERROR.
    let at = server(|socket| answer_h2(socket, &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2])).await;
    assert_eq!(judge(&send(HttpConnector::new(), true, &format!("http://{at}"), whole("x")).await), BROKEN);
}

#[tokio::test]
async fn a_stream_beyond_the_last_of_a_goaway_was_not_processed() {
    // GOAWAY, last stream 0, NO_ERROR.
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let at = server(move |socket| async move { answer_h2(socket, &goaway).await }).await;
    let err = send(HttpConnector::new(), true, &format!("http://{at}"), whole("x")).await;
    assert_eq!(judge(&err), if SEES_HYPER { UNSENT } else { BROKEN });
}

#[tokio::test]
async fn a_stream_that_a_goaway_names_may_have_been() {
    // GOAWAY, last stream 1, INTERNAL_ERROR; then the server hangs up.
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2];
    let at = server(move |socket| async move {
        tokio::time::timeout(Duration::from_millis(50), answer_h2(socket, &goaway)).await.unwrap_or(Ok(()))
    })
    .await;
    assert_eq!(judge(&send(HttpConnector::new(), true, &format!("http://{at}"), whole("x")).await), BROKEN);
}

#[tokio::test]
async fn a_connection_that_broke_with_requests_in_its_queue_is_the_upstreams_fault() {
    let begun = Arc::new(Notify::new());
    let (begins, hangs_up) = (begun.clone(), Arc::new(Notify::new()));
    let hang_up = hangs_up.clone();
    let at = server(move |socket| async move {
        let service = hyper::service::service_fn(move |_| {
            begins.notify_one();
            std::future::pending::<Result<http::Response<String>, io::Error>>()
        });
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let serving = builder.max_concurrent_streams(1).serve_connection(TokioIo::new(socket), service);
        tokio::select! { _ = serving => {}, () = hangs_up.notified() => {} }
        Ok(())
    })
    .await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let ask = || {
        let call = client.request(Request::post(format!("http://{at}/")).body(whole("x")).unwrap());
        tokio::spawn(async move { judge(&call.await.unwrap_err()).next })
    };
    let mut calls = vec![ask()];
    begun.notified().await;
    calls.extend([ask(), ask()]);
    // Until they wait for the stream that there is.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    hang_up.notify_one();
    for call in calls {
        assert_eq!(call.await.unwrap(), RETRY);
    }
}

#[tokio::test]
async fn a_sender_that_broke_off_its_own_request_says_nothing_of_the_upstream() {
    let at = server(|mut socket| async move {
        read_head(&mut socket).await?;
        socket.read_to_end(&mut Vec::new()).await.map(drop)
    })
    .await;
    let ours = if SEES_HYPER { Verdict::new(NextStep::GiveUp, Health::Ignored) } else { BROKEN };
    assert_eq!(judge(&send(HttpConnector::new(), false, &format!("http://{at}"), half()).await), ours);

    let at = server(|socket| answer_h2(socket, &[])).await;
    assert_eq!(judge(&send(HttpConnector::new(), true, &format!("http://{at}"), half()).await), ours);
}

#[tokio::test]
async fn a_request_that_the_client_does_not_send_says_nothing_of_the_upstream() {
    let at = server(|mut socket| async move { socket.read_to_end(&mut Vec::new()).await.map(drop) }).await;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request =
        |method, to: &str, version| Request::builder().method(method).uri(to).version(version).body(whole("")).unwrap();
    for refused in [
        // As it came in over HTTP/2, to an upstream of HTTP/1.
        request(Method::POST, &format!("http://{at}/"), Version::HTTP_2),
        request(Method::POST, &format!("http://{at}/"), Version::HTTP_3),
        request(Method::CONNECT, &at.to_string(), Version::HTTP_10),
        // As a server has it: without a host.
        request(Method::POST, "/chat", Version::HTTP_11),
    ] {
        let err = client.request(refused).await.unwrap_err();
        let ours = Verdict::new(NextStep::GiveUp, Health::Ignored).not_executed();
        assert_eq!(judge(&err), if SEES_HYPER { ours } else { BROKEN }, "{err}");
    }
}
