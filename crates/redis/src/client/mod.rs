//! One Redis: two connections, a bound on every wait, and a gate that shuts in an outage.

mod clock;
mod gate;
pub(crate) mod link;
pub(crate) mod operation;
pub(crate) mod script;
pub(crate) mod subscriptions;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use redis::{Client, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::sync::watch;
use tokio::time::timeout;
use tower_buttress::{Event, Observer};

use self::clock::Clock;
use self::gate::Gate;
use self::link::{Line, Link};
use self::operation::{Operation, OperationResult, Watcher};
use self::script::Command;
use self::subscriptions::Subscriptions;
use crate::error::BackendError;
use crate::ids::Process;
use crate::options::{Outage, RedisOptions};

/// A Redis or Valkey that the processes of a fleet share. Clones are the same Redis.
///
/// ```
/// use tower_buttress_redis::{Redis, RedisOptions};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::new(RedisOptions::from_url("redis://127.0.0.1:6379")?)?;
/// // Nothing is connected yet.
/// assert!(redis.health().borrow().is_reached());
/// # Ok(())
/// # }
/// ```
///
/// # What happens when
///
/// - *It is made*: nothing. The first operation connects, so that a service starts whether Redis is there or not.
/// - *Redis does not answer*: the operation ends after [`patience`](RedisOptions::patience), and so does every other that
///   waits. From then on none is sent, and what needs Redis goes on without it at once, until a task of this Redis has
///   had an answer: it asks after 1 s, then 2 s, up to every 30 s. A Redis that fails again within 10 s of coming back
///   is left alone for 2 s, then 4 s, up to 30 s.
/// - *The connection is lost* (Redis restarts, a proxy closes what is idle): the operation is sent once more on a new
///   one, within the same patience. All operations can be repeated.
/// - *A connection is half open* (its peer is gone without a word): it is replaced with the first probe that gets no answer.
/// - *It is dropped*: its connections are closed, and its tasks end.
///
/// # Cost
///
/// Two connections, one of them for subscriptions and only once there is one. No operation blocks the connection for
/// those behind it.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

/// Whether Redis can be reached.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Health {
    /// It answers, as far as is known.
    Reached,
    /// It does not, and is not asked for the time being.
    #[non_exhaustive]
    Unreachable {
        /// Since when.
        since: Instant,
        /// What ended the last operation.
        why: Arc<str>,
    },
}

struct Inner {
    link: Link,
    gate: Mutex<Gate>,
    health: watch::Sender<Health>,
    observer: Option<Arc<dyn Observer>>,
    watcher: Option<Watcher>,
    subscriptions: Subscriptions,
    clock: Clock,
    process: Process,
    prefix: Arc<str>,
    patience: Duration,
    outage: Outage,
}

// === impl Redis ===

