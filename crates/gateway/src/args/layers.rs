//! Options of the layers.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::ArgAction::Set;
use http::HeaderName;

use super::Misfit;
use super::headings::{ATTEMPTS, BREAKER, CONVERSATIONS, DEDUP, LAST_GOOD, LOAD, STREAMS, STRUCTURED, TIME};
use super::similar::{Ratio, SimilarArgs};
use super::templates::TemplateArgs;
use super::values::{
    ConcurrencyArg, Ends, Header, Heartbeat, NoticesArg, Pacing, Profile, RateLimit, Resuming, SizeArg, SupersedeArg,
    Switch, TimeLimit, time,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LayerArgs {
    /// Set the time limits for a class of models.
    ///
    /// First byte, whole answer, silence, deadline: `fast` 10s, 18s, 15s, 30s; `standard` 20s, 50s, 15s, 90s; `deep`
    /// 45s, 110s, 15s, 180s; `extended-thinking` 90s, 200s, 180s, 300s. The options for single limits win over the
    /// profile.
    #[arg(long, env = "GATEWAY_PROFILE", value_name = "CLASS", help_heading = TIME)]
    pub(crate) profile: Option<Profile>,

    /// Limit the time to connect to the upstream.
    #[arg(long, env = "GATEWAY_CONNECT_TIMEOUT", value_name = "TIME|off", default_value = "5s", help_heading = TIME)]
    pub(crate) connect_timeout: TimeLimit,

    /// Limit the wait for the first byte of an answer.
    ///
    /// Starts when the upstream has the whole request. Ends at the first byte of the answer's body; in an event stream,
    /// at the first event that is not a comment.
    #[arg(
        long, env = "GATEWAY_FIRST_BYTE_TIMEOUT", value_name = "TIME|off", default_value = "30s", help_heading = TIME
    )]
    pub(crate) first_byte_timeout: TimeLimit,

    /// Limit the wait for an answer that is not a stream.
    ///
    /// Such an answer arrives whole when the model has finished. Holds for each attempt, in place of
    /// --first-byte-timeout.
    #[arg(long, env = "GATEWAY_ANSWER_TIMEOUT", value_name = "TIME|off", default_value = "110s", help_heading = TIME)]
    pub(crate) answer_timeout: TimeLimit,

    /// Limit the wait for a stream's first content.
    ///
    /// Starts when the stream begins. Content is text, reasoning or a tool call.
    #[arg(
        long, env = "GATEWAY_FIRST_CONTENT_TIMEOUT", value_name = "TIME|off", default_value = "90s", help_heading = TIME
    )]
    pub(crate) first_content_timeout: TimeLimit,

    /// Limit the upstream's silence within an answer.
    ///
    /// In an event stream, comments count as silence.
    #[arg(long, env = "GATEWAY_IDLE_TIMEOUT", value_name = "TIME|off", default_value = "15s", help_heading = TIME)]
    pub(crate) idle_timeout: TimeLimit,

    /// Limit the total time of a call, its answer included.
    #[arg(long, env = "GATEWAY_DEADLINE", value_name = "TIME|off", default_value = "180s", help_heading = TIME)]
    pub(crate) deadline: TimeLimit,

    /// Read the caller's remaining milliseconds from this header.
    ///
    /// The upstream gets the time that is left in the same header.
    #[arg(
        long, env = "GATEWAY_DEADLINE_HEADER", value_name = "NAME|off", default_value = "x-deadline-ms",
        help_heading = TIME
    )]
    pub(crate) deadline_header: Header,

    /// Subtract this time from the deadline sent upstream.
    #[arg(long, env = "GATEWAY_DEADLINE_RESERVE", value_name = "TIME|off", default_value = "50ms", help_heading = TIME)]
    pub(crate) deadline_reserve: TimeLimit,

    /// Limit the attempts per call, including the first.
    #[arg(long, env = "GATEWAY_ATTEMPTS", value_name = "N", default_value = "3", help_heading = ATTEMPTS)]
    pub(crate) attempts: NonZeroU32,

    /// Limit the wait before the second attempt.
    ///
    /// The limit doubles for each further attempt, up to --backoff-cap.
    #[arg(long, env = "GATEWAY_BACKOFF_BASE", value_name = "TIME|off", default_value = "500ms", help_heading = ATTEMPTS)]
    pub(crate) backoff_base: TimeLimit,

    /// Limit the wait between two attempts.
    ///
    /// An upstream may ask for a longer wait, up to --max-retry-after.
    #[arg(long, env = "GATEWAY_BACKOFF_CAP", value_name = "TIME|off", default_value = "20s", help_heading = ATTEMPTS)]
    pub(crate) backoff_cap: TimeLimit,

    /// Limit the wait that an upstream may ask for.
    ///
    /// An answer that asks for a longer wait goes to the caller at once.
    #[arg(
        long, env = "GATEWAY_MAX_RETRY_AFTER", value_name = "TIME|off", default_value = "60s", help_heading = ATTEMPTS
    )]
    pub(crate) max_retry_after: TimeLimit,

    /// Retry a POST without an idempotency key even if it may have run.
    ///
    /// Its upstream requests carry a generated `Idempotency-Key`.
    #[arg(
        long, env = "GATEWAY_RETRY_NON_IDEMPOTENT", value_name = "BOOL", default_value = "true", action = Set,
        help_heading = ATTEMPTS
    )]
    pub(crate) retry_non_idempotent: bool,

    /// Check model answers for early ends and errors inside a 200.
    ///
    /// Such an answer is retried; once the stream has begun, it ends with an error.
    #[arg(long, env = "GATEWAY_GUARD", value_name = "on|off", default_value = "on", help_heading = STREAMS)]
    pub(crate) guard: Switch,

    /// Choose how to treat a stream that ends without a reason.
    ///
    /// The reason is `finish_reason` or the API's equivalent. `auto`: whole if the stream has a closing marker and this
    /// model has never sent a reason; `error`: cut off; `allow`: whole.
    #[arg(long, env = "GATEWAY_MISSING_END", value_name = "HOW", default_value = "auto", help_heading = STREAMS)]
    pub(crate) missing_end: Ends,

    /// Buffer answers up to this size and pass on only whole ones.
    ///
    /// For example `256KiB`. A fault anywhere in the answer can then be retried. A longer answer gets 502.
    #[arg(long, env = "GATEWAY_HOLD", value_name = "BYTES|off", default_value = "off", help_heading = STREAMS)]
    pub(crate) hold: SizeArg,

    /// Choose how to continue a stream that breaks.
    ///
    /// `cursor`: from the position that the server reports, where the server keeps the answer (OpenAI's Responses in
    /// background mode, llama.cpp, events with an `id`). `verified`: also by sending the request again where there is
    /// no cursor; this is billed again, and continues only if the new answer begins like the first.
    #[arg(long, env = "GATEWAY_RESUME", value_name = "HOW", default_value = "cursor", help_heading = STREAMS)]
    pub(crate) resume: Resuming,

    /// Send a heartbeat after this silence in an event stream.
    ///
    /// Heartbeats keep proxies from closing the connection.
    #[arg(long, env = "GATEWAY_HEARTBEAT", value_name = "TIME|off", default_value = "15s", help_heading = STREAMS)]
    pub(crate) heartbeat: TimeLimit,

    /// Choose the form of heartbeats.
    ///
    /// `by-dialect`: the form that clients of the request's API accept; for an unknown API, none before the head. The
    /// other forms apply to every request.
    #[arg(
        long, env = "GATEWAY_HEARTBEAT_FRAME", value_name = "FRAME", default_value = "by-dialect",
        help_heading = STREAMS
    )]
    pub(crate) heartbeat_frame: Heartbeat,

    /// Begin a requested event stream after this wait for an answer.
    ///
    /// The stream starts with status 200 and heartbeats. A later error becomes an event of the stream.
    #[arg(
        long, env = "GATEWAY_HEARTBEAT_BEFORE_HEADERS", value_name = "TIME|off", default_value = "15s",
        help_heading = STREAMS
    )]
    pub(crate) heartbeat_before_headers: TimeLimit,

    /// Limit the upstream's silence while the gateway sends heartbeats.
    #[arg(
        long, env = "GATEWAY_HEARTBEAT_MAX_SILENCE", value_name = "TIME|off", default_value = "off",
        help_heading = STREAMS
    )]
    pub(crate) heartbeat_max_silence: TimeLimit,

    /// End an event stream that breaks with an error event.
    #[arg(
        long, env = "GATEWAY_ERROR_EVENTS", value_name = "BOOL", default_value = "true", action = Set,
        help_heading = STREAMS
    )]
    pub(crate) error_events: bool,

    /// Tell the caller of a stream why it waits.
    ///
    /// The reason may be a retry, a fallback, a queue, a rate limit or a broken stream. `header`: only callers that send
    /// `x-notices: on`.
    #[arg(long, env = "GATEWAY_NOTICES", value_name = "WHEN", default_value = "off", help_heading = STREAMS)]
    pub(crate) notices: NoticesArg,

    /// Share one upstream call among equal requests.
    ///
    /// A duplicate request gets the answer of the first. `Cache-Control: no-cache` asks for another one. Requests without a
    /// credential are never shared.
    #[arg(long, env = "GATEWAY_DEDUP", value_name = "on|off", default_value = "on", help_heading = DEDUP)]
    pub(crate) dedup: Switch,

    /// Replay answers to repeated `Idempotency-Key`s for this long.
    ///
    /// Requests without a key get a replay for at most 2 s.
    #[arg(long, env = "GATEWAY_DEDUP_WINDOW", value_name = "TIME|off", default_value = "60s", help_heading = DEDUP)]
    pub(crate) dedup_window: TimeLimit,

    /// Tell tenants apart by this header, in addition to credentials.
    ///
    /// Needed where users share a credential and a header names the user. Applies to duplicate requests, last good answers
    /// (--last-good) and conversations (--supersede-header). A request without the header shares nothing.
    #[arg(long, env = "GATEWAY_DEDUP_TENANT_HEADER", value_name = "NAME", help_heading = DEDUP)]
    pub(crate) dedup_tenant_header: Option<HeaderName>,

    /// Continue an upstream call this long after its last caller has left.
    #[arg(long, env = "GATEWAY_DEDUP_GRACE", value_name = "TIME|off", default_value = "5s", help_heading = DEDUP)]
    pub(crate) dedup_grace: TimeLimit,

    /// Let callers that lost the connection come back to their answers.
    ///
    /// The answer to a streaming request with an `Idempotency-Key` names its URL in `Content-Location`
    /// (`/-/answers/<token>`). The call continues when its caller leaves. Anyone with the URL can read the answer.
    #[arg(long, env = "GATEWAY_RESUMABLE", value_name = "on|off", default_value = "off", help_heading = DEDUP)]
    pub(crate) resumable: Switch,

    /// Continue a call without callers, and keep its answer, this long.
    ///
    /// The answer stays readable for this time after its end. At most 8 calls per tenant continue without callers, and
    /// in total a quarter of the places of --concurrency, at least one.
    #[arg(
        long, env = "GATEWAY_RESUME_WINDOW", value_name = "TIME", default_value = "5m", value_parser = time,
        help_heading = DEDUP
    )]
    pub(crate) resume_window: Duration,

    /// Accept `Prefer: respond-async, wait=10`.
    ///
    /// A request that has no answer after this wait gets 202 with the URL of the later answer.
    #[arg(long, env = "GATEWAY_RESPOND_ASYNC", value_name = "on|off", default_value = "off", help_heading = DEDUP)]
    pub(crate) respond_async: Switch,

    /// Read the conversation of a request from this header.
    ///
    /// A newer message of a conversation then supersedes the older one.
    #[arg(
        long, env = "GATEWAY_SUPERSEDE_HEADER", value_name = "NAME|off", default_value = "off",
        help_heading = CONVERSATIONS
    )]
    pub(crate) supersede_header: Header,

    /// Choose what a newer message of a conversation does.
    ///
    /// `interrupt`: it ends the older call (410). `reject`: it is refused (409). `enqueue`: it waits for the older
    /// call.
    #[arg(
        long, env = "GATEWAY_SUPERSEDE", value_name = "HOW", default_value = "interrupt", help_heading = CONVERSATIONS
    )]
    pub(crate) supersede: SupersedeArg,

    /// Hold each message this long in case a newer one arrives.
    #[arg(
        long, env = "GATEWAY_SUPERSEDE_SETTLE", value_name = "TIME|off", default_value = "off",
        help_heading = CONVERSATIONS
    )]
    pub(crate) supersede_settle: TimeLimit,

    /// Validate JSON answers against the schema of the request.
    ///
    /// Applies to requests for JSON (`response_format` or its equivalent); to streams only with --hold. The gateway
    /// extracts a JSON value from prose or a code fence. Without a valid value it asks the model again, then a
    /// fallback. An answer that stays invalid has `x-gateway-output: invalid`.
    #[arg(long, env = "GATEWAY_STRUCTURED", value_name = "on|off", default_value = "off", help_heading = STRUCTURED)]
    pub(crate) structured: Switch,

    /// Ask the model again for valid JSON up to this often: 0, 1 or 2.
    ///
    /// Each new request names the errors, and is billed.
    #[arg(
        long, env = "GATEWAY_STRUCTURED_REASKS", value_name = "N", default_value = "2",
        value_parser = clap::value_parser!(u32).range(0..=2), help_heading = STRUCTURED
    )]
    pub(crate) structured_reasks: u32,

    /// Return the last whole answer when no upstream answers.
    ///
    /// The answer belongs to the same request and is marked as stale.
    #[arg(long, env = "GATEWAY_LAST_GOOD", value_name = "on|off", default_value = "off", help_heading = LAST_GOOD)]
    pub(crate) last_good: Switch,

    /// Limit the age of last good answers.
    #[arg(
        long, env = "GATEWAY_LAST_GOOD_TTL", value_name = "TIME", default_value = "1h", value_parser = time,
        help_heading = LAST_GOOD
    )]
    pub(crate) last_good_ttl: Duration,

    /// Answer with a text of this file when no last good answer exists.
    ///
    /// A JSON object from the requested model to the text; `"*"` is any model.
    #[arg(long, env = "GATEWAY_LAST_GOOD_TEMPLATE", value_name = "FILE", help_heading = LAST_GOOD)]
    pub(crate) last_good_template: Option<TemplateArgs>,

    #[command(flatten)]
    pub(crate) similar: SimilarArgs,

    /// Stop calls to an upstream that keeps failing.
    ///
    /// Calls fail at once, or go to the fallback.
    #[arg(long, env = "GATEWAY_BREAKER", value_name = "on|off", default_value = "on", help_heading = BREAKER)]
    pub(crate) breaker: Switch,

    /// Open the circuit at this ratio of failed calls in the window.
    #[arg(
        long, env = "GATEWAY_BREAKER_FAILURE_RATIO", value_name = "RATIO", default_value = "0.7",
        help_heading = BREAKER
    )]
    pub(crate) breaker_failure_ratio: f64,

    /// Ignore the failure ratio below this number of calls in the window.
    #[arg(long, env = "GATEWAY_BREAKER_MIN_CALLS", value_name = "N", default_value = "20", help_heading = BREAKER)]
    pub(crate) breaker_min_calls: NonZeroU32,

    /// Count calls over this time.
    #[arg(
        long, env = "GATEWAY_BREAKER_WINDOW", value_name = "TIME", default_value = "60s", value_parser = time,
        help_heading = BREAKER
    )]
    pub(crate) breaker_window: Duration,

    /// Open the circuit after this many consecutive failures.
    ///
    /// Only without a success or stream data in the last 5 s. Three times as many failures, over at least 5 s, open it in
    /// any case.
    #[arg(long, env = "GATEWAY_BREAKER_CONSECUTIVE", value_name = "N", default_value = "5", help_heading = BREAKER)]
    pub(crate) breaker_consecutive: NonZeroU32,

    /// Keep the circuit open this long before one call probes.
    ///
    /// The time doubles with each probe that gets no answer.
    #[arg(
        long, env = "GATEWAY_BREAKER_OPEN", value_name = "TIME", default_value = "5s", value_parser = time,
        help_heading = BREAKER
    )]
    pub(crate) breaker_open: Duration,

    /// Limit the time between two probes.
    #[arg(
        long, env = "GATEWAY_BREAKER_OPEN_MAX", value_name = "TIME", default_value = "15s", value_parser = time,
        help_heading = BREAKER
    )]
    pub(crate) breaker_open_max: Duration,

    /// Choose what a 429 means for other calls.
    ///
    /// `pause`: calls with the same credential for the same model (with --pace-requests or --pace-tokens, for any model)
    /// wait as long as the upstream asks, at most 60 s. `learn`: as `pause`, and the gateway learns rates from the headers
    /// of answers. `off`: nothing; the call itself is still retried.
    #[arg(long, env = "GATEWAY_PACE", value_name = "HOW", default_value = "pause", help_heading = LOAD)]
    pub(crate) pace: Pacing,

    /// Limit the requests per upstream and credential, as `500/1m`.
    ///
    /// Requests beyond the limit wait for up to 30 s.
    #[arg(
        long, env = "GATEWAY_PACE_REQUESTS", value_name = "N/TIME|off", default_value = "off", help_heading = LOAD
    )]
    pub(crate) pace_requests: RateLimit,

    /// Limit the tokens per upstream and credential, as `80000/1m`.
    ///
    /// Counts the tokens of prompts and answers.
    #[arg(long, env = "GATEWAY_PACE_TOKENS", value_name = "N/TIME|off", default_value = "off", help_heading = LOAD)]
    pub(crate) pace_tokens: RateLimit,

    /// Limit the concurrent calls to an upstream.
    ///
    /// A call counts until its answer ends. While others wait, calls whose callers do not read may exceed the limit.
    /// `auto`: the gateway finds the limit from the upstream's behaviour.
    #[arg(long, env = "GATEWAY_CONCURRENCY", value_name = "N|auto|off", default_value = "off", help_heading = LOAD)]
    pub(crate) concurrency: ConcurrencyArg,

    /// Limit the calls that wait for a place of --concurrency.
    ///
    /// Calls beyond the limit get 503.
    #[arg(long, env = "GATEWAY_QUEUE", value_name = "N", default_value = "1024", help_heading = LOAD)]
    pub(crate) queue: u32,

    /// Limit the wait for a place of --concurrency.
    #[arg(
        long, env = "GATEWAY_QUEUE_WAIT", value_name = "TIME", default_value = "30s", value_parser = time,
        help_heading = LOAD
    )]
    pub(crate) queue_wait: Duration,
}

