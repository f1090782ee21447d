//! One Redis: two connections, a limit on every wait, and a gate that shuts in an outage.

mod clock;
mod failure;
mod gate;
pub(crate) mod link;
pub(crate) mod operation;
pub(crate) mod script;
pub(crate) mod subscriptions;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use redis::{Client, RedisResult, Value};
use tokio::sync::watch;
use tokio::time::timeout;
use tower_buttress::{Event, Observer};

use self::clock::Clock;
use self::failure::{CommandFailure, OutageCause, is_outage};
use self::gate::Gate;
use self::link::{Line, Link};
use self::operation::{Operation, OperationResult, Watcher};
use self::script::{Command, LuaScript};
use self::subscriptions::Subscriptions;
use crate::error::BackendError;
use crate::ids::Process;
use crate::options::{Outage, RedisOptions};

/// A Redis or Valkey shared by processes. Clones share its connections.
///
/// ```
/// use tower_buttress_redis::{Redis, RedisOptions};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::new(RedisOptions::from_url("redis://127.0.0.1:6379")?)?;
/// // Nothing is connected yet.
/// assert!(redis.reachability().borrow().is_reached());
/// # Ok(())
/// # }
/// ```
///
/// # What happens when
///
/// - *It is created*: nothing. The first operation connects, so a service starts even while Redis is down.
/// - *Redis does not answer*: the operation fails after [`patience`](RedisOptions::patience), with all others that
///   wait. From then on no operation is sent, and callers continue at once without Redis. A task probes after 1 s,
///   then 2 s, up to every 30 s, until Redis answers. If Redis fails again within 10 s of its return, the task waits 2
///   s, then 4 s, up to 30 s.
/// - *Redis refuses everything* (no permission, a wrong password or database): the same, with Redis's words. If Redis did
///   not answer at first, its words are reported when it does.
/// - *Redis refuses an operation* (its memory is full): that operation fails, with an
///   [`Event::BackendRefused`](tower_buttress::Event::BackendRefused) at most every 10 s.
/// - *The connection is lost* (a restart of Redis, an idle timeout of a proxy): the operation is repeated once on a
///   new one, within the same patience. All operations can be repeated.
/// - *A connection is half open* (its peer vanished): the first unanswered probe replaces it.
/// - *A [connection of the application](RedisOptions::connection) is lost or half open*: it must reconnect by itself. This
///   client never replaces it.
/// - *It is dropped*: its connections close, and its tasks end.
///
/// # Cost
///
/// Two connections; the one for subscriptions opens with the first subscription. No operation blocks the connection
/// for later ones.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<ClientState>,
}

/// Whether Redis is reachable.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reachability {
    /// Redis answers, as far as is known.
    Reached,
    /// Redis does not answer; no operation is sent for now.
    #[non_exhaustive]
    Unreachable {
        /// Since when.
        since: Instant,
        /// The error of the last operation.
        why: Arc<str>,
    },
}

struct ClientState {
    link: Link,
    gate: Mutex<Gate>,
    health: watch::Sender<Reachability>,
    observer: Option<Arc<dyn Observer>>,
    watcher: Option<Watcher>,
    subscriptions: Subscriptions,
    clock: Clock,
    /// When a refusal was last reported.
    refused: Mutex<Option<Instant>>,
    process: Process,
    prefix: Arc<str>,
    patience: Duration,
    outage: Outage,
}

// === impl Redis ===

