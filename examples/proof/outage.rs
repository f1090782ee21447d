//! What callers get while neither provider nor backup answers, for a fifth of the run.
//!
//! Five tenants repeat the same twelve questions, and the model gives each tenant other answers, so that another
//! tenant's answer is recognised.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use http::header::AUTHORIZATION;
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tower::ServiceExt;
use tower_buttress::Stale;
use tower_buttress::error::BoxError;
use tower_buttress_gateway::Provider;

use super::answers::{Answers, DONE, Held, contains};
use super::callers::{Load, request};
use super::clients::Client;
use super::clients::outage::Contestant;
use super::faults::{CALL, FAULT, call_of};
use super::scale::TOTAL;

const LOAD: Load = Load { calls: 480, rate: 80 };
const TENANTS: u32 = 5;
const QUESTIONS: u32 = 12;

/// The results of one contestant.
#[derive(Debug, Default)]
struct Tally {
    /// Calls that began during the outage, and those without a whole answer.
    while_down: u32,
    failed: u32,
    /// Calls that failed outside of the outage: the machine is too busy for a judgement.
    failed_for_nothing: u32,
    /// Answers marked as old.
    marked: u32,
    /// Unmarked answers, at any time.
    fresh: usize,
    /// Answers of another tenant or question.
    wrong: u32,
    /// Unmarked answers that came when nothing could have given a new one.
    passed_as_new: u32,
    /// The durations of calls that began during the outage.
    took: Vec<Duration>,
}

/// What one call got.
struct Answer {
    while_down: bool,
    /// Whether the outage lasted until its end.
    ended_while_down: bool,
    is_marked: bool,
    /// `None`: it was not whole.
    held: Option<Held>,
    took: Duration,
}

/// Runs all contestants at the same time, each with its own providers, and returns the table.
pub(crate) async fn run() -> Result<String, BoxError> {
    let mut runs = Vec::new();
    for contestant in Contestant::ALL {
        let (answers, begin) = (Answers::default(), Arc::new(OnceLock::new()));
        let primary = provider(answers.clone(), begin.clone()).await?;
        let client = contestant.client(primary, provider(answers.clone(), begin.clone()).await?)?;
        runs.push(tokio::spawn(async move {
            let tally = ask_all(client, &answers, *begin.get_or_init(Instant::now)).await;
            tally.check(contestant, answers.begun()).map(|()| (contestant, tally))
        }));
    }
    let mut rows = Vec::new();
    for run in runs {
        rows.push(run.await??);
    }
    Ok(table(rows))
}

/// Whether nothing answers at this time of the run.
fn is_down(begin: Instant, now: Instant) -> bool {
    let fifth = LOAD.duration() / 5;
    (fifth * 2..fifth * 3).contains(&now.saturating_duration_since(begin))
}

/// A provider with other answers for each tenant, which resets every connection during the outage.
async fn provider(answers: Answers, begin: Arc<OnceLock<Instant>>) -> io::Result<SocketAddr> {
    let model = middleware::from_fn(move |mut request: Request, next: Next| {
        let answers = answers.clone();
        let call = call_of(request.headers());
        let script = match begin.get().is_some_and(|begin| is_down(*begin, Instant::now())) {
            true => "reset".to_owned(),
            false => format!("head=40ms;gap=10ms;chunks=18;first-word={}", call % u64::from(TENANTS)),
        };
        request.headers_mut().insert(FAULT, HeaderValue::from_str(&script).unwrap_or(HeaderValue::from_static("")));
        async move { answers.record(call, 0, None, next.run(request).await) }
    });
    Ok(Provider::start_behind(|app| app.layer(model)).await?.addr())
}

async fn ask_all(client: Client, answers: &Answers, begin: Instant) -> Tally {
    let mut calls = JoinSet::new();
    for nth in 0..LOAD.calls {
        let at = begin + Duration::from_secs(1) * nth / LOAD.rate;
        calls.spawn(ask(client.clone(), nth % (TENANTS * QUESTIONS), at, begin, answers.clone()));
    }
    let mut tally = Tally::default();
    while let Some(answer) = calls.join_next().await {
        if let Ok(answer) = answer {
            tally.add(&answer);
        }
    }
    tally
}

