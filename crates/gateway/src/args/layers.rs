//! The layers, each with its settings.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::ArgAction::Set;
use http::HeaderName;

use super::Misfit;
use super::headings::{ATTEMPTS, BREAKER, CONVERSATIONS, DEDUP, LAST_GOOD, LOAD, STREAMS, STRUCTURED, TIME};
use super::similar::{Ratio, SimilarArgs};
use super::templates::Templates;
use super::values::{
    Concurrency, Ends, Header, Heartbeat, Notices, Pacing, Profile, RateLimit, Resuming, Size, Superseding, Switch,
    TimeLimit, time,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LayerArgs {
    /// Limits of time for a class of models, where no option gives another: of the first byte, of whole answers, of silence,
    /// and the deadline. `fast` 10s, 18s, 15s, 30s; `standard` 20s, 50s, 15s, 90s; `deep` 45s, 110s, 15s, 180s;
    /// `extended-thinking` 90s, 200s, 180s, 300s.
    #[arg(long, env = "GATEWAY_PROFILE", value_name = "CLASS", help_heading = TIME)]
    pub(crate) profile: Option<Profile>,

    /// Longest time for a connection to the upstream to be established.
    #[arg(long, env = "GATEWAY_CONNECT_TIMEOUT", value_name = "TIME|off", default_value = "5s", help_heading = TIME)]
    pub(crate) connect_timeout: TimeLimit,

    /// Longest wait, once the upstream has the request, for the first byte of its answer's body; of an event stream, for
    /// the first event that is no comment.
    #[arg(
        long, env = "GATEWAY_FIRST_BYTE_TIMEOUT", value_name = "TIME|off", default_value = "30s", help_heading = TIME
    )]
    pub(crate) first_byte_timeout: TimeLimit,

    /// The same for answers that are not streams, and come whole when the model has finished.
    #[arg(long, env = "GATEWAY_ANSWER_TIMEOUT", value_name = "TIME|off", default_value = "110s", help_heading = TIME)]
    pub(crate) answer_timeout: TimeLimit,

    /// Longest wait, once a stream has begun, for its first content: a text, a thought, a call of a tool.
    #[arg(
        long, env = "GATEWAY_FIRST_CONTENT_TIMEOUT", value_name = "TIME|off", default_value = "90s", help_heading = TIME
    )]
    pub(crate) first_content_timeout: TimeLimit,

    /// Longest silence of the upstream within an answer. In an event stream, comments are silence.
    #[arg(long, env = "GATEWAY_IDLE_TIMEOUT", value_name = "TIME|off", default_value = "15s", help_heading = TIME)]
    pub(crate) idle_timeout: TimeLimit,

    /// Longest time for a call, its answer included.
    #[arg(long, env = "GATEWAY_DEADLINE", value_name = "TIME|off", default_value = "180s", help_heading = TIME)]
    pub(crate) deadline: TimeLimit,

    /// Header in which callers say how many milliseconds they have left. The upstream gets the same header.
    #[arg(
        long, env = "GATEWAY_DEADLINE_HEADER", value_name = "NAME|off", default_value = "x-deadline-ms",
        help_heading = TIME
    )]
    pub(crate) deadline_header: Header,

    /// Time that is subtracted from what the upstream is told.
    #[arg(long, env = "GATEWAY_DEADLINE_RESERVE", value_name = "TIME|off", default_value = "50ms", help_heading = TIME)]
    pub(crate) deadline_reserve: TimeLimit,

    /// Number of attempts at a call, the first included.
    #[arg(long, env = "GATEWAY_ATTEMPTS", value_name = "N", default_value = "3", help_heading = ATTEMPTS)]
    pub(crate) attempts: NonZeroU32,

    /// Longest first wait between two attempts. Each wait that follows may be twice as long as the last.
    #[arg(long, env = "GATEWAY_BACKOFF_BASE", value_name = "TIME|off", default_value = "500ms", help_heading = ATTEMPTS)]
    pub(crate) backoff_base: TimeLimit,

    /// Longest wait between two attempts, unless the upstream asks for a longer one.
    #[arg(long, env = "GATEWAY_BACKOFF_CAP", value_name = "TIME|off", default_value = "20s", help_heading = ATTEMPTS)]
    pub(crate) backoff_cap: TimeLimit,

    /// Longest wait that the upstream may ask for. An answer that asks for more is passed on at once.
    #[arg(
        long, env = "GATEWAY_MAX_RETRY_AFTER", value_name = "TIME|off", default_value = "60s", help_heading = ATTEMPTS
    )]
    pub(crate) max_retry_after: TimeLimit,

    /// Whether a POST without an idempotency key is attempted again though it may have been executed.
    #[arg(
        long, env = "GATEWAY_RETRY_NON_IDEMPOTENT", value_name = "BOOL", default_value = "true", action = Set,
        help_heading = ATTEMPTS
    )]
    pub(crate) retry_non_idempotent: bool,

    /// Whether answers of models are read: streams that end early, and errors inside a 200, are then errors that are
    /// tried again or end the stream as one.
    #[arg(long, env = "GATEWAY_GUARD", value_name = "on|off", default_value = "on", help_heading = STREAMS)]
    pub(crate) guard: Switch,

    /// What a stream is that ends cleanly without a reason (`finish_reason` and its kin). `auto`: whole if it has a closing
    /// marker and the model never gave a reason; `error`: cut off; `allow`: whole.
    #[arg(long, env = "GATEWAY_MISSING_END", value_name = "HOW", default_value = "auto", help_heading = STREAMS)]
    pub(crate) missing_end: Ends,

    /// Hand on whole answers only, up to this size (as `256KiB`): whatever is wrong with one can still be tried again.
    #[arg(long, env = "GATEWAY_HOLD", value_name = "BYTES|off", default_value = "off", help_heading = STREAMS)]
    pub(crate) hold: Size,

    /// How a stream that broke off goes on: `cursor`, where its server keeps the answer and says how far it has come
    /// (OpenAI's Responses in the background, llama.cpp, events with an `id`); `verified`: where it does not, also by asking
    /// once more, which is billed again, and goes on only where the new answer begins as the first one did.
    #[arg(long, env = "GATEWAY_RESUME", value_name = "HOW", default_value = "cursor", help_heading = STREAMS)]
    pub(crate) resume: Resuming,

    /// Silence of an event stream after which a heartbeat is sent, so that proxies keep the connection.
    #[arg(long, env = "GATEWAY_HEARTBEAT", value_name = "TIME|off", default_value = "15s", help_heading = STREAMS)]
    pub(crate) heartbeat: TimeLimit,

    /// Form of heartbeats. `by-dialect`: what the clients of the request's API accept, before the head none where that is not
    /// known; the others for every request.
    #[arg(
        long, env = "GATEWAY_HEARTBEAT_FRAME", value_name = "FRAME", default_value = "by-dialect",
        help_heading = STREAMS
    )]
    pub(crate) heartbeat_frame: Heartbeat,

    /// Wait for an answer after which a requested event stream begins anyway, with heartbeats. A later error is an event
    /// of the stream.
    #[arg(
        long, env = "GATEWAY_HEARTBEAT_BEFORE_HEADERS", value_name = "TIME|off", default_value = "15s",
        help_heading = STREAMS
    )]
    pub(crate) heartbeat_before_headers: TimeLimit,

    /// Longest silence of an upstream while heartbeats are sent.
    #[arg(
        long, env = "GATEWAY_HEARTBEAT_MAX_SILENCE", value_name = "TIME|off", default_value = "off",
        help_heading = STREAMS
    )]
    pub(crate) heartbeat_max_silence: TimeLimit,

    /// Whether an event stream that breaks off ends with an error event.
    #[arg(
        long, env = "GATEWAY_ERROR_EVENTS", value_name = "BOOL", default_value = "true", action = Set,
        help_heading = STREAMS
    )]
    pub(crate) error_events: bool,

    /// Whether a stream tells its caller why it waits (a retry, a fallback, a queue). `header`: where the caller sends
    /// `x-notices: on`.
    #[arg(long, env = "GATEWAY_NOTICES", value_name = "WHEN", default_value = "off", help_heading = STREAMS)]
    pub(crate) notices: Notices,

    /// Whether equal requests share one upstream call: the second gets the first one's answer.
    #[arg(long, env = "GATEWAY_DEDUP", value_name = "on|off", default_value = "on", help_heading = DEDUP)]
    pub(crate) dedup: Switch,

    /// Time for which an answer is kept for equal requests.
    #[arg(long, env = "GATEWAY_DEDUP_WINDOW", value_name = "TIME|off", default_value = "60s", help_heading = DEDUP)]
    pub(crate) dedup_window: TimeLimit,

    /// Header that tells tenants apart, beside the caller's credentials: for equal requests, last good answers (`--last-good`)
    /// and conversations (`--supersede-header`). A request without it shares nothing with others.
    #[arg(long, env = "GATEWAY_DEDUP_TENANT_HEADER", value_name = "NAME", help_heading = DEDUP)]
    pub(crate) dedup_tenant_header: Option<HeaderName>,

    /// Time for which an upstream call continues after all its callers have left.
    #[arg(long, env = "GATEWAY_DEDUP_GRACE", value_name = "TIME|off", default_value = "5s", help_heading = DEDUP)]
    pub(crate) dedup_grace: TimeLimit,

    /// Whether callers that were cut off come back: an event stream in answer to an `Idempotency-Key` says in
    /// `Content-Location` where it is (`/-/answers/<token>`), and goes on when its caller has left. Who has the URL may read.
    #[arg(long, env = "GATEWAY_RESUMABLE", value_name = "on|off", default_value = "off", help_heading = DEDUP)]
    pub(crate) resumable: Switch,

    /// How long a call goes on while no caller listens, and its answer can be read when it has ended. At most 8
    /// calls of a tenant go on so, and of all a quarter of the places of `--concurrency`, but one at least.
    #[arg(
        long, env = "GATEWAY_RESUME_WINDOW", value_name = "TIME", default_value = "5m", value_parser = time,
        help_heading = DEDUP
    )]
    pub(crate) resume_window: Duration,

    /// Whether a request with `Prefer: respond-async, wait=10` that has no answer by then gets a 202 with the place where
    /// it will be.
    #[arg(long, env = "GATEWAY_RESPOND_ASYNC", value_name = "on|off", default_value = "off", help_heading = DEDUP)]
    pub(crate) respond_async: Switch,

    /// Header that names the conversation of a request. A newer message of the same conversation then ends the older one.
    #[arg(
        long, env = "GATEWAY_SUPERSEDE_HEADER", value_name = "NAME|off", default_value = "off",
        help_heading = CONVERSATIONS
    )]
    pub(crate) supersede_header: Header,

    /// What becomes of a newer message: `interrupt` ends the older one (410), `reject` refuses the newer one (409), `enqueue`
    /// has it wait.
    #[arg(
        long, env = "GATEWAY_SUPERSEDE", value_name = "HOW", default_value = "interrupt", help_heading = CONVERSATIONS
    )]
    pub(crate) supersede: Superseding,

    /// Time for which a message waits for a newer one before it is sent.
    #[arg(
        long, env = "GATEWAY_SUPERSEDE_SETTLE", value_name = "TIME|off", default_value = "off",
        help_heading = CONVERSATIONS
    )]
    pub(crate) supersede_settle: TimeLimit,

    /// Whether answers to requests for JSON (`response_format` and its kin) are parsed and checked by the request's schema. A
    /// value that stands in a sentence or a fence is taken out; where there is none, the model is asked again, then a
    /// fallback. Streams only with --hold. An answer that is still wrong has `x-gateway-output: invalid`.
    #[arg(long, env = "GATEWAY_STRUCTURED", value_name = "on|off", default_value = "off", help_heading = STRUCTURED)]
    pub(crate) structured: Switch,

    /// How often a model is asked again for JSON, with what was wrong: 0, 1 or 2. Each is billed.
    #[arg(
        long, env = "GATEWAY_STRUCTURED_REASKS", value_name = "N", default_value = "2",
        value_parser = clap::value_parser!(u32).range(0..=2), help_heading = STRUCTURED
    )]
    pub(crate) structured_reasks: u32,

    /// Whether the last whole answer to the same request is returned, marked as old, when no upstream gives one.
    #[arg(long, env = "GATEWAY_LAST_GOOD", value_name = "on|off", default_value = "off", help_heading = LAST_GOOD)]
    pub(crate) last_good: Switch,

    /// How old such an answer may be.
    #[arg(
        long, env = "GATEWAY_LAST_GOOD_TTL", value_name = "TIME", default_value = "1h", value_parser = time,
        help_heading = LAST_GOOD
    )]
    pub(crate) last_good_ttl: Duration,

    /// File with a JSON object of texts to answer with when there is no such answer either, by the model that was asked
    /// for; `"*"` is any.
    #[arg(long, env = "GATEWAY_LAST_GOOD_TEMPLATE", value_name = "FILE", help_heading = LAST_GOOD)]
    pub(crate) last_good_template: Option<Templates>,

    #[command(flatten)]
    pub(crate) similar: SimilarArgs,

    /// Whether calls fail at once while the upstream keeps failing, or go to the fallback where there is one.
    #[arg(long, env = "GATEWAY_BREAKER", value_name = "on|off", default_value = "on", help_heading = BREAKER)]
    pub(crate) breaker: Switch,

    /// Ratio of failed calls in the window at which the circuit opens.
    #[arg(
        long, env = "GATEWAY_BREAKER_FAILURE_RATIO", value_name = "RATIO", default_value = "0.7",
        help_heading = BREAKER
    )]
    pub(crate) breaker_failure_ratio: f64,

    /// Number of calls in the window below which the ratio does not count.
    #[arg(long, env = "GATEWAY_BREAKER_MIN_CALLS", value_name = "N", default_value = "20", help_heading = BREAKER)]
    pub(crate) breaker_min_calls: NonZeroU32,

    /// Length of the window.
    #[arg(
        long, env = "GATEWAY_BREAKER_WINDOW", value_name = "TIME", default_value = "60s", value_parser = time,
        help_heading = BREAKER
    )]
    pub(crate) breaker_window: Duration,

    /// Number of consecutive failures at which the circuit opens, if the upstream gave no sign of life for 5 s.
    #[arg(long, env = "GATEWAY_BREAKER_CONSECUTIVE", value_name = "N", default_value = "5", help_heading = BREAKER)]
    pub(crate) breaker_consecutive: NonZeroU32,

    /// Time after which one call probes whether the upstream is back. It doubles with each probe that gets no answer.
    #[arg(
        long, env = "GATEWAY_BREAKER_OPEN", value_name = "TIME", default_value = "5s", value_parser = time,
        help_heading = BREAKER
    )]
    pub(crate) breaker_open: Duration,

    /// Longest such time.
    #[arg(
        long, env = "GATEWAY_BREAKER_OPEN_MAX", value_name = "TIME", default_value = "15s", value_parser = time,
        help_heading = BREAKER
    )]
    pub(crate) breaker_open_max: Duration,

    /// What a 429 does beside being tried again. `pause`: calls with the same credential wait as long as it asks, at most
    /// 60 s; `learn`: rates are also taken from the headers of answers; `off`: nothing.
    #[arg(long, env = "GATEWAY_PACE", value_name = "HOW", default_value = "pause", help_heading = LOAD)]
    pub(crate) pace: Pacing,

    /// Requests that are sent to an upstream with one credential, as `500/1m`. Others wait, for up to 30 s.
    #[arg(
        long, env = "GATEWAY_PACE_REQUESTS", value_name = "N/TIME|off", default_value = "off", help_heading = LOAD
    )]
    pub(crate) pace_requests: RateLimit,

    /// Tokens, of prompts and answers together, that are used of an upstream with one credential, as `80000/1m`.
    #[arg(long, env = "GATEWAY_PACE_TOKENS", value_name = "N/TIME|off", default_value = "off", help_heading = LOAD)]
    pub(crate) pace_tokens: RateLimit,

    /// Calls that are under way at an upstream at a time, to the end of their answers. `auto`: as many as it is found to
    /// bear.
    #[arg(long, env = "GATEWAY_CONCURRENCY", value_name = "N|auto|off", default_value = "off", help_heading = LOAD)]
    pub(crate) concurrency: Concurrency,

    /// Calls that may wait for one of those places. Beyond that 503.
    #[arg(long, env = "GATEWAY_QUEUE", value_name = "N", default_value = "1024", help_heading = LOAD)]
    pub(crate) queue: u32,

    /// Longest wait for a place.
    #[arg(
        long, env = "GATEWAY_QUEUE_WAIT", value_name = "TIME", default_value = "30s", value_parser = time,
        help_heading = LOAD
    )]
    pub(crate) queue_wait: Duration,
}

