//! The engine of shared last good answers.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use tower_buttress::store::{Fingerprint, LastGoodKeys, TenantHash};

use super::BackendError;
use super::redis::{millis, number, unexpected, unsigned, whole_millis};
use crate::client::Redis;
use crate::client::script::{Command, LuaScript};

static REMEMBER: LuaScript = LuaScript::new("remember", include_str!("../scripts/remember.lua"));
static RECALL: LuaScript = LuaScript::new("recall", include_str!("../scripts/recall.lua"));

/// The engine of [`FleetLastGood`](crate::FleetLastGood).
///
/// See the [module](super) for an example.
pub trait LastGoodBackend: Clone + Send + Sync + 'static {
    /// Stores an answer in place of an earlier one to the same request. Returns whether its tenant has room for it.
    fn remember(&self, answer: KeptAnswer) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// A stored answer, and its age.
    fn recall(
        &self,
        exact: Fingerprint,
    ) -> impl Future<Output = Result<Option<(Bytes, Duration)>, BackendError>> + Send;

    /// The request whose answer is the latest for this normal form.
    fn last_of(&self, normal: Fingerprint) -> impl Future<Output = Result<Option<Fingerprint>, BackendError>> + Send;
}

/// A last good answer to store.
#[derive(Clone, Debug)]
pub struct KeptAnswer {
    /// Its keys.
    pub keys: LastGoodKeys,
    /// The encoded answer.
    pub bytes: Bytes,
    /// Its age.
    pub age: Duration,
    /// How long to keep it.
    pub ttl: Duration,
    /// The limit of the tenant's last good answers, in bytes.
    pub tenant_bytes: u64,
}

impl LastGoodBackend for Redis {
    async fn remember(&self, answer: KeptAnswer) -> Result<bool, BackendError> {
        let KeptAnswer { keys, bytes, age, ttl, tenant_bytes } = answer;
        let names = self.names();
        let exact = names.last_good(&keys.exact);
        let normal = keys.normal.map_or_else(|| exact.clone(), |normal| names.last_normal(&normal));
        let command = REMEMBER
            .keys(&[&exact, &normal, &names.last_good_of(&keys.tenant)])
            .arg(&bytes[..])
            .arg(whole_millis(age))
            .arg(millis(ttl))
            .arg(tenant_bytes)
            .arg(keys.exact.as_bytes().as_slice())
            .arg(keys.owner.map_or(0, TenantHash::get))
            .arg(keys.tenant.as_bytes().as_slice());
        Ok(number(&self.call(&command).await?)? == 1)
    }

    async fn recall(&self, exact: Fingerprint) -> Result<Option<(Bytes, Duration)>, BackendError> {
        let Value::Array(reply) = self.call(&RECALL.keys(&[&self.names().last_good(&exact)])).await? else {
            return Err(unexpected());
        };
        Ok(match <[Value; 2]>::try_from(reply) {
            Ok([Value::BulkString(answer), Value::Int(age)]) => {
                Some((answer.into(), Duration::from_millis(unsigned(age))))
            }
            _ => None,
        })
    }

    async fn last_of(&self, normal: Fingerprint) -> Result<Option<Fingerprint>, BackendError> {
        let mut command = redis::cmd("GET");
        command.arg(self.names().last_normal(&normal));
        match self.call(&Command::Plain(command)).await? {
            Value::BulkString(exact) => Ok(exact.try_into().ok().map(Fingerprint::from_bytes)),
            Value::Nil => Ok(None),
            _ => Err(unexpected()),
        }
    }
}

#[cfg(any(test, feature = "model"))]
mod model {
    use super::super::model::{ENTRY_BYTES, Expiring, Quota, RedisModel, StaleAnswer};
    use super::*;

    impl LastGoodBackend for RedisModel {
        async fn remember(&self, answer: KeptAnswer) -> Result<bool, BackendError> {
            let KeptAnswer { keys, bytes, age, ttl, tenant_bytes } = answer;
            let mut state = self.reach()?;
            let (now, until) = (state.now(), state.now() + ttl);
            let cost = bytes.len() as u64 + ENTRY_BYTES;
            let old = state.answers.get(&keys.exact).map(|old| (old.value.quota.bytes, old.until));
            let kept = state.answered.entry(keys.tenant).or_default();
            kept.retain(|(_, until)| *until > now);
            let old = old.and_then(|old| kept.iter().position(|kept| *kept == old));
            let freed = old.map_or(0, |old| kept[old].0);
            if kept.iter().map(|(bytes, _)| bytes).sum::<u64>() - freed + cost > tenant_bytes {
                return Ok(false);
            }
            old.map(|old| kept.swap_remove(old));
            kept.push((cost, until));
            let quota = Quota { tenant: keys.tenant, bytes: cost, until };
            let value = StaleAnswer { bytes, age, since: now, owner: keys.owner, quota };
            state.answers.insert(keys.exact, Expiring { value, until });
            if let Some(normal) = keys.normal {
                state.normal.insert(normal, Expiring { value: keys.exact, until });
            }
            Ok(true)
        }

        async fn recall(&self, exact: Fingerprint) -> Result<Option<(Bytes, Duration)>, BackendError> {
            let state = self.reach()?;
            let now = state.now();
            Ok(state.answers.get(&exact).map(|Expiring { value, .. }| {
                (value.bytes.clone(), (now + value.age).saturating_duration_since(value.since))
            }))
        }

        async fn last_of(&self, normal: Fingerprint) -> Result<Option<Fingerprint>, BackendError> {
            Ok(self.reach()?.normal.get(&normal).map(|exact| exact.value))
        }
    }
}
