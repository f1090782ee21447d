//! The body of an answer, as its script has it.

use std::convert::Infallible;
use std::io;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::stream::{self, Stream};
use tokio::time::sleep;

use super::call::Call;
use super::script::{Ending, Script};
use super::sockets::Reset;
use super::wire::{self, Answer};

/// What is said, one after the other, and how it ends.
pub(super) struct Speech {
    script: Script,
    reset: Reset,
    call: Call,
    frames: Vec<Bytes>,
    said: usize,
}

impl Speech {
    /// A stream of events. Content starts with the second frame: the first one names the role.
    pub(super) fn events(answer: &Answer, script: Script, reset: Reset, call: Call) -> Body {
        let mut frames = vec![answer.opening()];
        let content = script.ending.map_or(answer.pieces.len(), |(after, _)| after.min(answer.pieces.len()));
        frames.extend((0..content).map(|nth| answer.piece(nth)));
        match script.ending {
            None => frames.push(answer.closing()),
            Some((_, Ending::Torn)) => frames.push(answer.opening().slice(..20)),
            Some((_, Ending::Error)) => {
                let message = "The server had an error while processing your request.";
                frames.push(wire::event(&wire::error(StatusCode::INTERNAL_SERVER_ERROR, None, message)));
            }
            Some(_) => {}
        }
        Self { script, reset, call, frames, said: 0 }.into_body()
    }

    /// One object. A script that ends it early cuts it into small pieces first.
    pub(super) fn object(answer: &Answer, script: Script, reset: Reset, call: Call) -> Body {
        let whole = answer.whole();
        let frames = match script.ending {
            None => vec![whole],
            Some((after, _)) => whole.chunks(32).take(after).map(Bytes::copy_from_slice).collect(),
        };
        Self { script, reset, call, frames, said: 0 }.into_body()
    }

    fn into_body(self) -> Body {
        if let Some(every) = self.script.comments {
            return Body::from_stream(comments(self, every));
        }
        Body::from_stream(stream::unfold(self, Self::next))
    }

    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let Some(frame) = self.frames.get(self.said).cloned() else { return self.end().await };
        sleep(if self.said == 0 { self.script.first_byte } else { self.script.gap }).await;
        self.said += 1;
        // A caller that has read the last event may leave without waiting for the end of the body.
        if self.said == self.frames.len() && self.script.ending.is_none() {
            self.call.finish();
        }
        Some((Ok(frame), self))
    }

    async fn end(mut self) -> Option<(io::Result<Bytes>, Self)> {
        match self.script.ending.take().map(|(_, ending)| ending) {
            Some(Ending::Stall | Ending::Torn) => std::future::pending().await,
            Some(Ending::Reset) => {
                self.call.finish();
                self.reset.now().await
            }
            Some(Ending::Close) => {
                self.call.finish();
                Some((Err(io::ErrorKind::ConnectionAborted.into()), self))
            }
            None | Some(Ending::Truncate | Ending::Error) => {
                self.call.finish();
                None
            }
        }
    }
}

/// Keep-alive comments and nothing else, for ever.
fn comments(speech: Speech, every: std::time::Duration) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(speech, move |speech| async move {
        sleep(every).await;
        Some((Ok(Bytes::from_static(b": keepalive\n\n")), speech))
    })
}
