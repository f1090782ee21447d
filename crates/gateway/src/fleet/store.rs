//! The dedup store: in this process, or shared through Redis.

use std::future::Ready;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{Either, Map};
use tower_buttress::error::BoxError;
use tower_buttress::store::{
    AnswerOffers, Claim, ClaimRequest, Fingerprint, Lease, MemoryLease, MemoryStore, Retention, SharedAnswers, Store,
};
use tower_buttress_redis::{RedisLease, RedisStore};

#[derive(Clone, Debug)]
pub(crate) enum DedupStore {
    Own(MemoryStore),
    Fleet(RedisStore),
}

#[derive(Debug)]
pub(crate) enum DedupLease {
    Own(MemoryLease),
    Fleet(RedisLease),
}

type ClaimResult<L> = Result<Claim<L>, BoxError>;
/// The claim of another store, with its lease converted.
type Mapped<F, L> = Map<F, fn(ClaimResult<L>) -> ClaimResult<DedupLease>>;

// === impl DedupStore ===

impl Store for DedupStore {
    type Lease = DedupLease;
    type Claim =
        Either<Mapped<Ready<ClaimResult<MemoryLease>>, MemoryLease>, Mapped<<RedisStore as Store>::Claim, RedisLease>>;

    const HANDS_OVER: bool = RedisStore::<tower_buttress_redis::Redis>::HANDS_OVER;

    fn claim(&self, request: ClaimRequest) -> Self::Claim {
        match self {
            Self::Own(store) => Either::Left(store.claim(request).map(|claim| with(claim, DedupLease::Own))),
            Self::Fleet(store) => Either::Right(store.claim(request).map(|claim| with(claim, DedupLease::Fleet))),
        }
    }

    fn accepted(&self, tenant: &Fingerprint) {
        match self {
            Self::Own(store) => store.accepted(tenant),
            Self::Fleet(store) => store.accepted(tenant),
        }
    }

    fn answers(&self) -> Option<Arc<dyn SharedAnswers>> {
        match self {
            Self::Own(store) => store.answers(),
            Self::Fleet(store) => store.answers(),
        }
    }
}

fn with<L>(claim: ClaimResult<L>, lease_of: fn(L) -> DedupLease) -> ClaimResult<DedupLease> {
    Ok(match claim? {
        Claim::Lead { lease, recorder, .. } => Claim::lead(lease_of(lease), recorder),
        Claim::Follow(log) => Claim::Follow(log),
        Claim::Replay(log) => Claim::Replay(log),
        Claim::Mismatch => Claim::Mismatch,
        Claim::Full { retry_after, .. } => Claim::full(retry_after),
        _ => return Err("a claim that this gateway does not know".into()),
    })
}

// === impl DedupLease ===

impl Lease for DedupLease {
    fn resize(&mut self, bytes: usize) -> bool {
        match self {
            Self::Own(lease) => lease.resize(bytes),
            Self::Fleet(lease) => lease.resize(bytes),
        }
    }

    fn accepted(&mut self) {
        match self {
            Self::Own(lease) => lease.accepted(),
            Self::Fleet(lease) => lease.accepted(),
        }
    }

    fn release(&mut self) {
        match self {
            Self::Own(lease) => lease.release(),
            Self::Fleet(lease) => lease.release(),
        }
    }

    fn keep(self, retention: Retention) {
        match self {
            Self::Own(lease) => lease.keep(retention),
            Self::Fleet(lease) => lease.keep(retention),
        }
    }

    fn offers(&self) -> Option<Arc<dyn AnswerOffers>> {
        match self {
            Self::Own(lease) => lease.offers(),
            Self::Fleet(lease) => lease.offers(),
        }
    }
}
