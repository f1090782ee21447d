//! Fields of one hop stay on that hop, checked byte by byte on both sides.

use super::client::{raw, raw_upstream};
use super::{gateway, gateway_before};

const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// The field names of a head, in alphabetical order.
fn fields(head: &str) -> Vec<&str> {
    let head = head.split("\r\n\r\n").next().unwrap();
    let mut names: Vec<_> = head.lines().skip(1).map(|line| line.split(':').next().unwrap()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_request_loses_what_was_meant_for_the_gateway() {
    let (upstream, mut tells) = raw_upstream("\r\n\r\n", EMPTY).await;
    let gateway = gateway_before(upstream).await;
    raw(
        gateway.addr,
        "GET / HTTP/1.1\r\nhost: shop.localhost\r\nconnection: close, x-private\r\nx-private: 1\r\nx-public: 2\r\n\
         keep-alive: timeout=5\r\nte: gzip\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nproxy-authorization: x\r\n\
         proxy-connection: close\r\n\r\n",
    )
    .await;
    let head = tells.recv().await.unwrap();
    assert_eq!(
        fields(&head),
        [
            "host",
            "via",
            "x-deadline-ms",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-public",
            "x-request-id"
        ]
    );
    assert!(head.contains(&format!("host: {upstream}\r\n")));
    assert!(
        head.contains("x-forwarded-host: shop.localhost\r\nx-forwarded-proto: http\r\nvia: 1.1 tower-buttress\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_request_has_one_host() {
    let gateway = gateway(&[]).await;
    for path in ["/-/metrics", "/v1/models"] {
        for (hosts, status) in
            [("", 400), ("host: localhost\r\nhost: localhost\r\n", 400), ("host: localhost\r\n", 200)]
        {
            let answer = raw(gateway.addr, &format!("GET {path} HTTP/1.1\r\n{hosts}connection: close\r\n\r\n")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{hosts:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_request_that_runs_in_a_circle_is_stopped() {
    let gateway = gateway(&[]).await;
    for (gateways, status) in [(0, 200), (9, 200), (10, 508)] {
        let via = ["1.1 nginx"].into_iter().chain(vec!["1.1 tower-buttress"; gateways]).collect::<Vec<_>>().join(", ");
        let head = format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nvia: {via}\r\nconnection: close\r\n\r\n");
        let answer = raw(gateway.addr, &head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{via}: {answer}");
    }
}

#[tokio::test]
async fn what_another_gateway_did_is_not_reported_as_ours() {
    let response = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-gateway-dedup: joined\r\nx-gateway-attempts: 7\r\n\
                    x-gateway-served-by: fallback\r\nx-gateway-output: invalid\r\n\r\n";
    let (upstream, _tells) = raw_upstream("\r\n\r\n", response).await;
    let gateway = gateway(&["--upstream", &format!("http://{upstream}"), "--dedup", "off"]).await;
    let answer = raw(gateway.addr, "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(!answer.contains("x-gateway-dedup"), "{answer}");
    assert!(answer.contains("x-gateway-attempts: 1\r\nx-gateway-served-by: upstream\r\n"), "{answer}");
    // The same for the answer, whichever gateway found it.
    assert!(answer.contains("x-gateway-output: invalid\r\n"), "{answer}");
}

#[tokio::test]
async fn an_answer_loses_what_was_meant_for_the_gateway() {
    let response = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close, x-private\r\nx-private: 1\r\n\
                    x-public: 2\r\nkeep-alive: timeout=5\r\nupgrade: h2c\r\nproxy-authenticate: Basic\r\n\r\nok";
    let (upstream, _tells) = raw_upstream("\r\n\r\n", response).await;
    let gateway = gateway_before(upstream).await;
    let request =
        "GET / HTTP/1.1\r\nhost: localhost\r\n\r\nGET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answers = raw(gateway.addr, request).await;
    // The upstream's `close` ended its connection, not the client's: there are two answers.
    let (first, second) = answers.split_once("\r\n\r\nok").unwrap();
    assert_eq!(
        fields(first),
        [
            "content-length",
            "date",
            "server-timing",
            "x-gateway-attempts",
            "x-gateway-served-by",
            "x-public",
            "x-request-id"
        ]
    );
    assert_eq!(
        fields(second),
        [
            "connection",
            "content-length",
            "date",
            "server-timing",
            "x-gateway-attempts",
            "x-gateway-served-by",
            "x-public",
            "x-request-id"
        ]
    );
}

#[tokio::test]
async fn two_lengths_are_not_passed_on() {
    let (upstream, mut tells) = raw_upstream("0\r\n\r\n", EMPTY).await;
    let gateway = gateway_before(upstream).await;
    raw(
        gateway.addr,
        "POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
         4\r\ndata\r\n0\r\n\r\n",
    )
    .await;
    let request = tells.recv().await.unwrap();
    assert!(!request.contains("content-length") && request.contains("transfer-encoding: chunked"), "{request}");
    assert!(request.ends_with("\r\n\r\n4\r\ndata\r\n0\r\n\r\n"));
}

#[tokio::test]
async fn a_length_beside_chunks_is_not_believed() {
    let response = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
                    b\r\nhello world\r\n0\r\n\r\n";
    let (upstream, _tells) = raw_upstream("\r\n\r\n", response).await;
    let gateway = gateway_before(upstream).await;
    // What is shared, and then what is replayed, too.
    let key = "content-length: 0\r\nauthorization: Bearer a\r\nidempotency-key: k\r\n";
    for (method, dedup, role) in [("GET", "", None), ("POST", key, Some("leader")), ("POST", key, Some("replayed"))] {
        let request = format!("{method} / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{dedup}\r\n");
        let answer = raw(gateway.addr, &request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(head.lines().find_map(|line| line.strip_prefix("x-gateway-dedup: ")), role);
        // A replay has the whole answer, and its length is known.
        if role == Some("replayed") {
            assert!(body.contains("hello world"), "{answer}");
        } else {
            assert_eq!(body, "B\r\nhello world\r\n0\r\n\r\n", "{answer}");
            assert!(!head.contains("content-length"), "{answer}");
        }
    }
}

#[tokio::test]
async fn the_upstream_changes_no_protocol_unasked() {
    // A protocol that is not forwarded, and one that was not requested.
    for (asked, answered) in [("h2c", "websocket"), ("websocket", "h2c")] {
        let switch = format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {answered}\r\n\r\n");
        let (upstream, _tells) = raw_upstream("\r\n\r\n", switch.leak()).await;
        let gateway = gateway_before(upstream).await;
        let request =
            format!("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\nupgrade: {asked}\r\n\r\n");
        assert!(raw(gateway.addr, &request).await.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{asked}");
    }
}

#[tokio::test]
async fn a_reverse_proxy_opens_no_tunnels() {
    let (upstream, mut tells) = raw_upstream("\r\n\r\n", EMPTY).await;
    let gateway = gateway_before(upstream).await;
    let answer =
        raw(gateway.addr, "CONNECT 127.0.0.1:5432 HTTP/1.1\r\nhost: 127.0.0.1:5432\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 501 Not Implemented\r\n"));
    assert!(tells.try_recv().is_err());
}

#[tokio::test]
async fn max_forwards_is_counted_down_and_ends_here() {
    let (upstream, mut tells) = raw_upstream("\r\n\r\n", EMPTY).await;
    let gateway = gateway_before(upstream).await;
    let ask = |method: &str, hops: &str| {
        let request =
            format!("{method} / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nmax-forwards: {hops}\r\n\r\n");
        async move { raw(gateway.addr, &request).await }
    };
    assert!(ask("OPTIONS", "0").await.starts_with("HTTP/1.1 204 No Content\r\n"));
    assert!(tells.try_recv().is_err());
    for (method, hops, seen) in
        [("OPTIONS", "2", "1"), ("OPTIONS", "1", "0"), ("GET", "0", "0"), ("OPTIONS", "many", "many")]
    {
        assert!(ask(method, hops).await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(tells.recv().await.unwrap().contains(&format!("max-forwards: {seen}\r\n")));
    }
}

#[tokio::test]
async fn a_trace_would_show_credentials_and_goes_no_further() {
    let (upstream, mut tells) = raw_upstream("\r\n\r\n", EMPTY).await;
    let gateway = gateway_before(upstream).await;
    for hops in ["", "max-forwards: 0\r\n", "max-forwards: 2\r\n"] {
        let request = format!(
            "TRACE / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\n{hops}connection: close\r\n\r\n"
        );
        let answer = raw(gateway.addr, &request).await;
        assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
        assert!(answer.contains("allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"), "{answer}");
        assert!(!answer.contains("Bearer") && tells.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_body_in_a_coding_that_is_not_decoded_goes_no_further() {
    let (upstream, mut tells) = raw_upstream("0\r\n\r\n", EMPTY).await;
    let gateway = gateway_before(upstream).await;
    let ask = async |codings: &str, end: &str| {
        let head = format!("POST / HTTP/1.1\r\nhost: localhost\r\n{codings}{end}\r\n");
        raw(gateway.addr, &format!("{head}4\r\ndata\r\n0\r\n\r\n")).await
    };
    for codings in [
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: identity, chunked\r\n",
    ] {
        // The connection closes: `raw` reads to its end.
        let answer = ask(codings, "").await;
        assert!(answer.starts_with("HTTP/1.1 501 Not Implemented\r\n"), "{codings}: {answer}");
        assert!(answer.contains("connection: close\r\n") && tells.try_recv().is_err(), "{codings}: {answer}");
    }
    for codings in ["transfer-encoding: chunked\r\n", "transfer-encoding: Chunked\r\n"] {
        let answer = ask(codings, "connection: close\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{codings}: {answer}");
        assert!(tells.recv().await.unwrap().contains("data"));
    }
}
