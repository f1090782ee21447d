//! Builds each layer from the options.

use std::sync::Arc;
use std::time::Duration;

use tower_buttress::{
    ConnectTimeoutLayer, DeadlineHeader, DeadlineLayer, DedupLayer, FirstByteEvent, FirstByteTimeoutLayer,
    HeartbeatFrame, IdleActivity, IdleBodyTimeoutLayer, LastGoodLayer, MissingEnd, Observer, RetryAfterBackoffLayer,
    SseHeartbeatLayer, StreamGuardLayer, StructuredOutputLayer, SupersedeLayer, SupersedeMode, Tenant,
};

use super::account::{account, named_by};
use super::args::{Args, Ends, Heartbeat, LayerArgs, NoticesArg, SupersedeArg, Switch};
use super::load::Loads;
use super::notices;
use super::state::{RouteState, States};

/// How many messages of one conversation may wait.
const ENQUEUED: u32 = 16;

pub(crate) fn retry(args: &LayerArgs) -> RetryAfterBackoffLayer {
    RetryAfterBackoffLayer::llm()
        .attempts(args.attempts.get())
        .backoff_base(args.backoff_base.0.unwrap_or_default())
        .backoff_cap(args.backoff_cap.0.unwrap_or(Duration::MAX))
        .max_retry_after(args.max_retry_after.0.unwrap_or(Duration::MAX))
        .retry_non_idempotent(args.retry_non_idempotent)
        // With a generated key the retry layer would repeat requests, which the operator excluded. The upstream may
        // not know the key.
        .generate_idempotency_key(args.retry_non_idempotent)
}

pub(crate) fn heartbeat(args: &LayerArgs, observer: &Arc<dyn Observer>) -> SseHeartbeatLayer {
    if args.heartbeat.0.is_none() && args.heartbeat_max_silence.0.is_none() && !args.error_events {
        return SseHeartbeatLayer::disabled();
    }
    // The layer also sends error events and limits the silence, without heartbeats.
    let mut layer = SseHeartbeatLayer::new(args.heartbeat.0.unwrap_or(Duration::MAX))
        .frame(match args.heartbeat_frame {
            Heartbeat::ByDialect => HeartbeatFrame::ByDialect,
            Heartbeat::Comment => HeartbeatFrame::Comment,
            Heartbeat::CommentNoBlank => HeartbeatFrame::CommentNoBlank,
            Heartbeat::Newline => HeartbeatFrame::BareNewline,
        })
        .error_events(args.error_events)
        .respond_async(args.respond_async == Switch::On)
        .mark_exhausted(args.attempts.get() > 1)
        .observer(observer.clone());
    if let Some(limit) = args.heartbeat_max_silence.0 {
        layer = layer.max_silence(limit);
    }
    let when = args.notices;
    if when != NoticesArg::Off {
        layer = layer.notices(move |notice, headers| notices::text(when, notice, headers));
    }
    layer.before_headers(args.begin_early().unwrap_or(Duration::MAX))
}

pub(crate) fn supersede(args: &LayerArgs, state: &mut RouteState) -> SupersedeLayer {
    let layer = state.conversations(args);
    layer.settle(args.supersede_settle.0.unwrap_or_default()).mode(match args.supersede {
        SupersedeArg::Interrupt => SupersedeMode::Interrupt,
        SupersedeArg::Reject => SupersedeMode::Reject,
        SupersedeArg::Enqueue => SupersedeMode::enqueue(ENQUEUED),
    })
}

pub(crate) fn structured(args: &LayerArgs) -> StructuredOutputLayer {
    if args.structured == Switch::Off {
        return StructuredOutputLayer::disabled();
    }
    let layer = StructuredOutputLayer::new().max_reasks(args.structured_reasks);
    match args.hold.0 {
        Some(bytes) => layer.hold_streams(bytes),
        None => layer,
    }
}

pub(crate) fn last_good(args: &LayerArgs, kept: &LastGoodLayer) -> LastGoodLayer {
    if args.last_good == Switch::Off {
        return LastGoodLayer::disabled();
    }
    let layer = kept.clone().ttl(args.last_good_ttl);
    let layer = match args.dedup_tenant_header.clone() {
        Some(header) => layer.tenant(named_by(header)),
        None => layer,
    };
    let Some(texts) = args.last_good_template.clone() else { return layer };
    layer.template(move |request| texts.text(request.model().as_deref()).map(str::to_owned))
}

pub(crate) fn deadline(args: &LayerArgs, limit: Option<Duration>) -> DeadlineLayer {
    let Some(header) = args.deadline_header.0.clone().map(DeadlineHeader::millis) else {
        return limit.map_or_else(DeadlineLayer::disabled, DeadlineLayer::new);
    };
    // Without a limit of the gateway, the callers' deadlines still hold.
    DeadlineLayer::new(limit.unwrap_or(Duration::MAX))
        .accept(header.clone())
        .propagate(header)
        .reserve(args.deadline_reserve.0.unwrap_or_default())
}

pub(crate) fn dedup(Args { layers: args, callers, .. }: &Args, states: &mut States, loads: &Loads) -> DedupLayer {
    if args.dedup == Switch::Off {
        return DedupLayer::disabled();
    }
    let layer = states.dedup(args, loads);
    let layer = layer.window(args.dedup_window.0.unwrap_or_default()).grace(args.dedup_grace.0.unwrap_or_default());
    match args.dedup_tenant_header.clone() {
        Some(header) => layer.tenant(named_by(header)),
        // A caller that comes back without a key belongs to no account.
        None if callers.keys().is_some() => layer.tenant(|head| {
            let has_tenant = head.extensions.get::<Tenant>().is_some();
            has_tenant.then(|| account(head, Vec::new()))
        }),
        None => layer,
    }
}

/// The heartbeat layer outside reports what the guard finds to the caller, if no layer between could recover.
pub(crate) fn guard(args: &LayerArgs, known: StreamGuardLayer) -> StreamGuardLayer {
    let layer = known
        .enabled(args.guard == Switch::On)
        .missing_end(match args.missing_end {
            Ends::Auto => MissingEnd::Auto,
            Ends::Error => MissingEnd::Error,
            Ends::Allow => MissingEnd::Allow,
        })
        .first_content(args.first_content_timeout.0);
    match args.hold.0 {
        Some(bytes) => layer.hold(bytes),
        None => layer,
    }
}

/// An upstream that sends only keep-alive comments counts as silent, here and below.
pub(crate) fn idle(args: &LayerArgs) -> IdleBodyTimeoutLayer {
    let layer = args.idle_timeout.0.map_or_else(IdleBodyTimeoutLayer::disabled, IdleBodyTimeoutLayer::new);
    layer.activity(IdleActivity::SseEvents)
}

pub(crate) fn first_byte(args: &LayerArgs) -> FirstByteTimeoutLayer {
    let layer = args.first_byte_timeout.0.map_or_else(FirstByteTimeoutLayer::disabled, FirstByteTimeoutLayer::new);
    let layer = layer.until(FirstByteEvent::SseEvent);
    match (args.first_byte_timeout.0, args.answer_timeout.0) {
        (Some(_), limit) => layer.answer(limit.unwrap_or(Duration::MAX)),
        (None, Some(limit)) => FirstByteTimeoutLayer::new(Duration::MAX).until(FirstByteEvent::SseEvent).answer(limit),
        (None, None) => layer,
    }
}

pub(crate) fn connect(args: &LayerArgs) -> ConnectTimeoutLayer {
    args.connect_timeout.0.map_or_else(ConnectTimeoutLayer::disabled, ConnectTimeoutLayer::new)
}