impl Redis {
    /// The Redis of these options. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// The options are such that no connection can be opened. A Redis that cannot be reached is no error.
    pub fn new(options: RedisOptions) -> RedisResult<Self> {
        let client = Client::open(options.info)?;
        let inner = Inner {
            subscriptions: Subscriptions::new(client.clone()),
            link: Link::new(client, options.commands),
            clock: Clock::default(),
            process: Process::random(),
            gate: Mutex::new(Gate::new()),
            health: watch::Sender::new(Health::Reached),
            observer: options.observer,
            watcher: options.watcher,
            prefix: options.prefix,
            patience: options.patience,
            outage: options.outage,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether it can be reached, now and from now on.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.health.subscribe()
    }

    /// Whether it answers now. Asks it, for as long as its patience lasts, and not at all while it is known to be
    /// unreachable.
    ///
    /// A service that asks at its start has its connection open before the first call, and says at once where the
    /// address is wrong.
    pub async fn ping(&self) -> bool {
        self.call(&Command::Plain(redis::cmd("PING"))).await.is_ok()
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.inner.prefix
    }

    /// All that share rates through one Redis here are one process.
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

    /// What the clock of Redis showed at that time, in milliseconds; `None`: that is not known.
    pub(crate) fn clock_at(&self, at: tokio::time::Instant) -> Option<u64> {
        self.inner.clock.at(at)
    }

    /// Its clock showed this in the answer to what was sent then.
    pub(crate) fn note_clock(&self, millis: u64, sent: tokio::time::Instant) {
        self.inner.clock.note(millis, sent);
    }

    /// Asks Redis, for as long as its patience lasts.
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
            Ok(Err(why)) if is_outage(&why) => {
                let shut = inner.gate().lost(now());
                self.on_failure(shut, &describe(&why));
                (OperationResult::Lost, Err(BackendError::Unreachable))
            }
            Ok(Err(why)) => {
                inner.gate().answered(now());
                (OperationResult::Refused, Err(BackendError::Refused(describe(&why))))
            }
            Err(_) => {
                let shut = inner.gate().timed_out(sent, now());
                self.on_failure(shut, "no answer in time");
                (OperationResult::TimedOut, Err(BackendError::Unreachable))
            }
        }
    }

    fn on_failure(&self, shut: bool, why: &str) {
        if shut {
            self.inner.subscriptions.check();
            self.inner.tell(Health::Unreachable { since: now(), why: why.into() });
            tokio::spawn(probe(Arc::downgrade(&self.inner)));
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

/// Asks until there is an answer, and opens the gate then.
async fn probe(inner: Weak<Inner>) {
    let ping = Command::Plain(redis::cmd("PING"));
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let begun = tokio::time::Instant::now();
        let period = inner.gate().period();
        match timeout(period, inner.send(&ping)).await {
            Ok(Ok(_)) => {
                let wait = inner.gate().probe_answered(now());
                if wait.is_zero() {
                    return inner.tell(Health::Reached);
                }
                drop(inner);
                tokio::time::sleep(wait).await;
                continue;
            }
            Ok(Err(_)) => {}
            // The connection may be half open: its peer is gone without a word.
            Err(_) => inner.link.give_up_any(),
        }
        inner.gate().probe_failed();
        drop(inner);
        // Processes that lost Redis at the same moment do not come back at the same moment.
        tokio::time::sleep_until(begun + period.mul_f64(1.0 - fastrand::f64() * 0.2)).await;
    }
}

// === impl Health ===

impl Health {
    /// Whether Redis can be reached.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        matches!(self, Self::Reached)
    }
}

// === impl Inner ===

impl Inner {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, command: &Command) -> RedisResult<Value> {
        let mut line = self.link.line().await?;
        match self.send_on(command, &mut line).await {
            // Redis has restarted, or a proxy has closed an idle connection: a new one may work.
            Err(why) if why.is_unrecoverable_error() && why.is_io_error() => {
                let mut line = self.link.line().await?;
                self.send_on(command, &mut line).await
            }
            other => other,
        }
    }

    async fn send_on(&self, command: &Command, line: &mut Line) -> RedisResult<Value> {
        let result = command.send(line).await;
        if result.as_ref().is_err_and(is_outage) && self.link.give_up(line) {
            self.subscriptions.check();
        }
        result
    }

    fn tell(&self, health: Health) {
        let event = match &health {
            Health::Reached => Event::BackendChanged { reached: true, why: "".into() },
            Health::Unreachable { why, .. } => Event::BackendChanged { reached: false, why: why.clone() },
        };
        self.health.send_replace(health);
        event.emit(self.observer.as_deref());
    }
}

/// Whether this is no answer of a Redis that works.
fn is_outage(why: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    why.is_unrecoverable_error()
        || why.is_io_error()
        || matches!(why.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig)
        || matches!(why.kind(), ErrorKind::Server(BusyLoading | MasterDown | ReadOnly))
}

/// What Redis says, without what it was asked.
fn describe(why: &RedisError) -> String {
    why.detail().map_or_else(|| why.category().to_owned(), |detail| format!("{}: {detail}", why.category()))
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
