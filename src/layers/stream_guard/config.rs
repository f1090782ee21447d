use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::call::Memory;
use crate::event::Emitter;
use crate::policy::verdict::NextStep;
use crate::proto::dialect::{Answer, AnswerReader, Dialect, Framing, Kind, StreamReader};
use crate::rt::sync::lock;

/// The name of this layer in events.
pub(super) const NAME: &str = "stream-guard";

/// What the layer does with a stream that ends without an error before the model has said how its answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissingEnd {
    /// An error, unless the stream has its dialect's closing marker (`[DONE]`, `message_stop`) and the model has never
    /// given a reason: some servers end complete answers that way. The layer passes such an answer on, with the end
    /// [`Unknown`](crate::proto::dialect::End::Unknown). Once a model of a host has given a reason, it must always give
    /// one.
    #[default]
    Auto,
    /// An error, even with a marker, and even if the reason may be in an event that was too large to read: every answer
    /// that passes as complete has proved its end.
    Error,
    /// The stream passes, even without a marker, with the end [`Unknown`](crate::proto::dialect::End::Unknown).
    Allow,
}

/// The settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) enabled: bool,
    /// The dialect, if set; else the path decides.
    pub(super) dialect: Option<Chosen>,
    pub(super) missing_end: MissingEnd,
    pub(super) hold: Option<usize>,
    pub(super) first_content: Option<Duration>,
    pub(super) filtered: NextStep,
    pub(super) error_frames: bool,
    pub(super) reasons: Arc<Reasons>,
    pub(super) memory: Memory,
    pub(super) emitter: Emitter,
}

/// The dialect of an answer.
#[derive(Clone)]
pub(super) enum Chosen {
    Known(Kind),
    /// Known by the path alone: the first events of a stream may prove another dialect.
    Guessed(Kind),
    Custom(Arc<dyn Fn() -> Box<dyn Dialect> + Send + Sync>),
}

/// The models that have given a reason for their end, with their hosts, as hashes.
#[derive(Debug)]
pub(super) struct Reasons {
    hasher: RandomState,
    seen: Mutex<HashSet<u64>>,
}

/// The hash of a model and its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ModelId(u64);

/// Models beyond this count as never seen.
const MAX_MODELS: usize = 4_096;

// === impl Config ===

impl Config {
    /// Returns the dialect of an answer to this path.
    pub(super) fn expect(&self, path: &str) -> Option<Chosen> {
        self.dialect.clone().or_else(|| Kind::of_path(path).map(Chosen::Guessed))
    }

    /// Whether a stream that its dialect's marker has closed counts as complete without a reason; `has_reason`: one of
    /// several choices has given one.
    pub(super) fn believes_marker(&self, has_reason: bool, model: ModelId) -> bool {
        match self.missing_end {
            MissingEnd::Error => false,
            MissingEnd::Auto => !(has_reason || self.reasons.was_given_by(model)),
            MissingEnd::Allow => true,
        }
    }
}

// === impl Chosen ===

impl Chosen {
    pub(super) const fn kind(&self) -> Option<Kind> {
        match self {
            Self::Known(kind) | Self::Guessed(kind) => Some(*kind),
            Self::Custom(_) => None,
        }
    }

    /// Whether the framing contradicts the path: Ollama's own API sends no event streams, and many services have a path
    /// like its `/api/chat`.
    pub(super) fn is_other_in(&self, framing: Framing) -> bool {
        matches!(self, Self::Guessed(Kind::Ollama)) && framing == Framing::EventStream
    }

    /// Returns a reader of a stream; without a choice, it recognises the dialect by the first events.
    pub(super) fn reader(chosen: Option<&Self>, framing: Framing) -> StreamReader {
        match chosen {
            Some(Self::Custom(make)) => StreamReader::boxed(make(), framing),
            Some(Self::Known(kind)) => StreamReader::of(*kind, framing),
            Some(Self::Guessed(kind)) => StreamReader::new(Some(*kind), framing),
            None => StreamReader::new(None, framing),
        }
    }

    /// Returns the content of an answer's body.
    pub(super) fn answer(&self, reader: AnswerReader) -> Answer {
        match self {
            Self::Known(kind) | Self::Guessed(kind) => reader.end_of(*kind),
            Self::Custom(make) => reader.end(&mut *make()),
        }
    }
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(kind) | Self::Guessed(kind) => kind.fmt(f),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

// === impl Reasons ===

impl Default for Reasons {
    fn default() -> Self {
        Self { hasher: RandomState::new(), seen: Mutex::default() }
    }
}

impl Reasons {
    pub(super) fn host(&self, host: &[u8]) -> u64 {
        self.hasher.hash_one(host)
    }

    pub(super) fn id(&self, host: u64, model: Option<&str>) -> ModelId {
        ModelId(self.hasher.hash_one((host, model)))
    }

    pub(super) fn was_given_by(&self, model: ModelId) -> bool {
        lock(&self.seen).contains(&model.0)
    }

    pub(super) fn note(&self, model: ModelId) {
        let mut seen = lock(&self.seen);
        if seen.len() < MAX_MODELS {
            seen.insert(model.0);
        }
    }
}
