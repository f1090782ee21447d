//! The memory held for the requests of all callers.

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{ask, chat, full, read};
use super::{Running, gateway, soon};
use tower_buttress_gateway::Provider;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

pub(super) async fn held(gateway: &Running) -> usize {
    let request = Request::get(format!("http://{}/-/metrics", gateway.addr)).body(full("")).unwrap();
    let figures = read(ask(request).await.into_body()).await.0;
    figures.lines().find_map(|line| line.strip_prefix("gateway_memory_bytes ")).unwrap().parse().unwrap()
}

/// A request of 1 MiB from this caller: its head with half of its body, and the rest.
fn halves(model: &str, caller: usize) -> (String, String) {
    let text = "x".repeat(MIB);
    let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let (half, rest) = body.split_at(body.len() / 2);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         authorization: Bearer {caller}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    (head + half, rest.to_owned())
}

/// Sends the first halves of this number of requests per caller, then the second halves. Returns the heads of the
/// answers, and the maximum of bytes held.
async fn upload(gateway: &Running, calls: usize, callers: usize) -> (Vec<String>, usize) {
    let mut streams = Vec::new();
    for nth in 0..calls * callers {
        let (half, rest) = halves("sim", nth % callers);
        let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
        soon(stream.write_all(half.as_bytes())).await.unwrap();
        streams.push((stream, rest));
    }
    let most = most_held(gateway).await;
    let mut answers = Vec::new();
    for (mut stream, rest) in streams {
        answers.push(finish(&mut stream, &rest).await.split("\r\n\r\n").next().unwrap().to_owned());
    }
    (answers, most)
}

async fn finish(stream: &mut TcpStream, rest: &str) -> String {
    soon(stream.write_all(rest.as_bytes())).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits until everything readable has been read.
async fn most_held(gateway: &Running) -> usize {
    soon(async {
        let (mut most, mut before) = (0, 0);
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            let now = held(gateway).await;
            most = most.max(now);
            if now > 0 && now == before {
                return most;
            }
            before = now;
        }
    })
    .await
}

#[tokio::test]
async fn what_is_held_of_slow_uploads_is_bounded_and_each_is_served() {
    let gateway = gateway(&["--memory", "4MiB", "--dedup", "off"]).await;
    let (answers, most) = upload(&gateway, 3, 8).await;
    assert!((2 * MIB..=4 * MIB).contains(&most), "{} KiB were held", most / KIB);
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    soon(async {
        while held(&gateway).await > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Also without caller keys: credentials identify the caller.
#[tokio::test]
async fn slow_uploads_of_one_caller_leave_the_memory_to_the_others() {
    let provider = Provider::start().await.unwrap();
    let path = format!("{}/share.toml", env!("CARGO_TARGET_TMPDIR"));
    let route = format!("name = \"sims\"\nmodel = \"sim*\"\nupstream = \"http://{}\"\n", provider.addr());
    std::fs::write(&path, format!("memory = \"8MiB\"\ndedup = false\n[[route]]\n{route}")).unwrap();
    let gateway = gateway(&["--config", &path]).await;
    let (half, _) = halves("sim", 0);
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
        soon(stream.write_all(half.as_bytes())).await.unwrap();
        streams.push(stream);
    }
    let most = most_held(&gateway).await;
    assert!(most <= 2 * MIB, "{} KiB of 8 MiB were held for one caller", most / KIB);
    let (half, rest) = halves("sim", 1);
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    let answer = finish(&mut stream, &format!("{half}{rest}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

/// A call has a place of its caller and one of the upstream only when its request is here.
#[tokio::test]
async fn no_place_is_held_while_a_request_comes() {
    let gateway = gateway(&["--caller-concurrency", "1", "--concurrency", "1", "--dedup", "off"]).await;
    let (half, rest) = halves("sim", 0);
    let mut slow = TcpStream::connect(gateway.addr).await.unwrap();
    soon(slow.write_all(half.as_bytes())).await.unwrap();
    most_held(&gateway).await;
    let mut other = chat(gateway.addr, false, "");
    other.headers_mut().insert("authorization", "Bearer 0".parse().unwrap());
    assert_eq!(ask(other).await.status(), 200);
    let answer = finish(&mut slow, &rest).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn where_the_route_depends_on_the_model_what_cannot_be_read_is_refused() {
    let path = format!("{}/memory.toml", env!("CARGO_TARGET_TMPDIR"));
    let route = "name = \"sims\"\npath = \"/v1/\"\nmodel = \"sim*\"\nupstream = \"http://127.0.0.1:1\"\nattempts = 1\n";
    std::fs::write(&path, format!("memory = \"64KiB\"\n[[route]]\n{route}")).unwrap();
    let gateway = gateway(&["--config", &path]).await;
    let (half, rest) = halves("sim", 0);
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    soon(stream.write_all(format!("{half}{rest}").as_bytes())).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("no_memory"), "{answer}");
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
}
