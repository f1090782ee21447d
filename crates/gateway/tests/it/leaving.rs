//! Clients that leave, and clients that stop reading: both close the upstream call.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::client::{ask, chat, http1, http2, read};
use super::{gateway, soon};
use crate::support::secs;

/// More than all buffers on the way hold, without an end.
const ENDLESS: &str = "gap=0s; size=65536; chunks=100000";

fn raw_chat(fault: &str) -> String {
    let body = r#"{"model":"sim","stream":true,"messages":[{"role":"user","content":"Hi"}]}"#;
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-fault: {fault}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_closes_the_upstream() {
    let gateway = gateway(&[]).await;
    for (nth, client) in (1..).zip([http1(), http2()]) {
        let call = tokio::spawn(client.request(chat(gateway.addr, true, "silent")));
        soon(gateway.provider().until(|counts| counts.calls == nth)).await;
        call.abort();
        gateway.abandoned(nth).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_within_the_answer_closes_the_upstream() {
    let gateway = gateway(&[]).await;
    for (nth, client) in (1..).zip([http1(), http2()]) {
        // Nothing more is written: the gateway notices by reading.
        let answer = soon(client.request(chat(gateway.addr, true, "gap=0s; stall-after=1"))).await.unwrap();
        let mut body = answer.into_body();
        soon(body.frame()).await.unwrap().unwrap();
        drop(body);
        gateway.abandoned(nth).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_within_its_request_closes_the_upstream() {
    let gateway = gateway(&[]).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    let half = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{\"model\":";
    stream.write_all(half.as_bytes()).await.unwrap();
    soon(gateway.provider().until(|counts| counts.open == 1)).await;
    drop(stream);
    soon(gateway.provider().until(|counts| counts.open == 0)).await;
}

#[tokio::test]
async fn a_request_that_breaks_off_is_no_fault_of_the_upstream() {
    let gateway = gateway(&["--breaker-consecutive", "1"]).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    let half = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{\"model\":";
    stream.write_all(half.as_bytes()).await.unwrap();
    soon(gateway.provider().until(|counts| counts.open == 1)).await;
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    soon(gateway.provider().until(|counts| counts.open == 0)).await;
    // Its circuit is not open now.
    assert!(read(ask(chat(gateway.addr, true, "gap=0s")).await.into_body()).await.1);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off() {
    let gateway = gateway(&["--write-timeout", "200ms"]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(gateway.addr).await.unwrap();
    stream.write_all(raw_chat(ENDLESS).as_bytes()).await.unwrap();
    gateway.abandoned(1).await;
    // The data on the way arrives, then the end of the connection, never the end of the answer.
    let mut got = Vec::new();
    let _ = soon(stream.read_to_end(&mut got)).await;
    assert!(got.starts_with(b"HTTP/1.1 200 OK\r\n") && !got.ends_with(b"0\r\n\r\n"));
}

#[tokio::test]
async fn an_http2_client_that_stops_reading_one_stream_loses_that_stream() {
    let gateway = gateway(&["--write-timeout", "200ms"]).await;
    let socket = TcpStream::connect(gateway.addr).await.unwrap();
    let (client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        // The minimum, so that one stream does not use the connection's whole window.
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(1 << 20)
        .handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(connection);

    let mut stuck = soon(client.clone().send_request(chat(gateway.addr, true, ENDLESS))).await.unwrap().into_body();
    gateway.abandoned(1).await;
    // The connection lives, with its other streams.
    let answer = soon(client.clone().send_request(chat(gateway.addr, true, "gap=0s"))).await.unwrap();
    assert!(read(answer.into_body()).await.1);
    // The data that fits the client's window, then a reset.
    let reset = loop {
        match soon(stuck.frame()).await {
            Some(Ok(_)) => {}
            Some(Err(reset)) => break reset,
            None => panic!("it looks whole"),
        }
    };
    assert!(reset.to_string().contains("error reading a body"), "{reset}");
}

#[tokio::test]
async fn a_silent_upstream_is_not_the_clients_fault() {
    // The write timeout is far shorter than the silence within the answer, in both protocols.
    let gateway = gateway(&["--write-timeout", "20ms"]).await;
    for client in [http1(), http2()] {
        let answer =
            soon(client.request(chat(gateway.addr, true, "first-byte=60ms; gap=60ms; chunks=3"))).await.unwrap();
        let (events, whole) = read(answer.into_body()).await;
        assert!(whole && events.ends_with("data: [DONE]\n\n"));
    }
}

#[tokio::test]
async fn without_a_limit_a_client_may_take_its_time() {
    let gateway = gateway(&["--write-timeout", "off"]).await;
    for client in [http1(), http2()] {
        let answer = soon(client.request(chat(gateway.addr, true, "gap=0s; size=65536; chunks=40"))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(read(answer.into_body()).await.1);
    }
}

/// The clock moves only when nothing else does, so it shows how long the gateway waited.
#[tokio::test(start_paused = true)]
async fn a_client_that_asks_for_nothing_is_not_waited_for_for_ever() {
    let gateway = gateway(&[]).await;
    // Nothing; a possible HTTP/2 preface; all of the preface without a request; half a head.
    for said in ["", "PRI * HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", "GET / HTTP/1.1\r\nhost"] {
        let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let begun = Instant::now();
        let _ = timeout(secs(100), stream.read_to_end(&mut Vec::new())).await;
        let waited = begun.elapsed();
        assert!((29..=31).contains(&waited.as_secs()), "{waited:?} for {said:?}");
    }
}
