//! What happened, and when.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tower_buttress_redis::RedisModel;

/// Everything that happened, what of it was a fault, and what should not have been.
#[derive(Clone)]
pub(super) struct History {
    begun: Instant,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    name: String,
    lines: Vec<(Duration, String)>,
    /// From when to when something was not as it should be.
    faults: Vec<(Instant, Instant)>,
    /// How far the clock of Redis has gone back.
    gone_back: Duration,
    broken: Vec<String>,
}

// === impl History ===

impl History {
    pub(super) fn new(name: String) -> Self {
        let inner =
            Inner { name, lines: Vec::new(), faults: Vec::new(), gone_back: Duration::ZERO, broken: Vec::new() };
        Self { begun: Instant::now(), inner: Arc::new(Mutex::new(inner)) }
    }

    pub(super) fn say(&self, line: String) {
        self.lock().lines.push((self.begun.elapsed(), line));
    }

    /// A fault that begins now, and lasts.
    pub(super) fn fault(&self, lasts: Duration, line: String) {
        let now = Instant::now();
        self.lock().faults.push((now, now + lasts));
        self.say(line);
    }

    /// The clock of Redis goes back.
    pub(super) fn jump_back(&self, model: &RedisModel, back: Duration) {
        self.fault(Duration::ZERO, format!("the clock of Redis goes back by {back:.1?}"));
        self.lock().gone_back += back;
        model.jump_back(back);
    }

    pub(super) fn gone_back(&self) -> Duration {
        self.lock().gone_back
    }

    /// What Redis holds at the end. Where its clock went back, it would hold it for as much longer.
    pub(super) fn held(&self, model: &RedisModel) -> usize {
        model.jump(self.gone_back());
        model.held()
    }

    /// Whether there was no fault between these.
    pub(super) fn is_calm(&self, from: Instant, to: Instant) -> bool {
        self.faults(from, to) == 0
    }

    pub(super) fn faults(&self, from: Instant, to: Instant) -> usize {
        self.lock().faults.iter().filter(|(begins, ends)| *begins <= to && *ends >= from).count()
    }

    /// A promise was broken.
    pub(super) fn broken(&self, promise: String) {
        self.say(format!("BROKEN: {promise}"));
        self.lock().broken.push(promise);
    }

    /// When it was, as the lines have it.
    pub(super) fn at(&self, at: Instant) -> String {
        format!("{:.3}", at.saturating_duration_since(self.begun).as_secs_f64())
    }

    /// Prints the history where a promise was broken.
    pub(super) fn judge(self) {
        let inner = self.lock();
        if inner.broken.is_empty() {
            return;
        }
        let mut text = String::new();
        for (at, line) in &inner.lines {
            let _ = writeln!(text, "{:>9.3} {line}", at.as_secs_f64());
        }
        panic!("{text}{}\n{}", inner.name, inner.broken.join("\n"));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}
