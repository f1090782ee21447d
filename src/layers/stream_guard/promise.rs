//! The kind of an answer, by its head.

use http::Response;
use http_body::Body;

use super::config::Chosen;
use crate::proto::dialect::{Framing, Kind};
use crate::proto::event_stream::EventStream;
use crate::proto::media_type::BodyForm;
use crate::proto::{bodiless, media_type};
use crate::rejection::Rejection;

/// The kind of an answer that decides what to check.
pub(super) enum Promise {
    Nothing,
    /// Nothing to check, for this reason.
    Unreadable(&'static str),
    /// An error whose body has the reason.
    Error,
    /// An answer in JSON.
    Answer,
    Stream(Framing),
}

const AMAZON: &[u8] = b"application/vnd.amazon.eventstream";

// === impl Promise ===

impl Promise {
    /// `generates`: whether the request asks for a generation. `dialect`: the answer's, if known.
    pub(super) fn of<B: Body>(response: &Response<B>, generates: bool, dialect: Option<&Chosen>) -> Self {
        let (status, headers) = (response.status(), response.headers());
        // A refusal of this crate is not an answer of the upstream.
        if Rejection::of(response).is_some() {
            return Self::Nothing;
        }
        if status.as_u16() >= 400 {
            let says_why = generates && media_type::is_json(headers) && !response.body().is_end_stream();
            return match says_why {
                true if media_type::is_encoded(headers) => Self::Unreadable("the answer is compressed"),
                true => Self::Error,
                false => Self::Nothing,
            };
        }
        if !status.is_success() || bodiless::with_status(status) {
            return Self::Nothing;
        }
        match EventStream::of(headers) {
            EventStream::Plain => return Self::Stream(Framing::EventStream),
            EventStream::Encoded => return Self::Unreadable("the event stream is compressed"),
            EventStream::No => {}
        }
        let Some(dialect) = dialect.filter(|_| generates) else { return Self::Nothing };
        match (BodyForm::of(headers), dialect.kind()) {
            (BodyForm::Json | BodyForm::JsonLines, _) if media_type::is_encoded(headers) => {
                Self::Unreadable("the answer is compressed")
            }
            (BodyForm::Json, _) => Self::Answer,
            (BodyForm::JsonLines, Some(Kind::Ollama) | None) => Self::Stream(Framing::Lines),
            (BodyForm::Other, _) if media_type::essence(headers).eq_ignore_ascii_case(AMAZON) => {
                Self::Unreadable("binary event streams are not read")
            }
            _ => Self::Nothing,
        }
    }
}
