//! The settings, and the compiled schemas.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::call::Memory;
use crate::event::{Emitter, Event};
use crate::policy::structured::{InvalidSchema, OutputSchema};
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::rt::random_key::RandomKeys;
use crate::rt::retry_budget::RetryBudget;
use crate::rt::sync::lock;

/// The name of the layer in events.
pub(super) const NAME: &str = "structured-output";

/// The settings.
#[derive(Clone)]
pub struct Config {
    pub(super) enabled: bool,
    pub(super) schema: Option<OutputSchema>,
    pub(super) extract: bool,
    pub(super) tool_calls: bool,
    pub(super) max_reasks: u32,
    pub(super) hold_streams: Option<usize>,
    pub(super) budget: RetryBudget,
    pub(super) max_answer: usize,
    pub(super) max_body_bytes: usize,
    pub(super) read_timeout: Duration,
    pub(super) memory: Memory,
    pub(super) keys: RandomKeys,
    pub(super) compiled: Arc<CompiledSchemas>,
    pub(super) emitter: Emitter,
}

/// The most recent compiled schemas.
#[derive(Default)]
pub(super) struct CompiledSchemas(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    schemas: HashMap<Fingerprint, Result<OutputSchema, InvalidSchema>>,
    /// Oldest first.
    order: VecDeque<Fingerprint>,
    /// The size of all of them.
    bytes: usize,
}

/// Applications have few schemas.
const MAX_SCHEMAS: usize = 128;
/// The limit for all compiled schemas together.
const MAX_BYTES: usize = 32 * 1024 * 1024;

// === impl Config ===

impl Config {
    /// Reports a request or answer that the layer could not handle and passed on.
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
            tool_calls: false,
            max_reasks: 2,
            hold_streams: None,
            budget: RetryBudget::default(),
            max_answer: 1024 * 1024,
            max_body_bytes: 2 * 1024 * 1024,
            read_timeout: Duration::from_secs(30),
            memory: Memory::default(),
            keys: RandomKeys::default(),
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
            .field("tool_calls", &self.tool_calls)
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
    /// Returns the compiled schema, or compiles it on a thread for blocking work.
    pub(super) async fn get(self: &Arc<Self>, schema: Value) -> Result<OutputSchema, InvalidSchema> {
        let mut hash = Fingerprinter::new("tower-buttress schema");
        hash.payload(schema.to_string().as_bytes());
        let key = hash.finish(0);
        let known = lock(&self.0).schemas.get(&key).cloned();
        if let Some(known) = known {
            return known;
        }
        let schema = Arc::new(schema);
        let (this, there) = (Arc::clone(self), Arc::clone(&schema));
        match tokio::task::spawn_blocking(move || this.compile(key, &there)).await {
            Ok(compiled) => compiled,
            // The runtime is shutting down.
            Err(_) => self.compile(key, &schema),
        }
    }

    /// Outside the lock: compiling takes a while, and two threads may do it at once.
    fn compile(&self, key: Fingerprint, schema: &Value) -> Result<OutputSchema, InvalidSchema> {
        let compiled = OutputSchema::new(schema);
        let dropped = lock(&self.0).insert(key, compiled.clone());
        drop(dropped);
        compiled
    }
}

// === impl Recent ===

impl Recent {
    /// Returns the evicted schemas, to be dropped outside the lock.
    fn insert(
        &mut self,
        key: Fingerprint,
        schema: Result<OutputSchema, InvalidSchema>,
    ) -> Vec<Result<OutputSchema, InvalidSchema>> {
        self.bytes = self.bytes.saturating_add(bytes(&schema));
        let mut dropped: Vec<_> = self.schemas.insert(key, schema).into_iter().collect();
        if dropped.is_empty() {
            self.order.push_back(key);
        }
        self.bytes -= dropped.first().map_or(0, bytes);
        // The newest stays, however large it is.
        while self.order.len() > 1 && (self.order.len() > MAX_SCHEMAS || self.bytes > MAX_BYTES) {
            let Some(oldest) = self.order.pop_front().and_then(|key| self.schemas.remove(&key)) else { continue };
            self.bytes -= bytes(&oldest);
            dropped.push(oldest);
        }
        dropped
    }
}

fn bytes(schema: &Result<OutputSchema, InvalidSchema>) -> usize {
    schema.as_ref().map_or(0, OutputSchema::bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn schemas_that_are_kept_compiled_are_few_and_not_large() {
        let compiled = Arc::new(CompiledSchemas::default());
        let of = |number: usize, properties: usize| {
            let properties: serde_json::Map<_, _> =
                (0..properties).map(|property| (format!("p{property}"), json!({ "type": "string" }))).collect();
            json!({ "title": number.to_string(), "properties": properties })
        };
        for number in 0..200 {
            compiled.get(of(number, 1)).await.unwrap();
            compiled.get(of(number, 1)).await.unwrap();
        }
        let kept = |compiled: &CompiledSchemas| {
            let recent = lock(&compiled.0);
            (recent.schemas.len(), recent.order.len())
        };
        assert_eq!(kept(&compiled), (MAX_SCHEMAS, MAX_SCHEMAS));
        for number in 0..20 {
            compiled.get(of(number, 2_000)).await.unwrap();
        }
        let recent = lock(&compiled.0);
        assert!(recent.bytes <= MAX_BYTES && recent.schemas.len() < 20, "{} bytes", recent.bytes);
        assert_eq!(recent.bytes, recent.schemas.values().map(bytes).sum::<usize>());
        assert_eq!(recent.order.len(), recent.schemas.len());
    }
}
