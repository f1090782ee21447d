//! The settings, and the schemas that were compiled.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::call::Memory;
use crate::event::{Emitter, Event};
use crate::policy::structured::{InvalidSchema, OutputSchema};
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::rt::retry_budget::RetryBudget;
use crate::rt::sync::lock;

/// The name of the layer in events.
pub(super) const NAME: &str = "structured-output";

#[derive(Clone)]
pub(super) struct Config {
    pub(super) enabled: bool,
    pub(super) schema: Option<OutputSchema>,
    pub(super) extract: bool,
    pub(super) max_reasks: u32,
    pub(super) hold_streams: Option<usize>,
    pub(super) budget: RetryBudget,
    pub(super) max_answer: usize,
    pub(super) max_body_bytes: usize,
    pub(super) read_timeout: Duration,
    pub(super) memory: Memory,
    pub(super) compiled: Arc<CompiledSchemas>,
    pub(super) emitter: Emitter,
}

/// The schemas of late, compiled.
#[derive(Default)]
pub(super) struct CompiledSchemas(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    schemas: HashMap<Fingerprint, Result<OutputSchema, InvalidSchema>>,
    /// Oldest first.
    order: VecDeque<Fingerprint>,
}

/// Applications have few schemas.
const MAX_SCHEMAS: usize = 128;

// === impl Config ===

impl Config {
    /// The layer lets a request, or its answer, pass that it cannot treat.
    #[cold]
    pub(super) fn bypassed(&self, reason: &'static str) {
        self.emitter.emit(&Event::Bypassed { layer: NAME, reason });
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            schema: None,
            extract: true,
            max_reasks: 2,
            hold_streams: None,
            budget: RetryBudget::default(),
            max_answer: 1024 * 1024,
            max_body_bytes: 2 * 1024 * 1024,
            read_timeout: Duration::from_secs(30),
            memory: Memory::default(),
            compiled: Arc::default(),
            emitter: Emitter::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("enabled", &self.enabled)
            .field("schema", &self.schema)
            .field("extract", &self.extract)
            .field("max_reasks", &self.max_reasks)
            .field("hold_streams", &self.hold_streams)
            .field("budget", &self.budget)
            .field("max_answer", &self.max_answer)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("read_timeout", &self.read_timeout)
            .field("emitter", &self.emitter)
            .finish_non_exhaustive()
    }
}

// === impl CompiledSchemas ===

impl CompiledSchemas {
    /// The schema, compiled now or before.
    pub(super) fn get(&self, schema: &Value) -> Result<OutputSchema, InvalidSchema> {
        let mut hash = Fingerprinter::new("tower-buttress schema");
        hash.payload(schema.to_string().as_bytes());
        let key = hash.finish(0);
        if let Some(known) = lock(&self.0).schemas.get(&key) {
            return known.clone();
        }
        // Outside of the lock: it may take a while, and two may do it at once.
        let compiled = OutputSchema::new(schema);
        let mut recent = lock(&self.0);
        if recent.schemas.insert(key, compiled.clone()).is_none() {
            recent.order.push_back(key);
        }
        let dropped = if recent.order.len() > MAX_SCHEMAS { recent.order.pop_front() } else { None };
        let dropped = dropped.and_then(|key| recent.schemas.remove(&key));
        drop(recent);
        drop(dropped);
        compiled
    }
}