/// `call` determines the tenant and the question.
async fn ask(client: Client, call: u32, at: Instant, begin: Instant, answers: Answers) -> Answer {
    sleep_until(at).await;
    let while_down = is_down(begin, at);
    let mut answer = Answer { while_down, ended_while_down: false, is_marked: false, held: None, took: Duration::ZERO };
    let mut request = request(call / TENANTS);
    request.headers_mut().insert(CALL, call.into());
    let credential = format!("Bearer tenant-{}", call % TENANTS);
    request
        .headers_mut()
        .insert(AUTHORIZATION, HeaderValue::from_str(&credential).unwrap_or(HeaderValue::from_static("")));
    let patience = at + TOTAL;
    if let Ok(Ok(response)) = timeout_at(patience, client.oneshot(request)).await {
        let says_so = response.headers().contains_key("age") && response.headers().contains_key("cache-status");
        answer.is_marked = says_so && Stale::of(&response).is_some();
        if let (StatusCode::OK, Ok(Ok(body))) =
            (response.status(), timeout_at(patience, response.into_body().collect()).await)
        {
            let body = body.to_bytes();
            answer.held = contains(&body, DONE).then(|| answers.compare(call.into(), &body));
        }
    }
    answer.took = at.elapsed();
    answer.ended_while_down = is_down(begin, at + answer.took);
    answer
}

fn table(rows: Vec<(Contestant, Tally)>) -> String {
    let mut table = format!(
        "| {:<28} | {:>9} | {:>9} | {:>11} | {:>12} | {:>9} |\n|{:-<30}|----------:|----------:|------------:|-------------:|----------:|\n",
        "all is down for a fifth", "asked", "failed", "from memory", "wrong tenant", "p50", ""
    );
    for (contestant, mut tally) in rows {
        tally.took.sort_unstable();
        let median = tally
            .took
            .get(tally.took.len() / 2)
            .map_or_else(String::new, |took| format!("{:.2} s", took.as_secs_f64()));
        let failed = format!("{:.1} %", 100.0 * f64::from(tally.failed) / f64::from(tally.while_down.max(1)));
        // Writing into a string cannot fail.
        let _ = writeln!(
            table,
            "| {:<28} | {:>9} | {failed:>9} | {:>11} | {:>12} | {median:>9} |",
            contestant.name(),
            tally.while_down,
            tally.marked,
            tally.wrong,
        );
    }
    table
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, answer: &Answer) {
        self.while_down += u32::from(answer.while_down);
        let Some(held) = answer.held else {
            self.failed += u32::from(answer.while_down);
            self.failed_for_nothing += u32::from(!answer.while_down);
            return;
        };
        self.wrong += u32::from(held == Held::Mixed);
        self.marked += u32::from(answer.is_marked);
        self.fresh += usize::from(!answer.is_marked);
        self.passed_as_new += u32::from(answer.while_down && answer.ended_while_down && !answer.is_marked);
        if answer.while_down {
            self.took.push(answer.took);
        }
    }

    /// Checks that each answer is its tenant's, and each old one is marked: there are no more unmarked ones than the
    /// provider began, and none came during the outage. With stored answers each call during the outage got one, if
    /// one was stored: on a busy machine earlier calls fail.
    fn check(&self, contestant: Contestant, begun: usize) -> Result<(), BoxError> {
        let broken = |what: String| Err(format!("{}: {what}", contestant.name()).into());
        if self.wrong > 0 {
            return broken(format!("{} answers are another tenant's, or to another question", self.wrong));
        }
        let unmarked = self.fresh.saturating_sub(begun).max(self.passed_as_new as usize);
        if unmarked > 0 {
            return broken(format!("{unmarked} answers are old, and do not say so"));
        }
        let is_judged = contestant == Contestant::Remembering && self.failed_for_nothing == 0;
        if is_judged && (self.failed > 0 || self.marked == 0) {
            return broken(format!("{} calls failed, and {} were answered from memory", self.failed, self.marked));
        }
        Ok(())
    }
}
