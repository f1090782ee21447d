//! The event that reports to a client why its stream broke.

use bytes::Bytes;
use http::StatusCode;

use crate::error::{
    self, BoxError, DeadlineExceeded, FirstContentElapsed, IdleBodyElapsed, Rounded, StreamSilent, StreamTruncated,
    Superseded, UnexpectedResponse, UpstreamError,
};
use crate::proto::dialect::{Kind, StreamError};
use crate::proto::sse::LineEnding;
use crate::rejection::{Rejection, RejectionKind};

/// The event for `err`, in the form that the clients of the dialect raise. `sequence` is the next `sequence_number` of a
/// Responses stream.
///
/// It names the limits and refusals of this crate, and what the upstream said to its caller. Other errors of the upstream
/// are not described: their text may be meant for the operator only.
pub(super) fn event(err: &BoxError, kind: Option<Kind>, sequence: u64, ending: LineEnding) -> Bytes {
    // The stream guard has already rendered the event: it knows the dialect from the stream itself.
    if let Some(reported) = error::find::<UpstreamError>(err).filter(|reported| !reported.frame().is_empty()) {
        return reported.frame().clone();
    }
    if let Some(truncated) = error::find::<StreamTruncated>(err) {
        return truncated.frame(ending).into();
    }
    if let Some(elapsed) = error::find::<FirstContentElapsed>(err) {
        return elapsed.frame(kind, sequence, ending).into();
    }
    describe(err).sequence(sequence).frame(kind, ending).into()
}

fn describe(err: &BoxError) -> StreamError<'_> {
    if let Some(reported) = error::find::<UpstreamError>(err) {
        let mut described = of_status(reported.status());
        if !reported.message().is_empty() {
            described = described.message(reported.message());
        }
        if let Some(name) = reported.type_name() {
            described = described.type_name(name);
        }
        return match reported.code() {
            Some(code) => described.code(code),
            None => described,
        };
    }
    let refused = error::find::<Rejection>(err);
    let is_superseded = refused.is_some_and(|rejection| rejection.kind() == RejectionKind::Superseded);
    if is_superseded || error::find::<Superseded>(err).is_some() {
        // Its own name, so that a client can distinguish it from a failure.
        let name = RejectionKind::Superseded.as_str();
        return StreamError::of_status(410).type_name(name).code(name).message(RejectionKind::Superseded.message());
    }
    if let Some(rejection) = refused {
        return of_status(rejection.kind().status()).message(rejection.to_string());
    }
    if let Some(answer) = error::find::<UnexpectedResponse>(err) {
        let status = answer.status.as_u16();
        let message = format!("The upstream answered {status} where a stream was expected.");
        return of_status(answer.status).message(message);
    }
    let silent = error::find::<StreamSilent>(err).map(|err| err.after);
    if let Some(after) = silent.or_else(|| error::find::<IdleBodyElapsed>(err).map(|err| err.after)) {
        return StreamError::of_status(504).message(format!("The upstream sent nothing for {}.", Rounded(after)));
    }
    if let Some(err) = error::find::<DeadlineExceeded>(err) {
        let message = format!("The call did not end within its time limit of {}.", Rounded(err.budget));
        return StreamError::of_status(504).message(message);
    }
    StreamError::of_status(502)
}

/// An answer that should have been a stream counts as a 502, whatever its status.
fn of_status(status: StatusCode) -> StreamError<'static> {
    StreamError::of_status(if status.as_u16() < 400 { 502 } else { status.as_u16() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::verdict::{Health, NextStep, Verdict};

    const AFTER: Duration = Duration::from_secs(15);

    /// The event for a Gemini client, which shows the status, and the event for an Anthropic client.
    fn events_of(err: impl Into<BoxError>) -> [String; 2] {
        let err = err.into();
        let text = |kind| String::from_utf8(event(&err, Some(kind), 7, LineEnding::Lf).to_vec()).unwrap();
        [text(Kind::Gemini), text(Kind::Anthropic)]
    }

    #[test]
    fn every_limit_and_refusal_has_its_status_and_type_in_the_dialect() {
        let errors: [(BoxError, u16, &str, &str); 10] = [
            (IdleBodyElapsed::new(AFTER).into(), 504, "timeout_error", "sent nothing for 15s"),
            (StreamSilent::new(AFTER).into(), 504, "timeout_error", "sent nothing for 15s"),
            (FirstContentElapsed::new(AFTER).into(), 504, "timeout_error", "no content for 15s"),
            (DeadlineExceeded::new(AFTER).into(), 504, "timeout_error", "time limit of 15s"),
            (Rejection::new(RejectionKind::CircuitOpen).into(), 503, "overloaded_error", ""),
            (Rejection::new(RejectionKind::Paced).into(), 429, "rate_limit_error", ""),
            (Superseded::new().into(), 410, "superseded", "A newer message"),
            (Rejection::new(RejectionKind::Superseded).into(), 410, "superseded", "A newer message"),
            (UnexpectedResponse::new(StatusCode::OK).into(), 502, "api_error", "answered 200"),
            ("the disk is full".into(), 502, "api_error", "The upstream failed in the middle of the stream."),
        ];
        for (err, status, name, message) in errors {
            let [gemini, anthropic] = events_of(err);
            assert!(gemini.starts_with(&format!("data: {{\"error\":{{\"code\":{status},")), "{gemini}");
            assert!(anthropic.starts_with("event: error\ndata: {\"type\":\"error\","), "{anthropic}");
            assert!(anthropic.contains(&format!("{{\"type\":\"{name}\"")), "{anthropic}");
            assert!(gemini.contains(message) && anthropic.contains(message), "{gemini}");
            assert!(!gemini.contains("disk"), "{gemini}");
        }
    }

    #[test]
    fn what_the_upstream_said_is_passed_on_also_behind_a_refusal() {
        let verdict = Verdict::new(NextStep::GiveUp, Health::Success);
        let status = StatusCode::from_u16(529).unwrap();
        let said = UpstreamError::new(status, verdict).with_names(Some("busy"), Some("overloaded_error"));
        let said = said.with_message("Come \"later\".");
        let refused = Rejection::new(RejectionKind::UpstreamFailed).with_source(said.clone());
        for err in [BoxError::from(said.clone()), refused.into()] {
            let [gemini, anthropic] = events_of(err);
            assert!(gemini.contains("\"code\":529") && gemini.contains("Come \\\"later\\\"."), "{gemini}");
            assert!(anthropic.contains("{\"type\":\"overloaded_error\",\"code\":\"busy\","), "{anthropic}");
        }
        assert_eq!(events_of(said.with_frame("event: x\n\n")), ["event: x\n\n"; 2], "its own frame, where it has one");
    }

    #[test]
    fn an_event_of_responses_has_its_place_in_the_sequence() {
        let event = event(&"broken".into(), Some(Kind::OpenAiResponses), 7, LineEnding::CrLf);
        assert!(event.starts_with(b"event: error\r\ndata: {\"type\":\"error\",\"sequence_number\":7,"), "{event:?}");
    }
}
