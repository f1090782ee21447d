//! The remaining time of a call at its start, and the part that is passed on.

use std::time::{Duration, Instant};

use http::{Extensions, HeaderMap, Request};

use super::config::{Config, NAME};
use crate::event::Event;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::rejection::RejectionKind;
use crate::rt::deadline::{CallDeadline, Deadline, PropagatedHeaders};

/// The remaining time of a call.
#[derive(Debug)]
pub(super) enum RemainingTime {
    /// It has no deadline.
    Unlimited,
    /// It must end by `deadline`; `total` remains now.
    Until { deadline: CallDeadline, total: Duration },
    /// Too little time is left to start.
    Spent,
}

// === impl RemainingTime ===

impl RemainingTime {
    /// Finds the earliest deadline of `request`, and writes it for the services inside. An accepted header of the caller
    /// is removed: it was meant for this layer.
    pub(super) fn of<B>(request: &mut Request<B>, config: &Config, now: Instant) -> Self {
        let said = take_said(request.headers_mut(), config, now);
        let Some(deadline) = earliest(request.extensions(), said, config, now) else { return Self::Unlimited };
        // A shared call may have lost its deadline meanwhile: then this caller notices first.
        let Some(until) = deadline.get() else { return Self::Unlimited };
        let total = until.remaining_at(now);
        let left = total.saturating_sub(config.reserve);
        if left.is_zero() || left < config.minimum {
            return Self::spent(config);
        }
        let mut least = config.minimum;
        for header in config.propagated() {
            if !header.write(left, request.headers_mut()) {
                return Self::spent(config);
            }
            least = least.max(header.least());
        }
        let extensions = request.extensions_mut();
        if let Some(headers) = &config.propagate {
            deadline.note_propagated(left);
            let min_remaining = least.saturating_add(config.reserve);
            extensions.insert(PropagatedHeaders { headers: headers.hold(), reserve: config.reserve, min_remaining });
        }
        deadline.write(until, extensions);
        Self::Until { deadline, total }
    }

    #[cold]
    fn spent(config: &Config) -> Self {
        config.observers.emitter().emit(&Event::Refused { kind: RejectionKind::DeadlineExceeded });
        Self::Spent
    }
}

/// Reads the accepted headers, and removes them.
fn take_said(headers: &mut HeaderMap, config: &Config, now: Instant) -> Option<Deadline> {
    let mut earliest: Option<Deadline> = None;
    for header in config.accepted() {
        let said = match header.read(headers) {
            Ok(None) => None,
            Ok(Some(left)) => now.checked_add(left).map(Deadline::at).ok_or(()).map_or_else(|()| ignored(config), Some),
            Err(_) => ignored(config),
        };
        headers.remove(header.name());
        earliest = earliest.into_iter().chain(said).min();
    }
    earliest
}

#[cold]
fn ignored(config: &Config) -> Option<Deadline> {
    let reason = "a deadline header is malformed or too long, and ignored";
    config.observers.emitter().emit(&Event::Bypassed { layer: NAME, reason });
    None
}

fn earliest(extensions: &Extensions, said: Option<Deadline>, config: &Config, now: Instant) -> Option<CallDeadline> {
    let total = extensions.get().map_or(config.total, |profile: &TimeoutProfile| profile.total);
    let ours = now.checked_add(total).map(Deadline::at);
    CallDeadline::earliest(extensions, [ours, said].into_iter().flatten().min())
}
