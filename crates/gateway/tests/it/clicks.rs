//! Double clicks: one upstream call, and both callers get the whole answer.

use std::time::Duration;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use super::client::{Outgoing, ask, chat, content, http1, http2, read};
use super::{Running, gateway, soon};
use crate::support::secs;

/// Twenty events in 2 s.
const SLOWLY: &str = "gap=100ms; chunks=20";

/// The upstream's id of its answer. Each caller also has its own.
const UPSTREAMS_ID: &str = "x-gateway-upstream-request-id";

fn click(gateway: &Running, fault: &str, who: &'static str) -> Request<Outgoing> {
    let mut request = chat(gateway.addr, true, fault);
    request.headers_mut().insert("authorization", HeaderValue::from_static(who));
    request
}

fn role(answer: &Response<Incoming>) -> Option<&str> {
    answer.headers().get("x-gateway-dedup").map(|role| role.to_str().unwrap())
}

#[tokio::test]
async fn two_clicks_are_one_upstream_call_and_two_whole_streams() {
    // In either version, and so under either name of the gateway: in HTTP/2 the name is in the URI.
    for (one, other) in [(http1(), http1()), (http2(), http2()), (http1(), http2())] {
        let gateway = gateway(&[]).await;
        let first = soon(one.request(click(&gateway, SLOWLY, "alice"))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let second = soon(other.request(click(&gateway, SLOWLY, "alice"))).await.unwrap();
        assert_eq!((role(&first), role(&second)), (Some("leader"), Some("joined")));
        assert_eq!(first.headers()[UPSTREAMS_ID], second.headers()[UPSTREAMS_ID]);

        let ((first, first_whole), (second, second_whole)) =
            tokio::join!(read(first.into_body()), read(second.into_body()));
        assert!(first_whole && second_whole);
        assert!(first.ends_with("data: [DONE]\n\n") && content(&first).len() > 20);
        assert_eq!(first, second);
        assert_eq!(gateway.provider().counts().calls, 1);

        // A request 2 s after the end of the answer is not a double click: the model is expected to answer again.
        let third = soon(other.request(click(&gateway, SLOWLY, "alice"))).await.unwrap();
        assert_eq!(role(&third), Some("replayed"));
        assert_eq!(read(third.into_body()).await, (first, true));
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        let third = soon(other.request(click(&gateway, SLOWLY, "alice"))).await.unwrap();
        assert_eq!(role(&third), Some("leader"));
        assert!(read(third.into_body()).await.1);
        assert_eq!(gateway.provider().counts().calls, 2);
    }
}

#[tokio::test]
async fn who_pays_with_another_key_gets_an_answer_of_their_own() {
    let gateway = gateway(&[]).await;
    for who in ["alice", "bob"] {
        let answer = ask(click(&gateway, "", who)).await;
        assert_eq!(role(&answer), Some("leader"));
        assert!(read(answer.into_body()).await.1);
    }
    // Every forwarded field counts, whichever the upstream uses.
    for (name, value) in [("x-api-key", "carol"), ("x-api-key", "dave"), ("authorization", "erin")] {
        let mut request = click(&gateway, "", "alice");
        request.headers_mut().append(name, HeaderValue::from_static(value));
        let answer = ask(request).await;
        assert_eq!(role(&answer), Some("leader"));
        assert!(read(answer.into_body()).await.1);
    }
    // A caller without credentials neither gets another's answer nor shares its own.
    let answer = ask(chat(gateway.addr, true, "")).await;
    assert_eq!(role(&answer), None);
    assert_eq!(gateway.provider().counts().calls, 6);
}

#[tokio::test]
async fn when_the_first_client_is_killed_the_second_gets_everything() {
    let gateway = gateway(&[]).await;
    let first = soon(http1().request(click(&gateway, SLOWLY, "alice"))).await.unwrap();
    let second = soon(http1().request(click(&gateway, SLOWLY, "alice"))).await.unwrap();
    assert_eq!(role(&second), Some("joined"));
    drop(first);
    let (text, whole) = read(second.into_body()).await;
    assert!(whole && text.ends_with("data: [DONE]\n\n"));
    let counts = gateway.provider().counts();
    assert_eq!((counts.calls, counts.finished, counts.abandoned), (1, 1, 0));
}

#[tokio::test]
async fn when_both_have_left_the_upstream_is_closed_after_the_grace() {
    let gateway = gateway(&["--dedup-grace", "200ms"]).await;
    for nth in 1..=2 {
        let call = soon(http1().request(click(&gateway, "gap=0s; stall-after=1", "alice"))).await.unwrap();
        drop(call);
        gateway.abandoned(nth).await;
    }
}

#[tokio::test]
async fn the_header_that_names_a_tenant_can_be_another() {
    let gateway = gateway(&["--dedup-tenant-header", "x-user", "--dedup-window", "off"]).await;
    let named = |user| {
        let mut request = chat(gateway.addr, true, SLOWLY);
        request.headers_mut().insert("x-user", HeaderValue::from_static(user));
        request
    };
    let click = |user| http1().request(named(user));
    let first = soon(click("alice")).await.unwrap();
    let (second, other) = (soon(click("alice")).await.unwrap(), soon(click("bob")).await.unwrap());
    assert_eq!([&first, &second, &other].map(role), [Some("leader"), Some("joined"), Some("leader")]);
    // A line that the caller wrote before the proxy's own must not make it another caller.
    let mut forged = named("alice");
    forged.headers_mut().append("x-user", HeaderValue::from_static("mallory"));
    assert_eq!(role(&ask(forged).await), Some("leader"));
    assert!(read(first.into_body()).await.1);
    // There is no window.
    assert_eq!(role(&soon(click("alice")).await.unwrap()), Some("leader"));
}

#[tokio::test]
async fn off_is_off() {
    let gateway = gateway(&["--dedup", "off"]).await;
    let answers = tokio::time::timeout(secs(10), async {
        tokio::join!(http1().request(click(&gateway, "", "alice")), http1().request(click(&gateway, "", "alice")))
    });
    let (first, second) = answers.await.unwrap();
    assert_eq!((role(&first.unwrap()), role(&second.unwrap())), (None, None));
    assert_eq!(gateway.provider().counts().calls, 2);
}
