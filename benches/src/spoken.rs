//! Streams of models: events that differ in their text.

use std::convert::Infallible;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use tower::Service;

/// A model's stream, by its path and the text around its events' content.
#[derive(Clone, Copy, Debug)]
pub struct Spoken {
    /// The path.
    pub path: &'static str,
    before: &'static str,
    behind: &'static str,
}

/// Pieces of text of different lengths, JSON-escaped, repeated.
const PIECES: [&str; 8] = [" the", " harbour", ".", "\\n\\n", " \\\"quoted", " and", " été", " unquestionably"];
/// A chat completion of OpenAI's.
pub const CHAT: Spoken = Spoken {
    path: "/v1/chat/completions",
    before: "data: {\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\"created\":1764201600,\
         \"model\":\"model-large\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"",
    behind: "\"},\"finish_reason\":null}]}\n\n",
};
/// OpenAI's Responses.
pub const RESPONSES: Spoken = Spoken {
    path: "/v1/responses",
    before: "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":27,\
         \"item_id\":\"msg_0123456789\",\"output_index\":0,\"content_index\":0,\"delta\":\"",
    behind: "\",\"logprobs\":[]}\n\n",
};
/// Anthropic's Messages.
pub const ANTHROPIC: Spoken = Spoken {
    path: "/v1/messages",
    before: "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
         \"delta\":{\"type\":\"text_delta\",\"text\":\"",
    behind: "\"}}\n\n",
};
/// Gemini's `generateContent`.
pub const GEMINI: Spoken = Spoken {
    path: "/v1beta/models/g:streamGenerateContent",
    before: "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"",
    behind: "\"}],\"role\":\"model\"},\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":12,\"candidatesTokenCount\":34,\
         \"totalTokenCount\":46},\"modelVersion\":\"gemini\",\"responseId\":\"0123456789\"}\n\n",
};

/// An endless answer, with one frame per event.
#[derive(Debug)]
pub struct Endless {
    events: Vec<Bytes>,
    next: usize,
}

// === impl Spoken ===

impl Spoken {
    /// The events, repeated.
    #[must_use]
    pub fn events(self) -> Vec<Bytes> {
        let event = |piece: &str| Bytes::from([self.before, piece, self.behind].concat());
        PIECES.iter().map(|piece| event(piece)).collect()
    }

    /// Passes `n` events to `each`.
    pub fn each(self, n: u64, mut each: impl FnMut(&[u8])) {
        let events = self.events();
        for nth in 0..n {
            each(black_box(&events[usize::try_from(nth).unwrap_or_default() % events.len()]));
        }
    }
}

// === impl Endless ===

impl Endless {
    /// The answer.
    #[must_use]
    pub fn new(spoken: Spoken) -> Self {
        Self { events: spoken.events(), next: 0 }
    }

    /// Its next event.
    pub fn next_event(&mut self) -> Bytes {
        let event = self.events[self.next % self.events.len()].clone();
        self.next += 1;
        event
    }
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    #[inline(never)]
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(self.next_event()))))
    }
}

/// Answers with this stream.
#[derive(Clone, Copy, Debug)]
pub struct Answers(pub Spoken);

impl<B> Service<Request<B>> for Answers {
    type Response = Response<Endless>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let mut response = Response::new(Endless::new(self.0));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        std::future::ready(Ok(response))
    }
}
