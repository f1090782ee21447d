//! The drain: nothing new, and time for open calls.

use http::Request;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{ask, chat, content, full, http1, http2, read};
use super::{gateway, soon};

#[tokio::test]
async fn open_streams_come_to_their_end_and_nothing_new_begins() {
    let gateway = gateway(&[]).await;
    let mut streams = Vec::new();
    for client in [http1(), http2()] {
        let mut body = soon(client.request(chat(gateway.addr, true, "gap=20ms; chunks=20"))).await.unwrap().into_body();
        soon(body.frame()).await.unwrap().unwrap();
        streams.push(body);
    }
    gateway.stop.send(()).unwrap();
    // Refused once the listener is closed, which is soon; until then the kernel may still queue the connection.
    soon(async {
        while TcpStream::connect(gateway.addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!gateway.served.is_finished());
    for body in streams {
        let (events, whole) = read(body).await;
        assert!(whole && events.ends_with("data: [DONE]\n\n"), "{}", content(&events));
    }
    soon(gateway.served).await.unwrap();
}

#[tokio::test]
async fn while_it_drains_it_says_on_the_listener_of_its_own_that_it_is_not_ready() {
    let gateway = gateway(&["--admin", "127.0.0.1:0"]).await;
    let mut body = ask(chat(gateway.addr, true, "gap=50ms; chunks=30")).await.into_body();
    soon(body.frame()).await.unwrap().unwrap();
    let readyz = || Request::get(format!("http://{}/-/readyz", gateway.admin.unwrap())).body(full("")).unwrap();
    assert_eq!(ask(readyz()).await.status(), 200);
    gateway.stop.send(()).unwrap();
    let draining = soon(async {
        loop {
            // A connection accepted just before is closed.
            if let Ok(answer) = http1().request(readyz()).await
                && answer.status() == 503
            {
                break read(answer.into_body()).await.0;
            }
        }
    });
    assert_eq!(draining.await, "draining\n");
    assert!(read(body).await.1);
    soon(gateway.served).await.unwrap();
}

#[tokio::test]
async fn a_connection_at_rest_is_closed_at_once() {
    let gateway = gateway(&["--drain-timeout", "1h"]).await;
    let mut kept = TcpStream::connect(gateway.addr).await.unwrap();
    kept.write_all(b"GET /-/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    soon(kept.read_exact(&mut answer)).await.unwrap();
    let mut unused = TcpStream::connect(gateway.addr).await.unwrap();
    // One has been answered, and the other is open.
    assert!(read(ask(chat(gateway.addr, true, "gap=0s")).await.into_body()).await.1);
    gateway.stop.send(()).unwrap();
    soon(gateway.served).await.unwrap();
    assert!(soon(kept.read_to_end(&mut Vec::new())).await.is_ok());
    assert!(soon(unused.read_to_end(&mut Vec::new())).await.is_ok());
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_not_waited_for_for_ever() {
    let gateway = gateway(&["--drain-timeout", "100ms", "--idle-timeout", "off"]).await;
    let mut body = ask(chat(gateway.addr, true, "gap=0s; stall-after=1")).await.into_body();
    soon(body.frame()).await.unwrap().unwrap();
    gateway.stop.send(()).unwrap();
    soon(gateway.served).await.unwrap();
}
