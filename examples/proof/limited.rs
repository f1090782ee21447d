//! Compares clients with and without a rate limit of their own at a provider with one.
//!
//! The provider allows 60 requests a minute, 20 of them at once, and answers 429 with the time until the next is
//! allowed. It bans a client for a minute after refusing 20 of its requests within 20 s. The clients send half as many
//! again as it allows.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::{self, Next};
use indicatif::ProgressBar;
use tower_buttress::error::BoxError;
use tower_buttress_gateway::Provider;

use super::answers::Answers;
use super::callers::{self, Load, Tally};
use super::clients::limited::Contestant;
use super::faults::{FAULT, call_of};
use super::scale::{BAN, LIMIT, LIMIT_PER, REFUSALS_WITHIN};

/// Half as many again as allowed, for 80 s.
const LOAD: Load = Load { calls: 120, rate: 30 };
/// The number of refusals that leads to a ban.
const REFUSALS: usize = 20;

/// The state of the provider's limit, and its counts.
#[derive(Debug)]
struct Limit {
    /// How many requests are allowed, and when that was computed.
    room: f64,
    at: Instant,
    /// The times of recent refusals.
    refused: Vec<Instant>,
    banned_until: Option<Instant>,
    refusals: usize,
    bans: usize,
}

/// One contestant's result.
struct Row {
    contestant: Contestant,
    tally: Tally,
    refusals: usize,
    bans: usize,
}

/// Runs all contestants at the same time, each with its own provider, and returns the table.
pub(crate) async fn run() -> Result<String, BoxError> {
    let mut runs = Vec::new();
    for contestant in Contestant::ALL {
        let limit = Arc::new(Mutex::new(Limit::new()));
        let answers = Answers::default();
        let client = contestant.client(provider(limit.clone(), answers.clone()).await?)?;
        runs.push(tokio::spawn(async move {
            let tally = callers::run(client, LOAD, &answers, &ProgressBar::hidden()).await;
            let limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
            Row { contestant, tally, refusals: limit.refusals, bans: limit.bans }
        }));
    }
    let mut rows = Vec::new();
    for run in runs {
        rows.push(run.await?);
    }
    if let Some(row) = rows.iter().find(|row| row.contestant == Contestant::Buttress && row.bans > 0) {
        return Err(format!("{}: the provider has banned it", row.contestant.name()).into());
    }
    Ok(table(rows))
}

async fn provider(limit: Arc<Mutex<Limit>>, answers: Answers) -> io::Result<SocketAddr> {
    let limited = middleware::from_fn(move |mut request: Request, next: Next| {
        let script = limit.lock().unwrap_or_else(PoisonError::into_inner).script(Instant::now());
        request.headers_mut().insert(FAULT, HeaderValue::from_str(&script).unwrap_or(HeaderValue::from_static("")));
        let (call, answers) = (call_of(request.headers()), answers.clone());
        async move { answers.record(call, 0, None, next.run(request).await) }
    });
    Ok(Provider::start_behind(|app| app.layer(limited)).await?.addr())
}

fn table(rows: Vec<Row>) -> String {
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let mut table = format!(
        "| {:<28} | {:>9} | {:>9} | {:>9} | {:>9} | {:>9} |\n|{:-<30}|{}\n",
        "a provider with a rate limit",
        "failed",
        "429s",
        "bans",
        "p50",
        "p99",
        "",
        "----------:|".repeat(5)
    );
    for Row { contestant, tally, refusals, bans } in rows {
        let mut whole = tally.whole;
        whole.sort_unstable();
        let at = |percent: usize| whole.get(whole.len() * percent / 100).copied().unwrap_or_default();
        let failed = tally.failed + tally.cut + tally.taken_for_whole + tally.mixed;
        let failed = format!("{:.1} %", 100.0 * f64::from(failed) / f64::from(tally.requests.max(1)));
        // Writing into a string cannot fail.
        let _ = writeln!(
            table,
            "| {:<28} | {failed:>9} | {refusals:>9} | {bans:>9} | {:>9} | {:>9} |",
            contestant.name(),
            seconds(at(50)),
            seconds(at(99))
        );
    }
    table
}

// === impl Limit ===

impl Limit {
    fn new() -> Self {
        let (refused, banned_until) = (Vec::new(), None);
        Self { room: f64::from(LIMIT), at: Instant::now(), refused, banned_until, refusals: 0, bans: 0 }
    }

    /// The script of a request that arrives now, for the simulated provider.
    fn script(&mut self, now: Instant) -> String {
        if let Some(left) = self.banned_until.and_then(|until| until.checked_duration_since(now)) {
            self.refusals += 1;
            return refusal(left);
        }
        let rate = f64::from(LIMIT) / LIMIT_PER.as_secs_f64();
        let come = now.duration_since(self.at).as_secs_f64() * rate;
        self.room = (self.room + come).min(f64::from(LIMIT));
        self.at = now;
        if self.room >= 1.0 {
            self.room -= 1.0;
            return "head=40ms;gap=10ms;chunks=18".to_owned();
        }
        self.refusals += 1;
        self.refused.retain(|refused| now.duration_since(*refused) < REFUSALS_WITHIN);
        self.refused.push(now);
        if self.refused.len() >= REFUSALS {
            self.bans += 1;
            self.refused.clear();
            self.banned_until = Some(now + BAN);
            return refusal(BAN);
        }
        refusal(Duration::from_secs_f64((1.0 - self.room) / rate))
    }
}

fn refusal(wait: Duration) -> String {
    format!("status=429;retry-after-ms={}", wait.as_millis() + 1)
}
