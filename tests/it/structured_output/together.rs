//! With the layers around it.

use tower_buttress::{
    Authenticated, DedupLayer, FallbackLayer, LastGoodLayer, ServedBy, StreamGuardLayer, TimeoutProfile, presets,
};

use super::*;

#[tokio::test(start_paused = true)]
async fn one_key_two_callers_first_invalid_then_valid_is_one_answer_for_both_and_for_the_replay() {
    let model = Model::new(&[Says::Text(BAD), Says::Text(GOOD)]);
    let service = DedupLayer::new().layer(StructuredOutputLayer::new().layer(model.service()));
    let keyed = || {
        let mut request = request();
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        request
    };
    let (one, other) = tokio::join!(send(&service, keyed()), send(&service, keyed()));
    let replay = send(&service, keyed()).await;
    for got in [one, other, replay] {
        assert_eq!((got.status, got.text.as_str(), got.fault), (200, GOOD, None));
    }
    assert_eq!(model.calls(), 2);
}

/// All who get it are told that it is not in its form: who joins the call, and who asks again when it has ended.
#[tokio::test(start_paused = true)]
async fn one_key_two_callers_and_an_answer_that_stays_invalid_is_marked_for_both_and_for_the_replay() {
    let model = Model::new(&[Says::Text(BAD)]);
    let layer = StructuredOutputLayer::new().max_reasks(0);
    let service = DedupLayer::new().layer(layer.layer(model.service()));
    let keyed = || {
        let mut request = request();
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        request
    };
    let (one, other) = tokio::join!(send(&service, keyed()), send(&service, keyed()));
    let replay = send(&service, keyed()).await;
    for got in [one, other, replay] {
        assert_eq!((got.status, got.text.as_str(), got.fault), (200, BAD, Some(OutputFault::Schema)));
    }
    assert_eq!(model.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_key_two_callers_and_held_streams_are_one_answer_too() {
    let model = Model::new(&[held_stream(&["{\"town\":", "1}"]), held_stream(&["{\"city\":", "\"Paris\"}"])]);
    // A stream is kept only where it is known to be whole.
    let upstream = StreamGuardLayer::new().layer(model.service());
    let service = DedupLayer::new().layer(StructuredOutputLayer::new().hold_streams(64 * 1024).layer(upstream));
    let keyed = || {
        let mut request = streaming_request();
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        request
    };
    let (one, other) = tokio::join!(send(&service, keyed()), send(&service, keyed()));
    let replay = send(&service, keyed()).await;
    let good = [chunk("{\"city\":"), chunk("\"Paris\"}"), STREAM_END].concat();
    for got in [one, other, replay] {
        assert_eq!((got.status, got.text.as_str(), got.fault), (200, good.as_str(), None));
    }
    assert_eq!(model.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_backup_is_asked_where_the_answer_stays_invalid() {
    let primary = || Model::new(&[Says::Text(BAD), Says::Text(BAD), Says::Text(BAD)]);
    let known = || {
        let mut request = request();
        request.extensions_mut().insert(Authenticated);
        request
    };
    let backup = Model::new(&[Says::Text(GOOD)]);
    let layer = FallbackLayer::new(StructuredOutputLayer::new().layer(backup.service())).name("large");
    let service = layer.layer(StructuredOutputLayer::new().layer(primary().service()));
    let response = service.oneshot(known()).await.unwrap();
    assert_eq!((ServedBy::of(&response), InvalidOutput::of(&response)), (Some("large"), None));
    let usage = response.extensions().get::<OutputUsage>().unwrap();
    assert_eq!((usage.calls, usage.usage.input, usage.usage.output), (4, Some(40), Some(20)), "of both upstreams");

    // A backup that does no better: the answer as the 200 that it is.
    let backup = Model::new(&[Says::Text("no"), Says::Text("no"), Says::Text("no")]);
    let layer = FallbackLayer::new(StructuredOutputLayer::new().layer(backup.service()));
    let service = layer.layer(StructuredOutputLayer::new().layer(primary().service()));
    assert_eq!(send(&service, known()).await, got(BAD, Some(OutputFault::Schema), 6), "all calls are counted");

    // A schema that nothing matches is the caller's to choose: a stranger gets nothing on the operator's account by it.
    let backup = Model::new(&[]);
    let service = FallbackLayer::new(backup.service()).layer(StructuredOutputLayer::new().layer(primary().service()));
    assert_eq!(send(&service, request()).await.fault, Some(OutputFault::Schema));
    assert_eq!(backup.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_preset_has_it_around_each_upstream() {
    let (primary, backup) = (
        Model::new(&[Says::Text(BAD), Says::Text(BAD), Says::Text(BAD)]),
        Model::new(&[Says::Text(BAD), Says::Text(GOOD)]),
    );
    let stack = presets::llm_client(TimeoutProfile::STANDARD)
        .structured_output(|_| StructuredOutputLayer::new())
        .fallback(FallbackLayer::new(backup.service()).own_credentials(true));
    let service = stack.layer(primary.service());
    assert_eq!(send(&service, request()).await, got(GOOD, None, 5), "those of the primary are counted too");
    assert_eq!((primary.calls(), backup.calls()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_in_its_form_is_no_last_good_answer() {
    let model = Model::new(&[Says::Text("no"), Says::Break]);
    let service = LastGoodLayer::new().layer(StructuredOutputLayer::new().max_reasks(0).layer(model.service()));
    assert_eq!(send(&service, request()).await.fault, Some(OutputFault::Syntax));
    assert!(service.oneshot(request()).await.is_err());
}
