use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use http::header::HOST;
use http::uri::Authority;
use http_body::Body;

use super::breaker_set::{BreakerSet, NewModel};
use super::circuit::Circuit;
use super::classification::of_error;
use super::config::{KeyBy, ServiceConfig};
use super::permit::BreakerPermit;
use crate::admission::{Admission, Admit, Wait, with_head};
use crate::call::Model;
use crate::event::Event;
use crate::policy::verdict::Classifier;
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::clock;
use crate::rt::per_thread::PerThread;

/// The state that the services of one layer share.
#[derive(Clone, Debug)]
pub struct BreakerGate(pub(super) PerThread<Shared>);

#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) set: Arc<BreakerSet>,
    pub(super) calls: ServiceConfig,
}

/// A breaker never makes a call wait. This type has no values.
#[derive(Debug)]
pub enum NoWait {}

// === impl BreakerGate ===

impl Admit for BreakerGate {
    type Permit = BreakerPermit;
    type Wait = NoWait;

    /// With keys, the circuit is known only with the request. If no call passes, or only a probe, other calls must not
    /// wait for the service.
    #[inline]
    fn is_open(&self) -> bool {
        self.0.only().is_some_and(Circuit::passes)
    }

    fn not_ready(&self, err: &(dyn Error + 'static)) {
        if let Some(circuit) = self.0.only() {
            circuit.record_readiness_error(|| of_error(&self.0.calls.classifier, err));
        }
    }

    #[inline]
    fn admit<B>(&self, request: &mut Request<B>) -> Admission<BreakerPermit, NoWait>
    where
        B: Body + 'static,
    {
        let Shared { set, calls } = &*self.0;
        let mut learns = None;
        let admission = match &calls.key {
            None => set.unkeyed().admit(clock::now),
            Some(KeyBy::By(find)) => with_head(request, |head| set.admit(find(head).as_deref())),
            Some(KeyBy::HostAndModel) => {
                let (host, model) = (host(request), Model::of(request));
                let (key, unknown) = host.map_or((None, false), |host| set.model_key(host, model));
                if let (Some(host), Some(model), true) = (host, model, unknown) {
                    learns = Some(Box::new(NewModel { set: set.clone(), host: host.into(), model: model.into() }));
                }
                set.admit(key.as_deref())
            }
        };
        match admission {
            Ok(permit) => {
                Admission::Pass(BreakerPermit::new(permit, Classifier::clone(&calls.classifier), request, learns))
            }
            Err(retry_after) => {
                calls.emitter.emit(&Event::Refused { kind: RejectionKind::CircuitOpen });
                let rejection = Rejection::new(RejectionKind::CircuitOpen);
                let rejection = match retry_after {
                    Some(wait) => rejection.with_retry_after(wait),
                    None => rejection,
                };
                Admission::Refuse(rejection)
            }
        }
    }
}

impl Wait for NoWait {
    type Permit = BreakerPermit;

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<BreakerPermit, Rejection>> {
        match *self {}
    }
}

/// The host and port of a request, without user and password.
fn host<B>(request: &Request<B>) -> Option<&str> {
    let from_header = || request.headers().get(HOST)?.to_str().ok();
    let authority = request.uri().authority().map(Authority::as_str).or_else(from_header)?;
    authority.rsplit('@').next()
}

// === impl Shared ===

impl Shared {
    /// The only circuit, if calls have no keys.
    #[inline]
    fn only(&self) -> Option<&Circuit> {
        self.calls.key.is_none().then_some(self.set.unkeyed())
    }
}
