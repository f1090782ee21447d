//! Web pages that call, and the gateway's own pages.

use http::{Method, Request, Response};
use hyper::body::Incoming;

use super::client::{ask, chat, full, read};
use super::{Running, gateway};

async fn send(gateway: &Running, method: Method, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
    let uri = format!("http://{}{path}", gateway.addr);
    let request = headers
        .iter()
        .fold(Request::builder().method(method).uri(uri), |request, (name, value)| request.header(*name, *value));
    ask(request.body(full("")).unwrap()).await
}

async fn get(gateway: &Running, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let answer = send(gateway, Method::GET, path, headers).await;
    (answer.status().as_u16(), read(answer.into_body()).await.0)
}

#[tokio::test]
async fn pages_of_other_sites_may_not_call() {
    let gateway = gateway(&["--host", "gateway.example"]).await;
    for path in ["/v1/models", "/-/events", "/-/metrics"] {
        for (foreign, code) in [
            (&[("origin", "https://evil.example")][..], "origin_not_allowed"),
            (&[("sec-fetch-site", "cross-site")], "origin_not_allowed"),
            (&[("host", "rebound.example")], "host_not_allowed"),
            (&[("host", "rebound.example@localhost")], "host_not_allowed"),
        ] {
            let (status, problem) = get(&gateway, path, foreign).await;
            assert!(status == 403 && problem.contains(code), "{path} {foreign:?}: {problem}");
        }
    }
    assert_eq!(gateway.provider().counts().calls, 0);
    // Health checks of load balancers work under any name.
    for path in ["/-/healthz", "/-/readyz"] {
        assert_eq!(get(&gateway, path, &[("host", "lb.internal")]).await.0, 200);
    }
    // Requests through another proxy may come from anyone.
    for relayed in [
        ("x-forwarded-for", "203.0.113.9"),
        ("via", "1.1 nginx"),
        ("forwarded", "for=203.0.113.9"),
        ("x-real-ip", "203.0.113.9"),
        ("cf-connecting-ip", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
    ] {
        assert_eq!(get(&gateway, "/-/metrics", &[relayed]).await.0, 404, "{relayed:?}");
        assert_eq!(send(&gateway, Method::POST, "/-/forget", &[relayed]).await.status(), 404, "{relayed:?}");
        assert_eq!(get(&gateway, "/-/healthz", &[relayed]).await.0, 200);
    }
    for own in [&[("sec-fetch-site", "same-origin")][..], &[("host", "gateway.example")], &[("host", "localhost:8080")]]
    {
        assert_eq!(get(&gateway, "/v1/models", own).await.0, 200);
    }
    assert_eq!(get(&gateway, "/v1/models", &[("origin", &format!("http://{}", gateway.addr))]).await.0, 200);
}

#[tokio::test]
async fn a_site_that_is_allowed_may_call_and_read() {
    let keys = format!("{}/page-keys", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&keys, "acme:acme-key").unwrap();
    let site = "https://app.example";
    for options in [&["--allow-origin", site][..], &["--allow-origin", site, "--caller-keys-file", &keys]] {
        let gateway = gateway(options).await;
        let asks =
            [("access-control-request-method", "POST"), ("access-control-request-headers", "authorization, x-a")];
        let preflight =
            send(&gateway, Method::OPTIONS, "/v1/chat/completions", &[&[("origin", site)][..], &asks].concat()).await;
        let header = |name: &str| preflight.headers()[name].to_str().unwrap().to_owned();
        assert_eq!((preflight.status().as_u16(), header("access-control-allow-origin")), (204, site.to_owned()));
        assert_eq!(header("access-control-allow-methods"), "POST");
        assert_eq!(header("access-control-allow-headers"), "authorization, x-a");

        let mut call = chat(gateway.addr, false, "");
        call.headers_mut().insert("origin", site.parse().unwrap());
        call.headers_mut().insert("authorization", "Bearer acme-key".parse().unwrap());
        let answer = ask(call).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["access-control-allow-origin"]),
            (200, &site.parse().unwrap())
        );
        assert_eq!(answer.headers()["vary"], "origin");

        let other = [("origin", "https://evil.example")];
        let answer = send(&gateway, Method::OPTIONS, "/v1/models", &[&other[..], &asks].concat()).await;
        assert!(answer.status().is_client_error() && !answer.headers().contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn a_site_that_may_call_may_not_use_the_gateways_own_pages() {
    let site = "https://app.example";
    for origins in ["*", site] {
        for options in [&["--allow-origin", origins][..], &["--allow-origin", origins, "--admin", "127.0.0.1:0"]] {
            let main = gateway(options).await;
            let theirs = [("origin", site), ("sec-fetch-site", "cross-site")];
            assert_eq!(get(&main, "/v1/models", &theirs).await.0, 200, "it may call");
            let own = Running { addr: main.admin.unwrap_or(main.addr), ..main };
            for (method, path) in [(Method::POST, "/-/forget"), (Method::GET, "/-/calls"), (Method::GET, "/-/metrics")]
            {
                let refused = send(&own, method.clone(), path, &theirs).await;
                assert_eq!(refused.status(), 403, "{options:?}: {path}");
                assert!(!refused.headers().contains_key("access-control-allow-origin"), "{path}");
                let problem = read(refused.into_body()).await.0;
                assert!(problem.contains("own pages") && !problem.contains("--allow-origin"), "{problem}");
                for ours in [
                    ("sec-fetch-site", "same-origin"),
                    ("sec-fetch-site", "none"),
                    ("origin", &*format!("http://{}", own.addr)),
                ] {
                    assert_eq!(send(&own, method.clone(), path, &[ours]).await.status(), 200, "{path} {ours:?}");
                }
            }
            let preflight = [theirs[0], ("access-control-request-method", "POST")];
            assert_eq!(send(&own, Method::OPTIONS, "/-/forget", &preflight).await.status(), 403);
            assert_eq!(get(&own, "/-/healthz", &theirs).await.0, 200);
        }
    }
}

#[tokio::test]
async fn the_gateways_own_pages_are_below_one_path() {
    let gateway = gateway(&["--backoff-base", "5ms"]).await;
    assert_eq!(get(&gateway, "/-/healthz", &[]).await, (200, "ok\n".to_owned()));
    assert_eq!(get(&gateway, "/-/readyz", &[]).await, (200, "ready\n".to_owned()));
    assert!(read(ask(chat(gateway.addr, true, "gap=0s")).await.into_body()).await.1);
    let answer = send(&gateway, Method::GET, "/-/metrics", &[]).await;
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let figures = read(answer.into_body()).await.0;
    assert!(figures.contains("gateway_calls_total{status=\"200\",outcome=\"complete\"}"), "{figures}");
    assert!(figures.contains("gateway_first_byte_seconds_bucket{le=\"0.01\"}"));
    assert!(get(&gateway, "/-/breakers", &[]).await.1.contains("\"state\":\"closed\""));
    assert!(get(&gateway, "/-/", &[]).await.1.contains("</html>"));
    assert_eq!(get(&gateway, "/-/other", &[]).await.0, 404);
    let posted = send(&gateway, Method::POST, "/-/healthz", &[]).await;
    assert_eq!((posted.status().as_u16(), &posted.headers()["allow"]), (405, &"GET, HEAD".parse().unwrap()));
}

#[tokio::test]
async fn no_path_of_an_upstream_is_shadowed() {
    let upstream = super::forwarding::serve(axum::Router::new().fallback(|| async { "theirs" })).await;
    let gateway = super::gateway_before(upstream).await;
    for path in ["/", "/healthz", "/readyz", "/metrics", "/breakers", "/events", "/-", "/-x"] {
        assert_eq!(get(&gateway, path, &[("accept", "text/html")]).await, (200, "theirs".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn beyond_loopback_only_the_health_is_shown() {
    let gateway = gateway(&["--listen", "0.0.0.0:0"]).await;
    let local = Running { addr: ([127, 0, 0, 1], gateway.addr.port()).into(), ..gateway };
    assert_eq!(get(&local, "/-/healthz", &[]).await.0, 200);
    assert_eq!(get(&local, "/-/readyz", &[]).await.0, 200);
    for path in ["/-/", "/-/metrics", "/-/breakers", "/-/events"] {
        assert_eq!(get(&local, path, &[]).await.0, 404, "{path}");
    }
    assert_eq!(get(&local, "/v1/models", &[]).await.0, 200);
}

#[tokio::test]
async fn they_can_have_a_listener_of_their_own() {
    let gateway = gateway(&["--admin", "127.0.0.1:0"]).await;
    assert_eq!(get(&gateway, "/-/metrics", &[]).await.0, 404);
    assert_eq!(get(&gateway, "/-/healthz", &[]).await.0, 200);
    let admin = Running { addr: gateway.admin.unwrap(), ..gateway };
    assert_eq!(get(&admin, "/-/metrics", &[]).await.0, 200);
    assert_eq!(get(&admin, "/v1/models", &[]).await.0, 404, "no calls here");
    assert_eq!(get(&admin, "/-/metrics", &[("host", "rebound.example")]).await.0, 403);
}

#[tokio::test]
async fn a_gateway_whose_circuits_are_all_open_is_not_ready() {
    let gateway = gateway(&["--attempts", "1", "--breaker-consecutive", "1"]).await;
    assert_eq!(ask(chat(gateway.addr, true, "status=500")).await.status(), 500);
    assert_eq!(get(&gateway, "/-/readyz", &[]).await, (503, "all circuits are open\n".to_owned()));
    assert_eq!(get(&gateway, "/-/healthz", &[]).await.0, 200, "it lives");
}
