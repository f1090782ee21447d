//! What a call has left when it begins, and what of that goes on.

use std::time::{Duration, Instant};

use http::Request;

use super::layer::{Config, DeadlineLayer};
use crate::event::Event;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::rt::deadline::{Deadline, PropagatedHeaders, SharedDeadline};

/// What a call may do with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Budget {
    /// It has no deadline.
    Unlimited,
    /// It must be over by `deadline`, of which `total` is left now.
    Until { deadline: Deadline, total: Duration },
    /// Too little is left to begin.
    Spent,
}

// === impl Budget ===

impl Budget {
    /// Finds the earliest deadline of `request`, and writes it where the services inside will look.
    pub(super) fn of<B>(request: &mut Request<B>, config: &Config, now: Instant) -> Self {
        let Some(deadline) = earliest(request, config, now) else { return Self::Unlimited };
        let total = deadline.remaining(now);
        let left = total.saturating_sub(config.reserve);
        if left.is_zero() || left < config.minimum {
            return Self::Spent;
        }
        if let Some(headers) = &config.propagate {
            let mut least = config.minimum;
            for header in headers.iter() {
                if !header.write(left, request.headers_mut()) {
                    return Self::Spent;
                }
                least = least.max(header.least());
            }
            let least = least.saturating_add(config.reserve);
            let written = PropagatedHeaders { headers: headers.clone(), reserve: config.reserve, least };
            request.extensions_mut().insert(written);
        }
        // Those who share the call may have longer: not what is inside.
        request.extensions_mut().remove::<SharedDeadline>();
        request.extensions_mut().insert(deadline);
        Self::Until { deadline, total }
    }
}

fn earliest<B>(request: &Request<B>, config: &Config, now: Instant) -> Option<Deadline> {
    let extensions = request.extensions();
    let total = extensions.get().map_or(config.total, |profile: &TimeoutProfile| profile.total);
    let ours = now.checked_add(total).map(Deadline::at);
    let given = Deadline::of(extensions);
    let mut earliest = [ours, given, Deadline::current()].into_iter().flatten().min();
    for header in config.accept.iter().flat_map(|headers| headers.iter()) {
        let theirs = match header.read(request.headers()) {
            Ok(None) => continue,
            Ok(Some(left)) => now.checked_add(left).map(Deadline::at),
            Err(_) => None,
        };
        match theirs {
            Some(theirs) => earliest = Some(earliest.map_or(theirs, |deadline| deadline.min(theirs))),
            None => {
                let reason = "a deadline header that is malformed, or longer than any clock can count, is ignored";
                config.emitter.emit(&Event::Bypassed { layer: DeadlineLayer::NAME, reason });
            }
        }
    }
    earliest
}
