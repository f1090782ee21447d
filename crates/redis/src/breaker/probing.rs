//! How this process requests and returns the lease of a probe.

use std::time::Duration;

use tokio::time::Instant;

use super::owed::ACTIVE;
use super::watched::{ProbeHolder, WatchedCircuit, jittered};
use crate::backend::{BackendError, CircuitBackend, CircuitId, ProbeLease, ProbeVerdict, Process, Token};

/// A request to Redis.
pub(super) enum ProbeStep {
    /// Requests the lease.
    Ask(Token),
    /// Renews the lease: no call has come yet.
    Renew(Token),
    /// Returns the lease: others have calls to probe with.
    GiveBack(Token),
}

/// Redis's reply.
pub(super) enum StepReply {
    Asked(Token, Result<ProbeLease, BackendError>),
    Renewed(Token, Result<ProbeLease, BackendError>),
    GivenBack(Token, Result<bool, BackendError>),
}

/// The lease of a process that waits for a call to probe with. Another one takes it if that process is silent this long.
const WAITING_LEASE: Duration = Duration::from_secs(10);

/// How often that process renews it.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// A process without a call for this long returns the lease if another one has calls.
const NO_CALL: Duration = Duration::from_secs(2);

/// After each return it keeps the lease this many times as long, at most twice. One of several processes with few calls
/// must have it when a call comes.
const LONGER: u32 = 4;
const MOST_LONGER: u32 = 2;

/// How often this process requests the lease while another one probes, or while it has no call.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Redis's clock may be slightly behind: an immediate request would be too early again.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

// === impl ProbeStep ===

impl ProbeStep {
    pub(super) async fn take<B: CircuitBackend>(self, backend: B, id: CircuitId, process: Process) -> StepReply {
        match self {
            Self::Ask(lease) => StepReply::Asked(lease, backend.probe(id, lease, WAITING_LEASE).await),
            Self::Renew(lease) => StepReply::Renewed(lease, backend.probe(id, lease, WAITING_LEASE).await),
            Self::GiveBack(lease) => {
                let given_back = backend.verdict(id, lease, process, ProbeVerdict::GivenBack, ACTIVE).await;
                StepReply::GivenBack(lease, given_back)
            }
        }
    }
}

// === impl Watched ===

impl WatchedCircuit {
    /// What to do for the probe now; `None`: nothing.
    pub(super) fn next_step(&mut self, now: Instant) -> Option<ProbeStep> {
        let is_probing = self.is_probing();
        if let ProbeHolder::Ours { since, renew_at, .. } = &mut self.probe {
            match renew_at {
                Some(_) if is_probing => *renew_at = None,
                // The caller of the probe has left, which changes no state.
                None if !is_probing => (*since, *renew_at) = (now, Some(now)),
                _ => {}
            }
        }
        match self.probe {
            ProbeHolder::Held { ask_at, refused, .. } if ask_at <= now => {
                if refused.is_some_and(|refused| self.refused() <= refused) {
                    self.ask_in(jittered(ASK_EVERY));
                    return None;
                }
                Some(ProbeStep::Ask(self.lease_to_ask_for()))
            }
            ProbeHolder::Ours { lease, is_sure, is_returned, renew_at: Some(at), .. } if at <= now => {
                if is_sure && !is_returned {
                    return Some(ProbeStep::Renew(lease));
                }
                self.give_back(lease, is_sure)
            }
            _ => None,
        }
    }

    /// Returns the lease, unless a call has begun to probe meanwhile: then it keeps it. If that call has also ended, and
    /// the circuit is no longer open, the task is about to learn its result, and reports it with the lease.
    fn give_back(&mut self, lease: Token, is_sure: bool) -> Option<ProbeStep> {
        let ours = std::mem::replace(&mut self.probe, ProbeHolder::None);
        self.hold_until_called(jittered(NO_CALL));
        // From the hold on no further call probes.
        if self.is_probing() || !self.is_open() {
            self.probe = ours;
            if let ProbeHolder::Ours { renew_at, .. } = &mut self.probe {
                *renew_at = None;
            }
            return None;
        }
        if is_sure {
            self.returns += 1;
        } else {
            self.probe = ProbeHolder::None;
        }
        Some(ProbeStep::GiveBack(lease))
    }

    /// Handles the reply to a renewed lease. On failure the next look repeats it.
    pub(super) fn renewed(&mut self, lease: Token, renewed: &Result<ProbeLease, BackendError>) {
        match renewed {
            // Redis had lost the lease, and another process probes or is about to. This one sends no further probe.
            Ok(ProbeLease::Wait(wait) | ProbeLease::Early(wait)) if self.lease() == Some(lease) => {
                self.hold(jittered((*wait).clamp(SHORTEST_WAIT, ASK_EVERY)));
            }
            _ => {}
        }
    }