impl Redis {
    /// Creates a client with these options. Does not connect.
    ///
    /// # Errors
    ///
    /// The options cannot open a connection. An unreachable Redis is not an error.
    pub fn new(options: RedisOptions) -> RedisResult<Self> {
        let client = Client::open(options.info)?;
        let inner = ClientState {
            subscriptions: Subscriptions::new(client.clone()),
            link: Link::new(client, options.commands),
            clock: Clock::default(),
            refused: Mutex::default(),
            process: Process::random(),
            gate: Mutex::new(Gate::new()),
            health: watch::Sender::new(Reachability::Reached),
            observer: options.observer,
            watcher: options.watcher,
            prefix: options.prefix,
            patience: options.patience,
            outage: options.outage,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Watches whether Redis is reachable.
    #[must_use]
    pub fn reachability(&self) -> watch::Receiver<Reachability> {
        self.inner.health.subscribe()
    }

    /// Sends a command and returns whether Redis answers, within its patience. Sends nothing while Redis is known to
    /// be unreachable.
    ///
    /// A service that calls it at its start has a connection before the first call, and detects a wrong address or a user
    /// without the rights.
    pub async fn ping(&self) -> bool {
        self.call(&self.inner.ping()).await.is_ok()
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.inner.prefix
    }

    /// All layers that share rates or circuits through one Redis are one process.
    pub(crate) fn process(&self) -> Process {
        self.inner.process
    }

    pub(crate) fn patience(&self) -> Duration {
        self.inner.patience
    }

    pub(crate) fn outage(&self) -> Outage {
        self.inner.outage
    }

    pub(crate) fn subscriptions(&self) -> &Subscriptions {
        &self.inner.subscriptions
    }

    /// Redis's clock at that time, in milliseconds; `None`: unknown.
    pub(crate) fn clock_at(&self, at: tokio::time::Instant) -> Option<u64> {
        self.inner.clock.at(at)
    }

    /// Records Redis's clock from the reply to a command sent then.
    pub(crate) fn note_clock(&self, millis: u64, sent: tokio::time::Instant) {
        self.inner.clock.note(millis, sent);
    }

    /// Sends a command, and waits for the reply within the patience.
    pub(crate) async fn call(&self, command: &Command) -> Result<Value, BackendError> {
        let sent = now();
        let (result, answer) = self.ask(command, sent).await;
        if let Some(watcher) = &self.inner.watcher {
            let took = now().saturating_duration_since(sent);
            watcher.on_operation(&Operation { name: command.name(), result, took });
        }
        answer
    }

    async fn ask(&self, command: &Command, sent: Instant) -> (OperationResult, Result<Value, BackendError>) {
        let inner = &self.inner;
        if !inner.gate().is_open() {
            return (OperationResult::Skipped, Err(BackendError::Unreachable));
        }
        match timeout(inner.patience, inner.send(command)).await {
            Ok(Ok(value)) => {
                inner.gate().answered(now());
                (OperationResult::Answered, Ok(value))
            }
            Ok(Err(CommandFailure::Lost(why))) => {
                let shut = inner.gate().lost(now());
                self.on_failure(shut, &why);
                (OperationResult::Lost, Err(BackendError::Unreachable))
            }
            Ok(Err(CommandFailure::Refused(why))) => {
                inner.gate().answered(now());
                inner.note_refusal(&why);
                (OperationResult::Refused, Err(BackendError::Refused(why)))
            }
            Err(_) => {
                let shut = inner.gate().timed_out(sent, now());
                self.on_failure(shut, &OutageCause::silence());
                (OperationResult::TimedOut, Err(BackendError::Unreachable))
            }
        }
    }

    fn on_failure(&self, shut: bool, why: &OutageCause) {
        if shut {
            self.inner.subscriptions.check();
            let since = now();
            self.inner.report(Reachability::Unreachable { since, why: why.words.as_str().into() });
            tokio::spawn(probe(Arc::downgrade(&self.inner), since, why.is_by_redis));
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("prefix", &self.inner.prefix)
            .field("health", &*self.inner.health.borrow())
            .finish_non_exhaustive()
    }
}

/// The name in events.
const BACKEND: &str = "redis";

/// How often a refusal is reported.
const REPORT_EVERY: Duration = Duration::from_secs(10);

static PING: LuaScript = LuaScript::new("ping", include_str!("../scripts/ping.lua"));

/// Probes until Redis answers, then opens the gate. `is_told_by_redis`: Redis itself said why it is unreachable. If it was only
/// the connection, Redis's first words are reported too: they say what to do.
async fn probe(inner: Weak<ClientState>, since: Instant, mut is_told_by_redis: bool) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let ping = inner.ping();
        let begun = tokio::time::Instant::now();
        let period = inner.gate().period();
        match timeout(period, inner.send(&ping)).await {
            Ok(Ok(_)) => {
                let wait = inner.gate().probe_answered(now());
                if wait.is_zero() {
                    return inner.report(Reachability::Reached);
                }
                drop(inner);
                tokio::time::sleep(wait).await;
                continue;
            }
            Ok(Err(
                CommandFailure::Lost(OutageCause { words, is_by_redis: true }) | CommandFailure::Refused(words),
            )) if !is_told_by_redis => {
                is_told_by_redis = true;
                inner.report(Reachability::Unreachable { since, why: words.into() });
            }
            Ok(Err(_)) => {}
            // The connection may be half open.
            Err(_) => inner.link.give_up_any(),
        }
        inner.gate().probe_failed();
        drop(inner);
        // Jitter, so that processes that lost Redis together do not return together.
        tokio::time::sleep_until(begun + period.mul_f64(1.0 - fastrand::f64() * 0.2)).await;
    }
}

// === impl Reachability ===

impl Reachability {
    /// Whether Redis is reachable.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        matches!(self, Self::Reached)
    }
}

// === impl Inner ===

impl ClientState {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command with the same permissions as the others, which changes nothing.
    fn ping(&self) -> Command {
        let name = |what| format!("{}:1:{what}", self.prefix).into_bytes();
        PING.keys(&[&name("ping"), &name("pings")])
    }

    async fn send(&self, command: &Command) -> Result<Value, CommandFailure> {
        let mut line = self.link.line().await.map_err(|why| CommandFailure::unconnected(&why))?;
        match self.send_on(command, &mut line).await {
            // Redis restarted, or a proxy closed an idle connection: a new one may work.
            Err(why) if why.is_unrecoverable_error() && why.is_io_error() => {
                let mut line = self.link.line().await.map_err(|why| CommandFailure::unconnected(&why))?;
                self.send_on(command, &mut line).await
            }
            other => other,
        }
        .map_err(|why| CommandFailure::of(&why))
    }

    async fn send_on(&self, command: &Command, line: &mut Line) -> RedisResult<Value> {
        let result = command.send(line).await;
        if result.as_ref().is_err_and(is_outage) && self.link.give_up(line) {
            self.subscriptions.check();
        }
        result
    }

    fn report(&self, health: Reachability) {
        let event = match &health {
            Reachability::Reached => Event::backend_changed(BACKEND, Ok(())),
            Reachability::Unreachable { why, .. } => Event::backend_changed(BACKEND, Err(why.clone())),
        };
        self.health.send_replace(health);
        event.emit(self.observer.as_deref());
    }

    fn note_refusal(&self, why: &str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.is_some_and(|last| now().saturating_duration_since(last) < REPORT_EVERY) {
            return;
        }
        *refused = Some(now());
        drop(refused);
        Event::backend_refused(BACKEND, why.into()).emit(self.observer.as_deref());
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
