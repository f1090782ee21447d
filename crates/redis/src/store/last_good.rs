//! Last good answers shared by processes.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::runtime::Handle;
use tower_buttress::store::{AnswerFuture, BodyPart, Fingerprint, Head, LastGoodAnswer, LastGoodKeys, SharedLastGood};
use tower_buttress::{Memory, Tenant};

use super::wire::{Decoder, Encoder, HeadRecord, LogRecord};
use crate::backend::{BackendError, KeptAnswer, LastGoodBackend, hex};
use crate::client::Redis;

/// Shares the answers of a `LastGoodLayer` with other processes: any of them returns another's answer when the
/// upstream fails, even right after its start.
///
/// ```
/// use std::sync::Arc;
/// use tower_buttress::store::SharedLastGood;
/// use tower_buttress_redis::{FleetLastGood, Redis, RedisOptions};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::new(RedisOptions::from_url("redis://127.0.0.1:6379")?)?;
/// // `LastGoodLayer::new().share(peers)`
/// let peers: Arc<dyn SharedLastGood> = Arc::new(FleetLastGood::new(redis));
/// # let _ = peers;
/// # Ok(())
/// # }
/// ```
///
/// # What happens when
///
/// - *An answer is kept*: it is written to Redis after the call, for the layer's `ttl`, in place of an earlier one to
///   the same request.
/// - *A call fails, and this process has no answer*: it reads Redis, first for the exact request, then for its normal
///   form. An answer too old for the caller is ignored.
/// - *A tenant has used its quota* ([`tenant_bytes`](Self::tenant_bytes)): only the process that got a further answer
///   keeps it, until older ones expire.
/// - *Redis is unreachable*: nothing waits for it, and each process uses its own answers. An answer that a frozen
///   Redis takes when it continues counts as younger by that time.
/// - *The stored data is damaged or another tenant's*: it is ignored.
///
/// # Cost
///
/// One script after each call whose answer is kept, with the answer in it. After a failed call one to three round
/// trips, each within the [`patience`](crate::RedisOptions::patience).
#[derive(Clone)]
pub struct FleetLastGood<B = Redis> {
    backend: B,
    tenant_bytes: u64,
    memory: Memory,
}

/// The default limit of one tenant's last good answers in Redis.
const TENANT_BYTES: u64 = 64 * 1024 * 1024;

/// Limit of bytes on their way to Redis, unless they count in a `Memory` of the stack.
const ON_THEIR_WAY: usize = 32 * 1024 * 1024;

/// The assumed size of an answer beside its body.
const HEAD: usize = 1024;

// === impl FleetLastGood ===

impl<B: LastGoodBackend> FleetLastGood<B> {
    /// The answers on this engine.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self { backend, tenant_bytes: TENANT_BYTES, memory: Memory::new(ON_THEIR_WAY) }
    }

    /// The memory in which answers count on their way to Redis. Without room, only this process keeps an answer. One
    /// tenant may use a quarter. Default: 32 MiB of its own.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Limits one tenant's last good answers in Redis, in bytes, each with 512 more for its keys. Default: 64 MiB.
    #[must_use]
    pub fn tenant_bytes(mut self, bytes: u64) -> Self {
        self.tenant_bytes = bytes;
        self
    }
}

impl<B: LastGoodBackend> SharedLastGood for FleetLastGood<B> {
    fn keep(&self, keys: LastGoodKeys, answer: LastGoodAnswer, ttl: Duration) {
        // Without a runtime nothing is shared.
        let Ok(runtime) = Handle::try_current() else { return };
        let Self { backend, tenant_bytes, memory } = self.clone();
        // The body is briefly held twice: as received, and encoded.
        let tenant = Tenant::new(hex(keys.tenant.as_bytes()));
        let mut reservation = memory.reserve(Some(&tenant));
        if !reservation.grow(2 * answer.body.len() + HEAD) {
            return;
        }
        runtime.spawn(async move {
            let age = answer.head.age(now());
            if let Some(bytes) = encode(&keys, &answer) {
                let answer = KeptAnswer { keys, bytes: bytes.freeze(), age, ttl, tenant_bytes };
                let _ = backend.remember(answer).await;
            }
            drop(reservation);
        });
    }

    fn find(&self, keys: LastGoodKeys, max_age: Duration) -> AnswerFuture<Option<LastGoodAnswer>> {
        let backend = self.backend.clone();
        Box::pin(async move { find(&backend, &keys, max_age).await.ok().flatten() })
    }
}

impl<B> fmt::Debug for FleetLastGood<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetLastGood").field("tenant_bytes", &self.tenant_bytes).finish_non_exhaustive()
    }
}