    pub(super) fn on_step(&mut self, reply: StepReply) {
        // The hold ends now: the next call is the probe. Counts from the reply, which may be late.
        let now = Instant::now();
        let renew_at = Some(now + RENEW_EVERY);
        let ours = |lease, is_sure| ProbeHolder::Ours { lease, since: now, is_sure, is_returned: false, renew_at };
        match reply {
            StepReply::Asked(lease, Ok(ProbeLease::Granted { unanswered, .. })) => {
                self.circuit.note_unanswered(unanswered);
                self.probe = ours(lease, true);
            }
            StepReply::Asked(_, Ok(ProbeLease::Early(wait))) => {
                self.ask_in(jittered(wait.clamp(SHORTEST_WAIT, ASK_EVERY)));
            }
            // Another process probes, or waits for a call. It learns that this one asked, so only a process with calls
            // asks again.
            StepReply::Asked(_, Ok(ProbeLease::Wait(wait))) => {
                let called = self.refused();
                if let ProbeHolder::Held { refused, .. } = &mut self.probe {
                    refused.get_or_insert(called);
                }
                self.ask_in(jittered(wait.clamp(SHORTEST_WAIT, ASK_EVERY)));
            }
            StepReply::Renewed(lease, renewed) => {
                self.renewed(lease, &renewed);
                let patience = NO_CALL * LONGER.pow(self.returns.min(MOST_LONGER));
                if let ProbeHolder::Ours { since, is_returned, renew_at, .. } = &mut self.probe {
                    let wanted = matches!(renewed, Ok(ProbeLease::Granted { is_wanted: true, .. }));
                    *is_returned = wanted && now.saturating_duration_since(*since) >= patience;
                    *renew_at = Some(if *is_returned { now } else { now + RENEW_EVERY });
                }
            }
            // Each process continues alone. This one may still have the lease.
            StepReply::Asked(lease, Err(_)) => self.probe = ours(lease, false),
            StepReply::GivenBack(lease, given_back) => {
                self.verdict_reported(lease, ProbeVerdict::GivenBack, &given_back);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::sync::{Arc, Mutex};

    use http::{Request, Response, StatusCode};
    use tower::{Layer, ServiceExt, service_fn};
    use tower_buttress::{
        CircuitBreakerConfig, CircuitBreakerLayer, CircuitChange, CircuitPeers, CircuitState, PeerCircuit,
    };

    use super::*;

    /// The circuit of a layer.
    #[derive(Clone, Default)]
    struct Peers(Arc<Mutex<Option<PeerCircuit>>>);

    impl CircuitPeers for Peers {
        fn on_new(&self, circuit: PeerCircuit) {
            *self.0.lock().unwrap() = Some(circuit);
        }

        fn on_change(&self, _: PeerCircuit, _: &CircuitChange) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_not_returned_once_a_call_probes_with_it() {
        let peers = Peers::default();
        let layer = CircuitBreakerLayer::with_config(CircuitBreakerConfig::new()).share(peers.clone());
        let service = layer.layer(service_fn(|_: Request<String>| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>(Response::builder().status(StatusCode::BAD_GATEWAY).body(String::new()).unwrap())
        }));
        let call = || service.clone().oneshot(Request::new(String::new()));
        while layer.handle().state() != CircuitState::Open {
            call().await.unwrap();
        }
        let circuit = peers.0.lock().unwrap().clone().unwrap();
        for is_sure in [true, false] {
            tokio::time::sleep(layer.handle().snapshot().open_for.unwrap()).await;
            let mut watched = WatchedCircuit::new(circuit.clone());
            let lease = Token::random();
            let (since, renew_at) = (Instant::now(), Some(Instant::now()));
            watched.probe = ProbeHolder::Ours { lease, since, is_sure, is_returned: true, renew_at };
            let probe = tokio::spawn(call());
            // The call comes after the task has looked for one, and before it holds the circuit.
            tokio::task::yield_now().await;
            assert!(watched.give_back(lease, is_sure).is_none(), "a call probes");
            assert_eq!(watched.lease(), Some(lease));
            assert!(watched.due() > Instant::now(), "it is not due while the call probes");
            probe.await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_not_returned_while_the_success_of_its_probe_is_not_reported() {
        let (peers, is_well) = (Peers::default(), Arc::new(AtomicBool::new(false)));
        let layer = CircuitBreakerLayer::with_config(CircuitBreakerConfig::new()).share(peers.clone());
        let upstream = is_well.clone();
        let service = layer.layer(service_fn(move |_: Request<String>| {
            let status = if upstream.load(SeqCst) { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
            async move { Ok::<_, Infallible>(Response::builder().status(status).body(String::new()).unwrap()) }
        }));
        let call = || service.clone().oneshot(Request::new(String::new()));
        while layer.handle().state() != CircuitState::Open {
            call().await.unwrap();
        }
        let mut watched = WatchedCircuit::new(peers.0.lock().unwrap().clone().unwrap());
        tokio::time::sleep(layer.handle().snapshot().open_for.unwrap()).await;
        let (lease, now) = (Token::random(), Instant::now());
        watched.probe = ProbeHolder::Ours { lease, since: now, is_sure: true, is_returned: true, renew_at: Some(now) };
        is_well.store(true, SeqCst);
        let answer = call().await.unwrap();
        drop(answer);
        assert_eq!(layer.handle().state(), CircuitState::Closed);
        assert!(watched.give_back(lease, true).is_none(), "the others learn of the success by this lease");
        assert_eq!(watched.lease(), Some(lease));
    }
}
