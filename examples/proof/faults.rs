//! Injects the faults, and counts the calls of each provider.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{self, Next};

use tower_buttress_gateway::Provider;

use super::answers::Answers;
use super::callers::Load;
use super::scale::OUTAGE;

/// A faulty provider, and a healthy backup.
#[derive(Debug)]
pub(crate) struct Upstreams {
    pub(crate) primary: SocketAddr,
    pub(crate) backup: SocketAddr,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) answers: Answers,
}

/// The model behind both.
#[derive(Clone, Debug)]
struct Model {
    seed: u64,
    /// Whether it gives the same answer to the same call.
    repeats: bool,
    answers: Answers,
}

/// The calls of both.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<HashMap<u64, Visits>>);

/// One call, as the providers see it.
#[derive(Clone, Debug, Default)]
struct Visits {
    arrivals: u32,
    /// The faults of its arrivals.
    met: HashSet<Fault>,
    /// The outcome of each answer that was begun, in order. A provider charges for these.
    billed: Vec<Fault>,
    /// The end of this caller's rate limit.
    limited_until: Option<Instant>,
}

/// The fault of one arrival at the faulty provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    None,
    RateLimited,
    ServerError,
    Reset,
    Silent,
    SlowFirstByte,
    Stalled,
    CutOff,
    ErrorFirst,
    EndsEarly,
    QuotaSpent,
    PromptTooLong,
}

/// How many of 1,000 arrivals meet which fault. Each arrival draws anew, so a retry can fail too. A third into the run
/// every connection is reset for [`OUTAGE`].
const MIX: [(u32, Fault); 9] = [
    // 429 with `Retry-After: 1`; an earlier retry is refused again.
    (30, Fault::RateLimited),
    // 500, 502, 503 or 529.
    (25, Fault::ServerError),
    // The connection is reset before the head.
    (20, Fault::Reset),
    // The request is read and never answered.
    (15, Fault::Silent),
    // The head comes at once, the first data after a minute.
    (10, Fault::SlowFirstByte),
    // A third of the answer, then silence.
    (10, Fault::Stalled),
    // A third of the answer, then a reset.
    (5, Fault::CutOff),
    // A 200 whose first event after the role is an error.
    (10, Fault::ErrorFirst),
    // A third of the answer, then a clean end without finish reason and `[DONE]`.
    (10, Fault::EndsEarly),
];

/// How many of 1,000 calls get which refusal from the faulty provider, on every arrival.
const REFUSED: [(u32, Fault); 2] = [
    // 429 `insufficient_quota`: looks like a rate limit, but does not end.
    (5, Fault::QuotaSpent),
    // 400 `context_length_exceeded`: the backup is a larger model.
    (5, Fault::PromptTooLong),
];

/// The header in which callers number their calls.
pub(crate) const CALL: HeaderName = HeaderName::from_static("x-call");
/// The header with the fault for the simulated provider.
pub(crate) const FAULT: HeaderName = HeaderName::from_static("x-fault");

// === impl Upstreams ===

impl Upstreams {
    /// A model that `repeats` gives the same answer to the same call; others a new one each time.
    pub(crate) async fn start(seed: u64, load: &Load, repeats: bool) -> io::Result<Self> {
        let (ledger, answers) = (Arc::new(Ledger::default()), Answers::default());
        let model = Model { seed, repeats, answers: answers.clone() };
        let outage_begins = load.duration() / 3;
        let first = Arc::new(OnceLock::new());
        let faulty = {
            let ledger = ledger.clone();
            move |call, rest| {
                let now = Instant::now();
                let since = now.duration_since(*first.get_or_init(|| now));
                let down = since >= outage_begins && since < outage_begins + OUTAGE;
                ledger.visit(call, rest, |visits| visits.fault(seed, call, down, now))
            }
        };
        let healthy = {
            let ledger = ledger.clone();
            move |call, rest| ledger.visit(call, rest, |_| Fault::None)
        };
        let backup = Provider::start_behind(|app| behind(app, model.clone(), healthy)).await?.addr();
        let primary = Provider::start_behind(|app| behind(app, model, faulty)).await?.addr();
        Ok(Self { primary, backup, ledger, answers })
    }
}

/// Writes the fault of a call into the header of the simulated provider, and records the answer.
fn behind(app: Router, model: Model, draw: impl Fn(u64, bool) -> Fault + Clone + Send + Sync + 'static) -> Router {
    app.layer(middleware::from_fn(move |mut request: Request, next: Next| {
        let (model, headers) = (model.clone(), request.headers());
        let call = call_of(headers);
        let after = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let version = if model.repeats { 0 } else { model.answers.version(call, after.is_some()) };
        let script = draw(call, after.is_some()).script(model.seed ^ call);
        let script = format!("{script};first-word={version}");
        request.headers_mut().insert(FAULT, HeaderValue::from_str(&script).unwrap_or(HeaderValue::from_static("")));
        async move { model.answers.record(call, version, after.as_deref(), next.run(request).await) }
    }))
}

