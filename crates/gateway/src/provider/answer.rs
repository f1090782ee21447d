//! The body of an answer, according to its script.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::stream::{self, Stream};
use tokio::time::sleep;

use super::call::ProviderCall;
use super::script::{Interruption, Script};
use super::sockets::ProviderReset;
use super::wire::{self, GeneratedAnswer};

/// The pieces of an answer, in order, and how it ends.
pub(super) struct Speech {
    script: Script,
    reset: ProviderReset,
    call: ProviderCall,
    text: SimulatedText,
    said: usize,
    /// The piece at which a resumed answer continues.
    start: usize,
}

enum SimulatedText {
    Events(GeneratedAnswer),
    Object(Vec<Bytes>),
}

const COMMENT: Bytes = Bytes::from_static(b": keepalive\n\n");

/// The size of pieces in an answer that is not streamed but ends early.
const PIECE: usize = 32;

// === impl Speech ===

impl Speech {
    /// Starts behind the event with the id `after`, if events have ids.
    pub(super) fn events(
        answer: GeneratedAnswer,
        after: Option<usize>,
        script: Script,
        reset: ProviderReset,
        call: ProviderCall,
    ) -> Self {
        let start = after.filter(|_| script.ids).map_or(0, |after| after.saturating_add(1));
        Self { script, reset, call, text: SimulatedText::Events(answer), said: start, start }
    }

    pub(super) fn object(answer: &GeneratedAnswer, script: Script, reset: ProviderReset, call: ProviderCall) -> Self {
        let whole = answer.whole();
        let pieces = match script.ending {
            None => vec![whole],
            Some((after, _)) => whole.chunks(PIECE).take(after).map(Bytes::copy_from_slice).collect(),
        };
        Self { script, reset, call, text: SimulatedText::Object(pieces), said: 0, start: 0 }
    }

    pub(super) fn into_body(self) -> Body {
        match (self.script.comments, &self.text) {
            (Some(every), _) => Body::from_stream(comments(self, every)),
            // An answer of known length says so.
            (None, SimulatedText::Object(pieces))
                if self.script.ending.is_none() && self.script.first_byte.is_zero() =>
            {
                let whole = pieces.concat();
                let mut speech = self;
                speech.call.finish();
                Body::from(whole)
            }
            (None, _) => Body::from_stream(stream::unfold(self, Self::next)),
        }
    }

    /// Events are built one by one: a large answer may not fit in memory.
    fn frame(&self) -> Option<Bytes> {
        let answer = match &self.text {
            SimulatedText::Object(pieces) => return pieces.get(self.said).cloned(),
            SimulatedText::Events(answer) => answer,
        };
        // The first event names the role; content starts with the second.
        let Some(nth) = self.said.checked_sub(1) else { return Some(answer.opening()) };
        let content = self.script.ending.map_or(answer.pieces, |(after, _)| after.min(answer.pieces));
        if nth < content {
            return Some(answer.piece(nth));
        }
        if nth > content {
            return None;
        }
        match self.script.ending {
            None => Some(answer.closing()),
            Some((_, Interruption::Torn)) => Some(answer.opening().slice(..20)),
            Some((_, Interruption::Error)) => {
                let message = "The server had an error while processing your request.";
                Some(wire::error_event(&wire::error(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    self.script.code.as_deref(),
                    message,
                )))
            }
            Some(_) => None,
        }
    }

    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let Some(mut frame) = self.frame() else { return self.end().await };
        if self.script.ids {
            frame = [format!("id: {}\n", self.said).as_bytes(), &frame].concat().into();
        }
        sleep(if self.said == self.start { self.script.first_byte } else { self.script.gap }).await;
        self.said += 1;
        // A caller that has read the last event may leave before the body ends.
        if self.script.ending.is_none() && self.frame().is_none() {
            self.call.finish();
        }
        Some((Ok(frame), self))
    }

    async fn end(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let (_, ending) = self.script.ending?;
        // Pending, so that hyper writes the previous events.
        sleep(self.script.gap).await;
        tokio::task::yield_now().await;
        match ending {
            Interruption::Comments => Some((Ok(COMMENT), self)),
            Interruption::Stall | Interruption::Torn => std::future::pending().await,
            Interruption::Reset => {
                self.call.finish();
                self.reset.now().await
            }
            Interruption::Close => {
                self.call.finish();
                Some((Err(io::ErrorKind::ConnectionAborted.into()), self))
            }
            Interruption::Truncate | Interruption::Error => {
                self.call.finish();
                None
            }
        }
    }
}

/// Only keep-alive comments, for ever.
fn comments(speech: Speech, every: Duration) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold(speech, move |speech| async move {
        sleep(every).await;
        Some((Ok(COMMENT), speech))
    })
}
