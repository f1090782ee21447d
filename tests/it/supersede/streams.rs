use std::io;

use http_body_util::combinators::UnsyncBoxBody;
use tower_buttress::error::{self, Superseded};
use tower_buttress::supersede::SupersedeBody;
use tower_buttress::{CircuitBreakerLayer, CircuitState, SseHeartbeatLayer};

use super::*;
use crate::support::{Script, Step, trace};

type Scripted = UnsyncBoxBody<Bytes, io::Error>;

/// The first message is answered with a stream that does not end, the others at once.
async fn answer(request: Request<CallBody>) -> Result<Response<Scripted>, Infallible> {
    let text = request.into_body().collect().await.unwrap().to_bytes();
    let body = if text.starts_with(b"one") {
        Script::new([Step::Data("data: 1\n\n"), Step::Hang]).unsized_()
    } else {
        Script::new([Step::Data("data: 2\n\n")])
    };
    let body = body.map_err(io::Error::other).boxed_unsync();
    Ok(Response::builder().header("content-type", "text/event-stream").body(body).unwrap())
}

async fn cut(layer: &SupersedeLayer) -> (SupersedeBody<Scripted>, Became) {
    let service = layer.layer(service_fn(answer));
    let mut body = service.clone().oneshot(message("one")).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
    let second = tokio::spawn(async move {
        tokio::time::sleep(secs(1)).await;
        let response = service.oneshot(message("two")).await.unwrap();
        let became = became(&response);
        response.into_body().collect().await.unwrap();
        became
    });
    let failed = body.frame().await.unwrap().unwrap_err();
    assert!(error::find::<Superseded>(&failed).is_some());
    (body, second.await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_stream_under_way_fails_and_does_not_end() {
    let log = Arc::new(Log::default());
    let layer = layer().observer(log.clone());
    let (mut body, second) = cut(&layer).await;
    assert_eq!(second, ANSWERED);
    assert!(body.frame().await.is_none(), "nothing follows the error");
    assert_eq!(log.names(), ["superseded: supersede"]);
    assert_eq!(layer.stats().in_flight, 0);
}

/// A reader that does not read does not keep the upstream, once it is asked again.
#[tokio::test(start_paused = true)]
async fn data_that_is_there_does_not_go_before_the_end() {
    let layer = layer();
    let service = layer.layer(service_fn(async |_: Request<CallBody>| {
        Ok::<_, Infallible>(Response::new(Script::new([Step::Data("a"), Step::Data("b")]).unsized_()))
    }));
    let mut body = service.clone().oneshot(message("one")).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(service.oneshot(message("two")).await.unwrap());
    assert!(error::find::<Superseded>(&body.frame().await.unwrap().unwrap_err()).is_some());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_read_to_its_end_stays_whole() {
    let layer = layer();
    let service = layer.layer(service_fn(answer));
    let first = service.clone().oneshot(message("zero")).await.unwrap();
    let mut body = first.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(became(&service.clone().oneshot(message("two")).await.unwrap()), ANSWERED);
    assert!(body.frame().await.is_none());
    assert_eq!(
        became(&service.oneshot(message("zero")).await.unwrap()),
        ANSWERED,
        "it was answered: it may come again"
    );
}

/// What a client reads of a stream on this path, behind heartbeats.
async fn read_stream(path: &'static str) -> Vec<String> {
    let service = SseHeartbeatLayer::new(secs(15)).error_events(true).layer(layer().layer(service_fn(answer)));
    let say = move |text| {
        let mut request = message(text);
        *request.uri_mut() = path.parse().unwrap();
        request
    };
    let response = service.clone().oneshot(say("one")).await.unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(secs(1)).await;
        let response = service.oneshot(say("two")).await.unwrap();
        response.into_body().collect().await.unwrap();
    });
    trace(response.into_body()).await
}

const MESSAGE: &str = "A newer message of this conversation replaced this one; do not send it again.";

#[tokio::test(start_paused = true)]
async fn clients_get_an_event_of_their_dialect() {
    let error = format!(r#"{{"type":"superseded","code":"superseded","message":"{MESSAGE}""#);
    for (path, event) in [
        (
            "/v1/chat/completions",
            format!("event: error\ndata: {{\"type\":\"error\",\"error\":{error},\"param\":null}}}}\n\n"),
        ),
        ("/v1/messages", format!("event: error\ndata: {{\"type\":\"error\",\"error\":{error}}}}}\n\n")),
        (
            "/v1beta/models/g:streamGenerateContent",
            format!("data: {{\"error\":{{\"code\":410,\"message\":\"{MESSAGE}\",\"status\":\"ABORTED\"}}}}\n\n"),
        ),
    ] {
        let failed = "+1.05s error: a newer message of the conversation replaced this one".to_owned();
        assert_eq!(
            read_stream(path).await,
            ["+0s data: 1\n\n".into(), format!("+1s {event}"), failed, "+1.05s end".into()]
        );
    }
}

/// A caller that gives up after a long silence is a sign that the upstream is slow. One that has another question is not.
#[tokio::test(start_paused = true)]
async fn a_superseded_call_says_nothing_of_the_upstream() {
    let breaker = CircuitBreakerLayer::new().configure(|config| config.consecutive_failures(2));
    let circuit = breaker.handle();
    let silent = service_fn(|_: Request<CallBody>| std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>());
    let service = layer().layer(breaker.layer(silent));
    let ask = async |tenant: &str, supersedes: bool| {
        let first = tokio::spawn(service.clone().oneshot(message_of(tenant, "one")));
        tokio::time::sleep(secs(120)).await;
        if supersedes {
            let _ = tokio::time::timeout(secs(1), service.clone().oneshot(message_of(tenant, "two"))).await;
            assert_eq!(became(&first.await.unwrap().unwrap()), SUPERSEDED);
        } else {
            first.abort();
            assert!(first.await.unwrap_err().is_cancelled());
        }
    };
    ask("a", true).await;
    ask("b", true).await;
    assert_eq!(circuit.snapshot().state, CircuitState::Closed);
    ask("c", false).await;
    ask("d", false).await;
    assert_eq!(circuit.snapshot().state, CircuitState::Open);
}