/// The number of the call.
pub(crate) fn call_of(headers: &HeaderMap) -> u64 {
    headers.get(CALL).and_then(|call| call.to_str().ok()?.parse().ok()).unwrap_or_default()
}

// === impl Ledger ===

impl Ledger {
    /// The request may be for the `rest` of an earlier answer, which was charged already.
    fn visit(&self, call: u64, rest: bool, draw: impl FnOnce(&mut Visits) -> Fault) -> Fault {
        let mut visits = self.lock();
        let visits = visits.entry(call).or_default();
        let fault = draw(visits);
        visits.arrivals += 1;
        visits.met.insert(fault);
        if fault.is_billed() && !rest {
            visits.billed.push(fault);
        }
        fault
    }

    /// Calls that reached an upstream.
    pub(crate) fn arrivals(&self) -> u32 {
        self.lock().values().map(|visits| visits.arrivals).sum()
    }

    /// How many calls met this fault, and how many of those are not `unserved`.
    pub(crate) fn met(&self, fault: Fault, unserved: &HashSet<u64>) -> (usize, usize) {
        let calls = self.lock();
        let met = calls.iter().filter(|(_, visits)| visits.met.contains(&fault)).map(|(call, _)| call);
        met.fold((0, 0), |(met, served), call| (met + 1, served + usize::from(!unserved.contains(call))))
    }

    /// Calls that were charged more than once.
    pub(crate) fn billed_again(&self) -> usize {
        self.lock().values().filter(|visits| visits.billed.len() > 1).count()
    }

    /// Calls that were charged more often than needed: an answer before the last one was whole, or could have
    /// continued by a `cursor` for free.
    pub(crate) fn billed_needlessly(&self, cursor: bool) -> usize {
        let would_do = |fault: &Fault| match fault {
            Fault::None => true,
            Fault::Stalled | Fault::CutOff | Fault::EndsEarly => cursor,
            _ => false,
        };
        let calls = self.lock();
        let before_the_last = calls.values().filter_map(|visits| visits.billed.split_last());
        before_the_last.filter(|(_, before)| before.iter().any(would_do)).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Visits>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Visits ===

impl Visits {
    /// The same for all contestants on the same arrival of the same call.
    fn fault(&mut self, seed: u64, call: u64, down: bool, now: Instant) -> Fault {
        if down {
            return Fault::Reset;
        }
        if self.limited_until.is_some_and(|until| now < until) {
            return Fault::RateLimited;
        }
        let seed = fastrand::Rng::with_seed(seed).u64(..) ^ call.rotate_left(32);
        let refused = draw(&REFUSED, !seed);
        let fault = refused.or_else(|| draw(&MIX, seed ^ u64::from(self.arrivals))).unwrap_or(Fault::None);
        if fault == Fault::RateLimited {
            self.limited_until = Some(now + Duration::from_secs(1));
        }
        fault
    }
}

/// One of these faults, or none, for this seed.
fn draw(faults: &[(u32, Fault)], seed: u64) -> Option<Fault> {
    let mut drawn = fastrand::Rng::with_seed(seed).u32(..1000);
    faults.iter().find_map(|&(share, fault)| match drawn.checked_sub(share) {
        None => Some(fault),
        Some(rest) => {
            drawn = rest;
            None
        }
    })
}

// === impl Fault ===

impl Fault {
    /// The script for the simulated provider. A healthy answer sends its head after 40 ms, and 20 events in 200 ms.
    fn script(self, draw: u64) -> String {
        let healthy = "head=40ms;gap=10ms;chunks=18;ids";
        match self {
            Self::None => healthy.to_owned(),
            Self::RateLimited => "status=429;retry-after=1".to_owned(),
            Self::ServerError => {
                let status = [500, 502, 503, 529][(draw % 4) as usize];
                format!("head=20ms;status={status}")
            }
            Self::Reset => "reset".to_owned(),
            Self::Silent => "silent".to_owned(),
            Self::SlowFirstByte => "first-byte=3s;gap=10ms;chunks=18;ids".to_owned(),
            Self::Stalled => format!("{healthy};stall-after=6"),
            Self::CutOff => format!("{healthy};reset-after=6"),
            Self::ErrorFirst => format!("{healthy};code=overloaded;error-after=0"),
            Self::EndsEarly => format!("{healthy};truncate-after=6"),
            Self::QuotaSpent => "head=20ms;status=429;code=insufficient_quota".to_owned(),
            Self::PromptTooLong => "head=20ms;status=400;code=context_length_exceeded".to_owned(),
        }
    }

    fn is_billed(self) -> bool {
        matches!(self, Self::None | Self::SlowFirstByte | Self::Stalled | Self::CutOff | Self::EndsEarly)
    }
}
