//! The operator's own text in place of a model's answer.

use std::fmt;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Response};

use crate::proto::dialect::{Composed, Kind};
use crate::proto::output_format;
use crate::proto::prompt::{self, LastMessage};

/// A request without an answer from an upstream or the store: for
/// [`LastGoodLayer::template`](crate::LastGoodLayer::template).
pub struct UnansweredRequest {
    kind: Kind,
    head: Parts,
    body: Bytes,
}

/// Returns the text for a request, if there is one.
pub(crate) type TextTemplate = dyn Fn(&UnansweredRequest) -> Option<String> + Send + Sync;

// === impl UnansweredRequest ===

impl UnansweredRequest {
    pub(crate) fn new(kind: Kind, head: Parts, body: Bytes) -> Self {
        Self { kind, head, body }
    }

    /// Its dialect.
    #[must_use]
    pub fn dialect(&self) -> Kind {
        self.kind
    }

    /// Its head.
    #[must_use]
    pub fn head(&self) -> &Parts {
        &self.head
    }

    /// The model that it names.
    #[must_use]
    pub fn model(&self) -> Option<String> {
        prompt::model(self.kind, self.head.uri.path(), &self.body)
    }

    /// Its last message, if that is a single text of the user's.
    #[must_use]
    pub fn last_message(&self) -> Option<String> {
        LastMessage::of(self.kind, &self.body)?.text()
    }

    /// Returns the text of `template` as an answer of its dialect. None for a request for JSON, or for a tool call.
    pub(crate) fn answer(&self, template: &TextTemplate, id: u64, created: u64) -> Option<Response<Bytes>> {
        let text = output_format::wants_text(self.kind, &self.body).then(|| template(self))??;
        let model = self.model().unwrap_or_default();
        let path = self.head.uri.path();
        let query = self.head.uri.query().unwrap_or_default();
        let sse = query.split('&').any(|parameter| parameter == "alt=sse");
        let composed = Composed { kind: self.kind, path, sse, model: &model, text: &text, id, created };
        let streams = prompt::asks_for_stream(self.kind, path, &self.body);
        let (content_type, body) = if streams { composed.stream() } else { composed.answer() };
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if !streams {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        *response.body_mut() = body.into();
        Some(response)
    }
}

/// Without its headers and its body.
impl fmt::Debug for UnansweredRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnansweredRequest").field("dialect", &self.kind).finish_non_exhaustive()
    }
}
