//! Refusals before the request's body was read.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::{gateway, programs, soon};
use crate::support::secs;

/// Reads one answer without a body of unknown length; returns its head.
async fn head(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    soon(async {
        while !read.ends_with(b"\r\n\r\n") {
            read.push(stream.read_u8().await.unwrap());
        }
    })
    .await;
    let head = String::from_utf8(read).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    soon(stream.read_exact(&mut vec![0; length])).await.unwrap();
    head
}

fn refused(length: usize) -> String {
    // `CONNECT` has no body; a path that leads nowhere has one.
    format!("POST /-/nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn a_small_body_does_not_cost_the_connection() {
    let gateway = gateway(&[]).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    for length in [0, 10, 64 * 1024] {
        stream.write_all(refused(length).as_bytes()).await.unwrap();
        // It is on its way, and has not arrived.
        tokio::task::yield_now().await;
        stream.write_all(&vec![b'x'; length]).await.unwrap();
        let head = head(&mut stream).await;
        assert!(head.starts_with("http/1.1 405 ") && !head.contains("connection: close"), "{length}: {head}");
    }
    let chunked =
        "POST /-/nothing HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\n\r\n";
    for _ in 0..2 {
        stream.write_all(chunked.as_bytes()).await.unwrap();
        assert!(!head(&mut stream).await.contains("connection: close"));
    }
}

#[tokio::test]
async fn a_large_body_is_read_past_so_that_the_answer_arrives() {
    let gateway = gateway(&[]).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    stream.write_all(refused(4_000_000).as_bytes()).await.unwrap();
    soon(stream.write_all(&vec![b'x'; 4_000_000])).await.unwrap();
    assert!(head(&mut stream).await.contains("connection: close"));
    assert_eq!(soon(stream.read(&mut [0])).await.unwrap(), 0, "and then the connection ends");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let gateway = gateway(&[]).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    stream.write_all(refused(10).as_bytes()).await.unwrap();
    let head = tokio::time::timeout(secs(5), head(&mut stream)).await.unwrap();
    assert!(head.contains("connection: close"), "{head}");

    // The same for one that waits for `100 Continue`.
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    let waits = refused(10).replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    stream.write_all(waits.as_bytes()).await.unwrap();
    let begun = std::time::Instant::now();
    let head = self::head(&mut stream).await;
    assert!(head.starts_with("http/1.1 405 ") && head.contains("connection: close"), "{head}");
    assert!(begun.elapsed() < secs(1));
}

#[tokio::test]
async fn the_same_holds_for_what_a_layer_refuses() {
    // The circuit is open: this request is not read either.
    let gateway = gateway(&["--attempts", "1", "--breaker-consecutive", "1", "--heartbeat", "off"]).await;
    let call = |length: usize, fault: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-fault: {fault}\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    stream.write_all(call(0, "status=500").as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.starts_with("http/1.1 500 "));
    for (length, closes) in [(50_000, false), (4_000_000, true)] {
        stream.write_all(call(length, "").as_bytes()).await.unwrap();
        soon(stream.write_all(&vec![b'x'; length])).await.unwrap();
        let head = head(&mut stream).await;
        assert!(head.starts_with("http/1.1 503 ") && head.contains("connection: close") == closes, "{head}");
    }
}

#[tokio::test]
async fn fetch_sees_the_status() {
    if !programs::are_there("fetch_sees_the_status", &["node"]) {
        return;
    }
    let keys = format!("{}/fetch-keys", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&keys, "acme:acme-key").unwrap();
    let gateway = gateway(&["--caller-keys-file", &keys]).await;
    let script = format!(
        "const body = 'x'.repeat(4000000);
         for (let nth = 0; nth < 5; nth++) {{
           const answer = await fetch('http://{}/v1/chat/completions', {{ method: 'POST', body }});
           console.log(answer.status, (await answer.json()).error.code);
         }}",
        gateway.addr
    );
    let node = Command::new("node").args(["--input-type=module", "-e", &script]).stdin(Stdio::null()).output();
    let output = soon(node).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "401 invalid_api_key\n".repeat(5), "{}", String::from_utf8_lossy(&output.stderr));
}
