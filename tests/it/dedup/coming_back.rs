//! Callers that come back in every other way: with other methods, conditions and spellings, too often, and at the wrong moment.

use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower_buttress::{DedupLayer, RejectionKind, Resumable, Tenant};

use super::resumable::{ask, begin, delete, event_stream, events, get, get_after, kind, layer, location};
use super::{dedup, next, post_key, send, settle, text, with_header};
use crate::support::secs;

#[tokio::test(start_paused = true)]
async fn a_head_is_the_head_of_what_a_get_reads() {
    let (service, mut stage) = dedup(&layer());
    let (mut answer, say, location) = begin(&service, &mut stage, "k").await;
    say.data("data: one\n\n");
    let (_, id) = events(&next(&mut answer).await);
    let head = |id: &str| {
        let mut request = get_after(&location, id);
        *request.method_mut() = Method::HEAD;
        request
    };
    for is_over in [false, true] {
        for (id, status) in [("", 200), ("0.7", 412), (&id, if is_over { 204 } else { 200 })] {
            let response = ask(&service, head(id)).await;
            assert_eq!(response.status(), status, "{is_over} {id}");
            if status == 200 {
                assert_eq!(response.headers()["content-type"], "text/event-stream");
                assert!(!response.headers().contains_key("content-length"), "its length is not known");
                assert_eq!(text(response).await, "");
            }
        }
        if !is_over {
            say.end();
            assert_eq!(next(&mut answer).await, "end");
        }
    }
    assert!(stage.is_quiet().await);
}

/// What a cache or a browser may send along changes nothing about what is read.
#[tokio::test(start_paused = true)]
async fn ranges_and_conditions_are_not_applied() {
    let (service, mut stage) = dedup(&layer());
    let call = send(&service, post_key("k", "hi")).await;
    let head = Response::builder().header("content-type", "text/event-stream").header("etag", "\"a\"");
    let head = head.header("accept-ranges", "bytes").header("content-location", "/v1/elsewhere");
    let head = head.header("cache-control", "public, max-age=600");
    let say = stage.call().await.answer(head.body(()).unwrap());
    let answer = call.await.unwrap().unwrap();
    let location = location(&answer);
    say.data("data: one\n\n");
    say.end();
    let all = text(answer).await;
    for (name, value) in [
        ("range", "bytes=0-3"),
        ("if-range", "\"a\""),
        ("if-none-match", "*"),
        ("if-match", "\"b\""),
        ("if-modified-since", "Fri, 27 Nov 2037 00:00:00 GMT"),
        ("cache-control", "only-if-cached"),
        ("expect", "100-continue"),
    ] {
        let back = ask(&service, with_header(get(&location), name, value)).await;
        assert_eq!(back.status(), 200, "{name}");
        assert_eq!(back.headers()["cache-control"], "no-store", "{name}");
        for gone in ["etag", "content-location", "content-range"] {
            assert!(!back.headers().contains_key(gone), "{name}: {gone}");
        }
        assert_eq!(text(back).await, all, "{name}");
    }
}

/// A token is one spelling; any other is a path of the upstream.
#[tokio::test(start_paused = true)]
async fn a_token_in_another_spelling_is_a_path_of_the_upstream() {
    let (service, mut stage) = dedup(&layer());
    let (_answer, _say, location) = begin(&service, &mut stage, "k").await;
    let token = location.strip_prefix("/answers/").unwrap().to_owned();
    let first = token.as_bytes()[0];
    for path in [
        format!("/answers/%{first:02x}{}", &token[1..]),
        format!("/answers/{}", token.to_uppercase() + "A"),
        format!("/answers/{token}/"),
        format!("/answers//{token}"),
        format!("/answers/./{token}"),
        format!("/Answers/{token}"),
        format!("//answers/{token}"),
        format!("/answers/{}", &token[1..]),
        format!("/answers/{token};x"),
    ] {
        let call = send(&service, get(&path)).await;
        let upstream = stage.call().await;
        assert_eq!(upstream.request.uri().path(), path);
        upstream.ok_with("upstream");
        assert_eq!(text(call.await.unwrap().unwrap()).await, "upstream", "{path}");
    }
    // A query is no part of it.
    assert_eq!(ask(&service, get(&format!("{location}?a=b&c"))).await.status(), 200);
}