async fn find<B: LastGoodBackend>(
    backend: &B,
    keys: &LastGoodKeys,
    max_age: Duration,
) -> Result<Option<LastGoodAnswer>, BackendError> {
    let young = |answer: &LastGoodAnswer| answer.age(now()) <= max_age;
    let recall = async |exact: Fingerprint| {
        let found = backend.recall(exact).await?;
        let answer = found.and_then(|(bytes, age)| decode(&exact, &keys.tenant, &bytes, age));
        Ok::<_, BackendError>(answer.filter(young))
    };
    if let Some(answer) = recall(keys.exact).await? {
        return Ok(Some(answer));
    }
    // An answer that is too old must not hide a younger one to another spelling.
    let Some(normal) = keys.normal else { return Ok(None) };
    let Some(exact) = backend.last_of(normal).await? else { return Ok(None) };
    // The latest of the normal form may be this request's own, kept since the first read.
    Ok(recall(exact).await?.map(|answer| answer.exact(exact == keys.exact)))
}

/// `None`: the head is too long.
fn encode(keys: &LastGoodKeys, answer: &LastGoodAnswer) -> Option<BytesMut> {
    let mut out = BytesMut::with_capacity(answer.body.len() + 1024);
    let mut encoder = Encoder::begin(&keys.exact, &keys.tenant, &mut out);
    let is_short = encoder.head(&answer.head, Duration::ZERO, &mut out);
    encoder.part(&BodyPart::Data(answer.body.clone()), &mut out);
    encoder.end(&mut out);
    is_short.then_some(out)
}

/// `None`: not a whole answer of this tenant to this request.
fn decode(exact: &Fingerprint, tenant: &Fingerprint, bytes: &[u8], age: Duration) -> Option<LastGoodAnswer> {
    let mut decoder = Decoder::new(*exact, *tenant);
    decoder.push(bytes);
    let Ok(Some(LogRecord::Head(HeadRecord { status, version, headers, .. }))) = decoder.next() else { return None };
    let mut body = BytesMut::with_capacity(bytes.len());
    loop {
        match decoder.next() {
            Ok(Some(LogRecord::Part(BodyPart::Data(data)))) => body.extend_from_slice(&data),
            Ok(Some(LogRecord::End)) => break,
            _ => return None,
        }
    }
    let head = Head::new(status, version, headers, now()).with_age(age);
    Some(LastGoodAnswer::new(head, body.freeze()))
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode, Version};

    use super::*;
    use crate::backend::RedisModel;

    #[test]
    fn what_is_cut_or_another_tenants_is_no_answer() {
        let print = |byte| Fingerprint::from_bytes([byte; 32]);
        let keys = LastGoodKeys::new(print(1), None, print(2), None);
        let head = Head::new(StatusCode::OK, Version::HTTP_11, HeaderMap::new(), now());
        let answer = LastGoodAnswer::new(head, vec![7; 200_000].into());
        let bytes = encode(&keys, &answer).unwrap();
        let read = |exact, tenant, bytes: &[u8]| decode(&print(exact), &print(tenant), bytes, Duration::from_secs(9));
        let whole = read(2, 1, &bytes).unwrap();
        assert_eq!((whole.body, whole.head.age(now()).as_secs()), (answer.body, 9));
        assert!(read(2, 3, &bytes).is_none() && read(3, 1, &bytes).is_none());
        assert!([0, 3, 100, bytes.len() - 1].iter().all(|cut| read(2, 1, &bytes[..*cut]).is_none()));
    }

    fn print(byte: u8) -> Fingerprint {
        Fingerprint::from_bytes([byte; 32])
    }

    fn answer(body: impl Into<Bytes>) -> LastGoodAnswer {
        let head = Head::new(StatusCode::OK, Version::HTTP_11, HeaderMap::new(), now());
        LastGoodAnswer::new(head, body.into())
    }

    #[tokio::test(start_paused = true)]
    async fn answers_on_their_way_count() {
        let memory = Memory::new(70_000);
        let fleet = FleetLastGood::new(RedisModel::new()).memory(memory.clone());
        let keys = |tenant, exact| LastGoodKeys::new(print(tenant), None, print(exact), None);
        let long = || answer(vec![7; 8_000]);
        fleet.keep(keys(1, 2), long(), Duration::from_secs(60));
        assert!(memory.used() > 16_000);
        // Without room for another answer of the same tenant, there is room for those of others, up to the limit.
        let others = [(1, 3), (4, 5), (6, 7), (8, 9), (10, 11)];
        for (tenant, exact) in others {
            fleet.keep(keys(tenant, exact), long(), Duration::from_secs(60));
        }
        assert!(memory.used() <= 70_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(memory.used(), 0);
        let mut kept = Vec::new();
        for (tenant, exact) in [(1, 2)].into_iter().chain(others) {
            kept.push(fleet.find(keys(tenant, exact), Duration::from_secs(60)).await.is_some());
        }
        assert_eq!(kept, [true, false, true, true, true, false]);
    }
}
