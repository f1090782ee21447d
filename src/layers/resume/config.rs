use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, Request};

use crate::admission::with_head;
use crate::call::Memory;
use crate::event::Emitter;
use crate::policy::backoff::Backoff;
use crate::proto::dialect::Kind;
use crate::proto::resume::{Recognised, ResumeBy};
use crate::rt::entropy::Entropy;
use crate::rt::retry_budget::RetryBudget;

/// The name of this layer in events.
pub(super) const NAME: &str = "resume";

/// The settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) enabled: bool,
    pub(super) choose: Option<CursorChooser>,
    /// Whether the layer may send a request again for a new answer.
    pub(super) restart: bool,
    /// Whether another model may give the new answer.
    pub(super) other_model: bool,
    /// The bytes of text that are remembered for a new answer.
    pub(super) max_prefix: usize,
    /// The number of continuations in a row that may bring nothing.
    pub(super) attempts: u32,
    pub(super) backoff: Backoff,
    pub(super) budget: RetryBudget,
    pub(super) replay_limit: usize,
    pub(super) memory: Memory,
    pub(super) entropy: Entropy,
    pub(super) emitter: Emitter,
}

/// Chooses the cursor of a request.
#[derive(Clone)]
pub(super) struct CursorChooser(pub(super) Arc<ChooseBy>);

type ChooseBy = dyn Fn(&Parts) -> Option<ResumeBy> + Send + Sync;

// === impl Config ===

impl Config {
    /// Returns how the stream that answers this request can be continued.
    pub(super) fn recognise<B>(&self, request: &mut Request<B>) -> Option<Recognised> {
        let chosen = self.choose.as_ref().and_then(|choose| with_head(request, |head| (choose.0)(head)));
        chosen.map(|by| Recognised { by, in_background: false }).or_else(|| Recognised::of(request))
    }

    /// Whether this request may be sent again for a new answer.
    pub(super) fn may_restart<B>(&self, request: &Request<B>) -> bool {
        let comparable =
            || matches!(Kind::of_path(request.uri().path()), Some(Kind::OpenAiChat | Kind::Anthropic | Kind::Gemini));
        self.restart && request.method() == Method::POST && comparable()
    }
}

impl fmt::Debug for CursorChooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Choose")
    }
}