/// Another tenant neither reads, nor stops, nor learns that it is there, whatever it sends.
#[tokio::test(start_paused = true)]
async fn another_tenant_sees_what_it_would_see_of_an_answer_that_never_was() {
    let (service, mut stage) = dedup(&layer());
    let (mut answer, say, location) = begin(&service, &mut stage, "k").await;
    say.data("data: one\n\n");
    let (_, id) = events(&next(&mut answer).await);
    let nowhere = format!("/answers/{}", "0".repeat(32));
    for method in [Method::GET, Method::HEAD, Method::DELETE, Method::PUT] {
        for id in ["", "x", &id] {
            let mut seen = Vec::new();
            for url in [&location, &nowhere] {
                let mut request = with_header(get_after(url, id), "authorization", "Bearer b");
                *request.method_mut() = method.clone();
                let back = ask(&service, request).await;
                let headers: Vec<_> = back.headers().keys().cloned().collect();
                seen.push((back.status(), headers, text(back).await));
            }
            assert_eq!(seen[0], seen[1], "{method} {id}");
        }
    }
    let mut other = delete(&location);
    other.extensions_mut().insert(Tenant::new("b"));
    ask(&service, other).await;
    say.data("data: two\n\n");
    assert_eq!(events(&next(&mut answer).await).0, ["two"]);
    assert_eq!(stage.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_delete_ends_all_who_wait_and_read() {
    let resumable = Resumable::at("/answers").respond_async(true);
    let (service, mut stage) = dedup(&DedupLayer::new().resumable(resumable));
    let prefers = with_header(post_key("k", "hi"), "prefer", "respond-async, wait=1");
    let location = ask(&service, prefers).await.headers()["location"].to_str().unwrap().to_owned();
    let upstream = stage.call().await;
    // Before the head, while a caller waits for it.
    let waits = send(&service, get(&location)).await;
    let stops = [send(&service, delete(&location)).await, send(&service, delete(&location)).await];
    for stop in stops {
        assert_eq!(stop.await.unwrap().unwrap().status(), 204);
    }
    let waited = waits.await.unwrap().unwrap();
    assert_eq!((waited.status().as_u16(), kind(&waited)), (410, Some(RejectionKind::AnswerGone)));
    settle().await;
    assert_eq!((stage.alive(), ask(&service, get(&location)).await.status().as_u16()), (0, 410));
    drop(upstream);

    // While one reads, who then reads an error, and another skips what it has.
    let (mut answer, say, location) = begin(&service, &mut stage, "other").await;
    say.data("data: one\n\n");
    let (_, id) = events(&next(&mut answer).await);
    let mut back = ask(&service, get_after(&location, &id)).await;
    ask(&service, delete(&location)).await;
    for answer in [&mut answer, &mut back] {
        assert!(next(answer).await.starts_with("error: "));
        assert_eq!(next(answer).await, "end");
    }
    // The key is free, and nothing of the answer comes again.
    let again = send(&service, post_key("other", "hi")).await;
    stage.call().await.ok_with("again");
    assert_eq!(text(again.await.unwrap().unwrap()).await, "again");
}

/// Of those who come back, too: who does not read holds up none of those who do.
#[tokio::test(start_paused = true)]
async fn a_caller_that_comes_back_and_does_not_read_is_cut_off() {
    let resumable = Resumable::at("/answers").max_response(2_000);
    let (service, mut stage) = dedup(&DedupLayer::new().max_response(100).lag(secs(5)).resumable(resumable));
    let (mut answer, say, location) = begin(&service, &mut stage, "k").await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(ask(&service, get(&location)).await);
    }
    let start = tokio::time::Instant::now();
    for nth in 0..20 {
        say.data(&format!("data: {nth} {}\n\n", "x".repeat(400)));
        assert!(next(&mut answer).await.contains(&format!("data: {nth} ")));
    }
    assert!(start.elapsed() <= secs(6), "{:?}", start.elapsed());
    for mut idle in idle {
        let mut read = String::new();
        while !read.contains("error: ") {
            read = next(&mut idle).await;
            assert_ne!(read, "end");
        }
    }
}

/// One tenant, a token for each call: it has an eighth of them, and keeps no other tenant out.
#[tokio::test(start_paused = true)]
async fn a_tenant_has_an_eighth_of_the_answers() {
    let (service, mut stage) = dedup(&layer());
    let call = async |stage: &mut super::Stage, tenant: &'static str, key: String| {
        let mut request = Request::post("/v1/chat").body(Full::from("hi")).unwrap();
        request.headers_mut().insert("idempotency-key", HeaderValue::from_str(&key).unwrap());
        request.extensions_mut().insert(Tenant::new(tenant));
        let call = tokio::spawn({
            let service = service.clone();
            async move { ask(&service, request).await }
        });
        let say = stage.call().await.answer(event_stream());
        say.data("data: one\n\n");
        say.end();
        let answer = call.await.unwrap();
        let is_told = answer.headers().contains_key("content-location");
        assert!(answer.into_body().collect().await.is_ok());
        is_told
    };
    let mut told = 0;
    for nth in 0..2_100 {
        told += usize::from(call(&mut stage, "many", nth.to_string()).await);
    }
    assert_eq!(told, 2_048);
    assert!(call(&mut stage, "other", "k".to_owned()).await);
    sleep(secs(310)).await;
    assert!(call(&mut stage, "many", "later".to_owned()).await, "their windows have passed");
}