// === impl LayerArgs ===

impl LayerArgs {
    /// When a stream begins without its answer; `None`: never.
    pub(crate) fn begin_early(&self) -> Option<Duration> {
        self.heartbeat.0.and(self.heartbeat_before_headers.0)
    }

    /// What cannot work together.
    pub(super) fn check(&self) -> Result<(), Misfit> {
        if self.guard == Switch::Off && self.hold.0.is_some() {
            return Err(Misfit::new(&["hold", "guard"], "--hold needs what reads the answers: --guard on"));
        }
        if self.dedup == Switch::Off && self.resumable == Switch::On {
            return Err(Misfit::new(&["resumable", "dedup"], "--resumable needs what shares answers: --dedup on"));
        }
        if self.resumable == Switch::Off && self.respond_async == Switch::On {
            let keys = ["respond_async", "resumable"];
            return Err(Misfit::new(&keys, "--respond-async needs a place for the answers: --resumable on"));
        }
        if self.last_good == Switch::Off && self.last_good_template.is_some() {
            let keys = ["last_good_template", "last_good"];
            return Err(Misfit::new(&keys, "--last-good-template needs --last-good on"));
        }
        self.similar.check(self.last_good == Switch::On)?;
        if self.supersede_header.0.is_none() && self.supersede_settle.0.is_some() {
            let keys = ["supersede_settle", "supersede_header"];
            let wrong = "--supersede-settle needs --supersede-header, which names the conversation";
            return Err(Misfit::new(&keys, wrong));
        }
        if self.breaker == Switch::On { self.check_breaker() } else { Ok(()) }
    }

