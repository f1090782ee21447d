//! What goes wrong, and who was asked how often.

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

/// A provider that fails, and one that does not.
#[derive(Debug)]
pub(crate) struct Upstreams {
    pub(crate) primary: SocketAddr,
    pub(crate) backup: SocketAddr,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) answers: Answers,
}

/// What both providers answer with.
#[derive(Clone, Debug)]
struct Model {
    seed: u64,
    /// It says the same to the same call.
    repeats: bool,
    answers: Answers,
}

/// What the two were asked.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<HashMap<u64, Visits>>);

/// One call, as the providers know it.
#[derive(Clone, Debug, Default)]
struct Visits {
    arrivals: u32,
    /// What each arrival met.
    met: HashSet<Fault>,
    /// What became of each answer that was begun, which is what a provider charges for, in order.
    billed: Vec<Fault>,
    /// When the rate limit of this caller ends.
    limited_until: Option<Instant>,
}

/// What happens to one arrival at the faulty provider.
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

/// How many of a thousand arrivals meet which fault. Each arrival draws anew, so a retry can fail too; and for
/// [`OUTAGE`], a third into the run, every connection is reset.
const MIX: [(u32, Fault); 9] = [
    // 429 with `Retry-After: 1`; whoever comes back earlier is refused again.
    (30, Fault::RateLimited),
    // 500, 502, 503 or 529.
    (25, Fault::ServerError),
    // The connection is reset before the head.
    (20, Fault::Reset),
    // The request is read, and nothing is ever answered.
    (15, Fault::Silent),
    // The head comes at once, the first data after a minute.
    (10, Fault::SlowFirstByte),
    // A third of the answer, then silence.
    (10, Fault::Stalled),
    // A third of the answer, then a reset.
    (5, Fault::CutOff),
    // A 200, whose first event after the role is an error.
    (10, Fault::ErrorFirst),
    // A third of the answer, then an end like that of a whole one, but for the reason and `[DONE]`.
    (10, Fault::EndsEarly),
];

/// How many of a thousand calls the faulty provider answers with which refusal, however often they come.
const REFUSED: [(u32, Fault); 2] = [
    // 429 `insufficient_quota`: it looks like a rate limit, and does not pass.
    (5, Fault::QuotaSpent),
    // 400 `context_length_exceeded`: the backup is a larger model.
    (5, Fault::PromptTooLong),
];

/// What every caller names its call with.
pub(crate) const CALL: HeaderName = HeaderName::from_static("x-call");
/// What the simulated provider does with a request.
pub(crate) const FAULT: HeaderName = HeaderName::from_static("x-fault");

// === impl Upstreams ===

impl Upstreams {
    /// A model that `repeats` itself says the same to the same call; others say something else each time.
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

/// Puts the fault that is drawn for a call into the header that the simulated provider obeys, and writes down the answer.
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

/// What its caller named it with.
pub(crate) fn call_of(headers: &HeaderMap) -> u64 {
    headers.get(CALL).and_then(|call| call.to_str().ok()?.parse().ok()).unwrap_or_default()
}

// === impl Ledger ===

impl Ledger {
    /// What is asked for may be the `rest` of an answer that was made, and charged for, before.
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

    /// How many calls met this fault, and how many of them are none of `unserved`.
    pub(crate) fn met(&self, fault: Fault, unserved: &HashSet<u64>) -> (usize, usize) {
        let calls = self.lock();
        let met = calls.iter().filter(|(_, visits)| visits.met.contains(&fault)).map(|(call, _)| call);
        met.fold((0, 0), |(met, served), call| (met + 1, served + usize::from(!unserved.contains(call))))
    }

    /// Calls that were charged for more than once.
    pub(crate) fn billed_again(&self) -> usize {
        self.lock().values().filter(|visits| visits.billed.len() > 1).count()
    }

    /// Calls that were charged for more often than they had to be: an answer before the last one was whole, or broke off where
    /// its rest could be had by a `cursor` for nothing.
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
    /// The same for everybody who comes for the same call as often.
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
    /// In the words of the simulated provider. A healthy answer: the head after 40 ms, and 20 events in 200 ms.
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
