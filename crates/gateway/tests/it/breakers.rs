//! The circuit stops calls to a failing upstream until a probe is due.

use http::{Request, StatusCode};
use serde_json::Value;

use super::again::backup;
use super::client::{ask, chat, full, read};
use super::{Running, gateway};

async fn page(gateway: &Running, path: &str) -> String {
    let request = Request::get(format!("http://{}{path}", gateway.addr)).body(full("")).unwrap();
    read(ask(request).await.into_body()).await.0
}

async fn circuit(gateway: &Running) -> Value {
    serde_json::from_str::<Value>(&page(gateway, "/-/breakers").await).unwrap()[0].take()
}

async fn status(gateway: &Running, fault: &str) -> u16 {
    ask(chat(gateway.addr, true, fault)).await.status().as_u16()
}

#[tokio::test]
async fn an_upstream_that_keeps_failing_is_asked_no_more() {
    let gateway = gateway(&["--attempts", "1", "--breaker-consecutive", "3"]).await;
    assert_eq!(circuit(&gateway).await["state"], "closed");
    for _ in 0..3 {
        assert_eq!(status(&gateway, "status=500").await, 500);
    }
    let answer = ask(chat(gateway.addr, true, "")).await;
    assert_eq!(answer.status(), 503);
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
    assert_eq!(gateway.provider().counts().calls, 3);

    let circuit = circuit(&gateway).await;
    assert_eq!((&circuit["state"], &circuit["failures"], &circuit["refused"]), (&"open".into(), &3.into(), &1.into()));
    assert!(circuit["open_for_seconds"].as_f64().unwrap() > 3.0);
    assert!(page(&gateway, "/-/metrics").await.contains("gateway_circuit_state"));
}

#[tokio::test]
async fn a_model_that_is_down_does_not_take_the_others_with_it() {
    let ratio = ["--breaker-min-calls", "4", "--breaker-failure-ratio", "0.5", "--dedup", "off"];
    let gateway = gateway(&[&["--attempts", "1"], &ratio[..]].concat()).await;
    let status = async |model: &str, fault: &str| {
        let body = serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
        let mut request = chat(gateway.addr, false, fault);
        *request.body_mut() = full(body.to_string());
        let answer = ask(request).await;
        let status = answer.status().as_u16();
        read(answer.into_body()).await;
        status
    };
    // A model has a circuit from its first answer on.
    assert_eq!((status("down", "").await, status("well", "").await), (200, 200));
    assert_eq!((status("down", "").await, status("well", "").await), (200, 200));
    for _ in 0..3 {
        assert_eq!(status("down", "status=500").await, 500);
    }
    assert_eq!((status("down", "").await, status("well", "").await), (503, 200));
}

#[tokio::test]
async fn one_call_finds_out_that_it_is_back() {
    let gateway = gateway(&["--attempts", "1", "--breaker-consecutive", "1", "--breaker-open", "50ms"]).await;
    assert_eq!(status(&gateway, "status=500").await, 500);
    assert_eq!(status(&gateway, "").await, 503);
    // The jitter is at most a tenth.
    tokio::time::sleep(std::time::Duration::from_millis(60)).await;
    let answer = ask(chat(gateway.addr, true, "")).await;
    assert_eq!(answer.status(), 200);
    assert!(read(answer.into_body()).await.1);
    assert_eq!(circuit(&gateway).await["state"], "closed");
}

#[tokio::test]
async fn an_open_circuit_goes_to_the_fallback_at_once() {
    let (fallback, seen) = backup(StatusCode::OK).await;
    let gateway = gateway(&["--attempts", "1", "--breaker-consecutive", "1", "--fallback", &fallback]).await;
    for _ in 0..3 {
        let answer = ask(chat(gateway.addr, true, "reset")).await;
        assert_eq!(answer.headers()["x-gateway-served-by"], "fallback");
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert_eq!((gateway.provider().counts().calls, seen.lock().unwrap().len()), (1, 3));
}

#[tokio::test]
async fn off_is_off() {
    let gateway = gateway(&["--attempts", "1", "--breaker-consecutive", "1", "--breaker", "off"]).await;
    for _ in 0..3 {
        assert_eq!(status(&gateway, "status=500").await, 500);
    }
    assert_eq!(gateway.provider().counts().calls, 3);
    assert_eq!(page(&gateway, "/-/breakers").await, "[]");
}

#[test]
fn a_setting_that_cannot_work_is_a_one_line_error() {
    use tower_buttress_gateway::{Args, Stop};
    for (option, value) in [("--breaker-failure-ratio", "2"), ("--breaker-open", "1h"), ("--breaker-window", "1ms")] {
        let args = ["gateway", "--listen", "127.0.0.1:0", option, value].map(std::ffi::OsString::from);
        let Err(Stop::Wrong(wrong)) = Args::read(args) else { panic!("{option}") };
        assert!(wrong.starts_with(&format!("{option} must ")) && !wrong.contains('\n'), "{wrong}");
    }
}