    fn check_breaker(&self) -> Result<(), Misfit> {
        if !(self.breaker_failure_ratio > 0.0 && self.breaker_failure_ratio <= 1.0) {
            let wrong = "--breaker-failure-ratio must lie above 0 and at or below 1";
            return Err(Misfit::new(&["breaker_failure_ratio"], wrong));
        }
        if self.breaker_open > self.breaker_open_max {
            let keys = ["breaker_open", "breaker_open_max"];
            return Err(Misfit::new(&keys, "--breaker-open must not be longer than --breaker-open-max"));
        }
        if self.breaker_window < Duration::from_millis(10) {
            return Err(Misfit::new(&["breaker_window"], "--breaker-window must be at least 10ms"));
        }
        Ok(())
    }

    /// Whether a call whose upstream hangs comes to its fallback.
    pub(super) fn check_for_fallback(&self) -> Result<(), Misfit> {
        let Some(deadline) = self.deadline.0 else { return Ok(()) };
        for (key, name, limit) in [
            ("first_byte_timeout", "--first-byte-timeout", self.first_byte_timeout),
            ("answer_timeout", "--answer-timeout", self.answer_timeout),
        ] {
            if limit.0.is_some_and(|limit| limit >= deadline) {
                let wrong = format!(
                    "{name} {limit} is not shorter than --deadline {}: a call that hangs would not reach its fallback",
                    self.deadline
                );
                return Err(Misfit::new(&[key, "deadline", "fallback"], wrong));
            }
        }
        Ok(())
    }

    /// Switches everything off but the deadline.
    pub(super) fn make_plain(&mut self) {
        let off = TimeLimit(None);
        self.connect_timeout = off;
        self.first_byte_timeout = off;
        self.answer_timeout = off;
        self.first_content_timeout = off;
        self.idle_timeout = off;
        self.attempts = NonZeroU32::MIN;
        self.guard = Switch::Off;
        self.hold = Size(None);
        self.resume = Resuming::Off;
        self.notices = Notices::Off;
        self.heartbeat = off;
        self.heartbeat_before_headers = off;
        self.heartbeat_max_silence = off;
        self.error_events = false;
        self.dedup = Switch::Off;
        self.resumable = Switch::Off;
        self.respond_async = Switch::Off;
        self.supersede_header = Header(None);
        self.structured = Switch::Off;
        self.last_good = Switch::Off;
        self.similar.similar = Ratio(None);
        self.breaker = Switch::Off;
        self.pace = Pacing::Off;
        self.pace_requests = RateLimit(None);
        self.pace_tokens = RateLimit(None);
        self.concurrency = Concurrency::Off;
    }
}
