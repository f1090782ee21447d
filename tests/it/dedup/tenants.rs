//! No caller gets the answer to another one.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use proptest::prelude::*;
use tower_buttress::store::MemoryStore;
use tower_buttress::{DedupLayer, Tenant};

use super::{dedup, send, settle, text};
use crate::support::Log;

/// A request with these headers, all else being equal.
fn from(headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let builder =
        headers.iter().fold(Request::post("/v1/chat"), |builder, (name, value)| builder.header(*name, *value));
    builder.body(Full::from("what is my balance?")).unwrap()
}

/// Sends each, first all at once, then again when all are answered, and asserts that each hears its own answer.
async fn all_hear_their_own(layer: DedupLayer, callers: &[Request<Full<Bytes>>]) {
    for round in 0..2 {
        let (service, mut stage) = dedup(&layer);
        let mut calls = Vec::new();
        for (index, caller) in callers.iter().enumerate() {
            let call = send(&service, caller.clone()).await;
            if round == 0 {
                let answer = index.to_string();
                stage.call().await.ok_with(&answer);
            }
            calls.push(call);
        }
        for (index, call) in calls.into_iter().enumerate() {
            assert_eq!(text(call.await.unwrap().unwrap()).await, index.to_string());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_credential_is_another_tenant() {
    for key in [None, Some("k")] {
        let with_key = |headers: &[(&'static str, &'static str)]| {
            let mut headers = headers.to_vec();
            headers.extend(key.map(|key| ("idempotency-key", key)));
            from(&headers)
        };
        let callers = [
            with_key(&[("authorization", "Bearer a")]),
            with_key(&[("authorization", "Bearer b")]),
            with_key(&[("authorization", "bearer a")]),
            with_key(&[("x-api-key", "Bearer a")]),
            with_key(&[("x-api-key", "a")]),
            with_key(&[("api-key", "a")]),
            with_key(&[("x-goog-api-key", "a")]),
            with_key(&[("x-api-key", "a"), ("api-key", "a")]),
            // The same credential beside another that the upstream may look at.
            with_key(&[("authorization", "Bearer a"), ("x-api-key", "a")]),
            with_key(&[("authorization", "Bearer a"), ("x-api-key", "b")]),
            // An upstream that takes the last line, or the first.
            with_key(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]),
            with_key(&[("authorization", "Bearer b"), ("authorization", "Bearer a")]),
            with_key(&[("authorization", "Bearer a"), ("authorization", "")]),
        ];
        all_hear_their_own(DedupLayer::new(), &callers).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cookie_that_may_be_a_session_is_part_of_the_identity() {
    let callers = [
        from(&[("authorization", "shared"), ("cookie", "session=a")]),
        from(&[("authorization", "shared"), ("cookie", "session=b")]),
        from(&[("authorization", "shared")]),
    ];
    all_hear_their_own(DedupLayer::new(), &callers).await;
}

#[tokio::test(start_paused = true)]
async fn fields_cannot_be_shifted_into_one_another() {
    let by_header = || DedupLayer::new().tenant(|parts| parts.headers.get("x-tenant").cloned());
    let request = |tenant: &str, path: &str, key: &str| {
        let builder = Request::post(path).header("x-tenant", tenant).header("idempotency-key", key);
        builder.body(Full::from("hi")).unwrap()
    };
    let callers = [
        request("a", "/b/c", "k"),
        request("a/b", "/c", "k"),
        request("a/b/c", "/", "k"),
        request("aPOST", "/b/c", "k"),
        request("a", "/b/ck", "k"),
        request("a", "/b/c?k", "k"),
        request("a", "/b/c", "kk"),
        request("a", "/b/c", "k\\u0000"),
    ];
    all_hear_their_own(by_header(), &callers).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_cannot_be_chosen_to_be_what_a_request_says() {
    // A caller that knows how requests are hashed and sends the hash as a key names another request.
    let log = Arc::new(Log::default());
    let layer = DedupLayer::new().observer(log.clone());
    let print = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
    let callers = [
        from(&[("authorization", "a")]),
        from(&[("authorization", "a"), ("idempotency-key", print)]),
        from(&[("authorization", "a"), ("idempotency-key", "what is my balance?".split(' ').next().unwrap())]),
    ];
    all_hear_their_own(layer, &callers).await;
}

/// Gemini's documented form of a key.
#[tokio::test(start_paused = true)]
async fn a_key_in_the_query_is_a_credential() {
    let asks = |target: &str| {
        let mut request = from(&[]);
        *request.uri_mut() = target.parse().unwrap();
        request
    };
    let (service, mut stage) = dedup(&DedupLayer::new());
    let calls = [send(&service, asks("/v1beta?key=a")).await, send(&service, asks("/v1beta?key=a")).await];
    stage.call().await.ok_with("once");
    for call in calls {
        assert_eq!(text(call.await.unwrap().unwrap()).await, "once");
    }
    assert!(stage.is_quiet().await);
    let callers =
        ["/v1beta?key=a", "/v1beta?key=b", "/v1beta?api_key=a", "/v1beta?alt=sse&key=a", "http://a:b@host/v1beta"];
    all_hear_their_own(DedupLayer::new(), &callers.map(asks)).await;
    // A key that is not set is none.
    for target in ["/v1beta?key=", "/v1beta?key", "/v1beta?alt=sse"] {
        let (service, mut stage) = dedup(&DedupLayer::new());
        let _calls = [send(&service, asks(target)).await, send(&service, asks(target)).await];
        let _upstream = [stage.call().await, stage.call().await];
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_tenant_nothing_is_recognised() {
    for headers in [
        &[][..],
        &[("authorization", "")],
        // What is left of a key that is not set.
        &[("authorization", "Bearer")],
        &[("authorization", "basic ")],
        &[("x-api-key", " ")],
        &[("authorization", "Bearer"), ("x-api-key", "")],
        &[("idempotency-key", "k")],
        &[("cookie", "session=a")],
    ] {
        let log = Arc::new(Log::default());
        let layer = DedupLayer::new().observer(log.clone());
        let (service, mut stage) = dedup(&layer);
        let calls = [send(&service, from(headers)).await, send(&service, from(headers)).await];
        stage.call().await.ok_with("one");
        stage.call().await.ok_with("two");
        let [one, two] = calls.map(|call| async { text(call.await.unwrap().unwrap()).await });
        assert_eq!((one.await.as_str(), two.await.as_str()), ("one", "two"));
        assert_eq!(log.names(), ["bypassed: dedup", "bypassed: dedup"]);
    }
    // Not even a bad key is refused: a caller without a tenant gets no hint.
    let (service, mut stage) = dedup(&DedupLayer::new());
    let call = send(&service, from(&[("idempotency-key", "not a key")])).await;
    stage.call().await.ok_with("passed");
    assert_eq!(text(call.await.unwrap().unwrap()).await, "passed");
}

#[tokio::test(start_paused = true)]
async fn a_setting_tells_tenants_apart_and_joins_none() {
    let layer = DedupLayer::new().tenant(|parts| parts.extensions.get::<&'static str>().copied());
    let request = |tenant: Option<&'static str>, token: &'static str| {
        let mut request = from(&[("authorization", token)]);
        tenant.map(|tenant| request.extensions_mut().insert(tenant));
        request
    };
    all_hear_their_own(layer.clone(), &[request(Some("a"), "t"), request(Some("b"), "t")]).await;

    // The setting may look at a header that any caller can write: a credential always counts.
    all_hear_their_own(layer.clone(), &[request(Some("c"), "t1"), request(Some("c"), "t2")]).await;

    let (service, mut stage) = dedup(&layer);
    // None, or an empty one, is no tenant.
    for none in [None, Some("")] {
        let calls = [send(&service, request(none, "t")).await, send(&service, request(none, "t")).await];
        stage.call().await.ok_with("two");
        stage.call().await.ok_with("three");
        settle().await;
        assert!(calls.iter().all(tokio::task::JoinHandle::is_finished));
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_was_authenticated_stands_for_its_credentials() {
    let request = |tenant: Option<&'static str>, token: &'static str| {
        let mut request = from(&[("authorization", token)]);
        tenant.map(|tenant| request.extensions_mut().insert(Tenant::new(tenant)));
        request
    };
    let layer = DedupLayer::new();
    all_hear_their_own(layer.clone(), &[request(Some("a"), "t"), request(Some("b"), "t"), request(None, "t")]).await;

    // One tenant, two tokens.
    let (service, mut stage) = dedup(&DedupLayer::new());
    let calls = [send(&service, request(Some("c"), "t1")).await, send(&service, request(Some("c"), "t2")).await];
    stage.call().await.ok_with("one");
    for call in calls {
        assert_eq!(text(call.await.unwrap().unwrap()).await, "one");
    }
    // An empty name is none: the credential counts.
    all_hear_their_own(DedupLayer::new(), &[request(Some(""), "t1"), request(Some(""), "t2")]).await;
    // A tenant that is called as a credential is none of its.
    all_hear_their_own(DedupLayer::new(), &[request(Some("Bearer a"), ""), request(None, "Bearer a")]).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever two callers send, if their credentials differ in anything, each hears its own answer.
    #[test]
    fn no_two_credentials_are_one_tenant(
        one in prop::collection::vec((0_usize..4, "[ab ,=]{0,3}"), 1..3),
        two in prop::collection::vec((0_usize..4, "[ab ,=]{0,3}"), 1..3),
        key in prop::option::of(Just("k")),
    ) {
        const NAMES: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];
        // How lines of different names are ordered makes no difference.
        let order = |mut headers: Vec<(usize, String)>| {
            headers.sort_by_key(|(name, _)| *name);
            headers
        };
        let (one, two) = (order(one), order(two));
        prop_assume!(one != two);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let request = |headers: &[(usize, String)]| {
                let mut headers: Vec<_> = headers.iter().map(|(name, value)| (NAMES[*name], value.as_str())).collect();
                headers.extend(key.map(|key| ("idempotency-key", key)));
                from(&headers)
            };
            let (service, mut stage) = dedup(&DedupLayer::new().store(MemoryStore::default()));
            let first = send(&service, request(&one)).await;
            let second = send(&service, request(&two)).await;
            stage.call().await.ok_with("one");
            stage.call().await.ok_with("two");
            assert_eq!(text(first.await.unwrap().unwrap()).await, "one");
            assert_eq!(text(second.await.unwrap().unwrap()).await, "two");
        });
    }
}
