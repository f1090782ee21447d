//! The state shared by clones of a store, and the tasks of its calls.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tower_buttress::store::MemoryStore;
use tower_buttress::{Event, Observer};

use super::settling::Settling;
use super::updates::Update;
use crate::backend::{Process, Token};

pub(super) struct Inner<B> {
    pub(super) backend: B,
    /// The calls in flight and recent answers of this process.
    pub(super) memory: MemoryStore,
    pub(super) process: Process,
    pub(super) settings: StoreSettings,
    pub(super) observer: Option<Arc<dyn Observer>>,
    /// The tasks of this process's calls, and of resumable answers.
    pub(super) leaders: Mutex<HashMap<Token, Reachable>>,
    pub(super) settling: Settling,
    pub(super) hears_wants: AtomicBool,
}

/// How the inbox reaches the task of a call.
#[derive(Debug)]
pub(super) struct Reachable {
    /// Another process wants the answer.
    pub(super) wants: mpsc::Sender<()>,
    pub(super) updates: mpsc::WeakUnboundedSender<Update>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct StoreSettings {
    pub(super) lease: Duration,
    pub(super) max_log: u64,
    pub(super) tenant_bytes: u64,
}

// === impl Inner ===

impl<B> Inner<B> {
    pub(super) fn leaders(&self) -> MutexGuard<'_, HashMap<Token, Reachable>> {
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bypassed(&self, reason: &'static str) {
        Event::bypassed("redis-store", reason).emit(self.observer.as_deref());
    }
}