// === impl LayerArgs ===

impl LayerArgs {
    /// How long a stream waits for an answer before it begins; `None`: it never begins without one.
    pub(crate) fn begin_early(&self) -> Option<Duration> {
        self.heartbeat.0.and(self.heartbeat_before_headers.0)
    }

    /// Refuses options that contradict each other.
    pub(super) fn check(&self) -> Result<(), Misfit> {
        if self.guard == Switch::Off && self.hold.0.is_some() {
            return Err(Misfit::new(&["hold", "guard"], "--hold needs --guard on"));
        }
        if self.dedup == Switch::Off && self.resumable == Switch::On {
            return Err(Misfit::new(&["resumable", "dedup"], "--resumable needs --dedup on"));
        }
        if self.resumable == Switch::Off && self.respond_async == Switch::On {
            let keys = ["respond_async", "resumable"];
            return Err(Misfit::new(&keys, "--respond-async needs --resumable on"));
        }
        if self.last_good == Switch::Off && self.last_good_template.is_some() {
            let keys = ["last_good_template", "last_good"];
            return Err(Misfit::new(&keys, "--last-good-template needs --last-good on"));
        }
        self.similar.check(self.last_good == Switch::On)?;
        if self.supersede_header.0.is_none() && self.supersede_settle.0.is_some() {
            let keys = ["supersede_settle", "supersede_header"];
            let wrong = "--supersede-settle needs --supersede-header NAME";
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

    /// Refuses limits under which a call that hangs never reaches its fallback.
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

    /// Switches off everything except the deadline.
    pub(super) fn make_plain(&mut self) {
        let off = TimeLimit(None);
        self.connect_timeout = off;
        self.first_byte_timeout = off;
        self.answer_timeout = off;
        self.first_content_timeout = off;
        self.idle_timeout = off;
        self.attempts = NonZeroU32::MIN;
        self.guard = Switch::Off;
        self.hold = SizeArg(None);
        self.resume = Resuming::Off;
        self.notices = NoticesArg::Off;
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
        self.concurrency = ConcurrencyArg::Off;
    }
}
