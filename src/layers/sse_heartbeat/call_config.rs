//! What the settings come to for one call.

use std::time::Duration;

use http::header::ACCEPT_ENCODING;
use http::{Extensions, HeaderMap, HeaderName, Method, Request, Uri};

use super::config::Config;
use super::head;
use super::notices::CallNotices;
use crate::policy::heartbeat_frame::HeartbeatFrame;
use crate::proto::dialect::Kind;
use crate::proto::{event_stream, list};

/// The settings of one call.
#[derive(Debug)]
pub(super) struct CallConfig {
    pub(super) layer: Config,
    /// The dialect of the request's path.
    pub(super) kind: Option<Kind>,
    /// The caller asks for Ollama's JSON lines.
    pub(super) json_lines: bool,
    /// The caller forbids changes to the body.
    pub(super) no_transform: bool,
    /// When the stream begins without an answer; `None`: never.
    pub(super) begins_after: Option<Duration>,
    /// `None`: the caller gets no notices.
    pub(super) notices: Option<Box<CallNotices>>,
}

const PREFER: HeaderName = HeaderName::from_static("prefer");

// === impl CallConfig ===

impl CallConfig {
    /// Removes the `Accept-Encoding` of a request whose stream may begin early: a compressed answer could not follow.
    pub(super) fn new<B>(layer: &Config, request: &mut Request<B>) -> Self {
        let mut layer = layer.clone();
        if request.method() == Method::HEAD {
            layer.interval = None;
        }
        if layer.interval.is_none() {
            return Self {
                layer,
                kind: None,
                json_lines: false,
                no_transform: false,
                begins_after: None,
                notices: None,
            };
        }
        if let Some(frame) = request.extensions().get::<HeartbeatFrame>() {
            layer.frame = frame.clone();
        }
        let kind = Kind::of_path(request.uri().path());
        let json_lines = kind == Some(Kind::Ollama)
            && event_stream::is_marked(request.extensions())
            && !event_stream::is_accepted(request.headers());
        let no_transform = head::no_transform(request.headers());
        let text = layer.notices.as_ref().filter(|_| !no_transform);
        let notices = text.map(|text| Box::new(CallNotices::of(text, request)));
        let mut config = Self { layer, kind, json_lines, no_transform, begins_after: None, notices };
        config.begins_after = config.begins_after(request);
        if config.begins_after.is_some() {
            request.headers_mut().remove(ACCEPT_ENCODING);
        }
        config
    }

    fn begins_after<B>(&self, request: &Request<B>) -> Option<Duration> {
        let after = self.layer.before_headers.filter(|_| !self.no_transform)?;
        let begins = if self.json_lines {
            // JSON lines have no heartbeats: only a notice can come before the answer.
            self.notices.is_some()
        } else {
            self.layer.frame.before_headers(self.kind) && expects_event_stream(self.kind, request)
        };
        let comes_later = self.layer.respond_async.unwrap_or(true) && prefers_async(request.headers());
        (begins && !comes_later).then_some(after)
    }

    /// The dialect of an event stream in answer to this call. Ollama's own API sends none: an event stream under its path
    /// is of another API.
    pub(super) fn kind_of_event_stream(&self) -> Option<Kind> {
        self.kind.filter(|kind| *kind != Kind::Ollama)
    }

    /// The frame of this call's heartbeats, given the answer's extensions. `None`: no heartbeats.
    pub(super) fn frame(&self, answer: &Extensions) -> Option<HeartbeatFrame> {
        answer.get().unwrap_or(&self.layer.frame).of_event_stream(self.kind_of_event_stream())
    }
}

/// Whether the caller asks for an event stream. Gemini streams a JSON array to callers that do not ask for events.
fn expects_event_stream<B>(kind: Option<Kind>, request: &Request<B>) -> bool {
    let headers = request.headers();
    match kind {
        Some(Kind::Gemini) => event_stream::is_accepted(headers) || asks_for_events(request.uri()),
        _ => event_stream::is_expected(request),
    }
}

/// Google's query parameter for a stream of events.
fn asks_for_events(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "alt=sse"))
}

/// Whether the caller wants a 202 if the answer takes long (RFC 7240, 4.1). An early stream could not be one.
fn prefers_async(headers: &HeaderMap) -> bool {
    list::members(headers, &PREFER).any(|member| list::names(member, "respond-async"))
}
