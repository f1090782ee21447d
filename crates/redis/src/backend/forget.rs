//! Deletes the stored data of callers.

use std::future::Future;
use std::time::Duration;

use redis::Value;
use tower_buttress::Tenant;
use tower_buttress::store::{Fingerprint, TenantHash};

use super::names::log_of;
use super::redis::{number, unexpected, unsigned};
use super::{BackendError, Subscription, Token};
use crate::client::Redis;
use crate::client::script::{Command, LuaScript};

static KEPT: LuaScript = LuaScript::new("kept", include_str!("../scripts/kept.lua"));
static FORGET: LuaScript =
    LuaScript::new("forget", concat!(include_str!("../scripts/quota.lua"), include_str!("../scripts/forget.lua")));

/// The engine of [`Redis::forget`].
///
/// See the [module](super) for an example.
pub trait ForgetBackend: Clone + Send + Sync + 'static {
    /// Tells all processes to forget the tenant with this name; an empty name: all tenants.
    fn publish_forget(&self, tenant: &str) -> impl Future<Output = Result<u64, BackendError>> + Send;

    /// Deletes a part of an owner's data, or of all data, from a cursor on; the first cursor is empty. Returns the
    /// number of keys and the next cursor; `None`: done.
    fn forget_some(
        &self,
        owner: Option<TenantHash>,
        place: Vec<u8>,
    ) -> impl Future<Output = Result<Forgotten, BackendError>> + Send;

    /// Subscribes to the names of tenants to forget.
    fn forgotten(&self) -> impl Future<Output = Result<Subscription, BackendError>> + Send;

    /// Deletes the data of a tenant, or all data, as [`Redis::forget`] does.
    fn forget_kept(&self, tenant: Option<&Tenant>) -> impl Future<Output = Result<u64, BackendError>> + Send {
        async move {
            if tenant.is_some_and(|tenant| tenant.as_str().is_empty()) {
                return Ok(0);
            }
            // First, because a process that still has the data could write it again behind the loop below.
            again(|| self.publish_forget(tenant.map_or("", Tenant::as_str))).await?;
            let (owner, mut place, mut count) = (tenant.map(TenantHash::of), Vec::new(), 0);
            loop {
                let forgotten = again(|| self.forget_some(owner, place.clone())).await?;
                count += forgotten.count;
                let Some(next) = forgotten.next else { return Ok(count) };
                place = next;
            }
        }
    }
}

/// The result of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// How many keys were deleted.
    pub count: u64,
    /// The next cursor.
    pub next: Option<Vec<u8>>,
}

/// How many keys one step examines.
const STEP: u32 = 500;

/// The waits before an unanswered step is repeated. Repeating is safe: it deletes what is left.
const AGAIN: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(1_000), Duration::from_millis(2_000)];

async fn again<T, F: Future<Output = Result<T, BackendError>>>(step: impl Fn() -> F) -> Result<T, BackendError> {
    for wait in AGAIN {
        match step().await {
            Err(BackendError::Unreachable) => tokio::time::sleep(wait).await,
            other => return other,
        }
    }
    step().await
}

impl Redis {
    /// Deletes all data in Redis of an [authenticated](Tenant) tenant, or of all tenants: answers, last good answers,
    /// and the places of resumable answers. Tells the [other processes](Self::on_forget) to forget theirs. Returns the
    /// number of keys, at least: keys that a repeated step found deleted are not counted.
    ///
    /// Calls in flight continue. Examines each key of Redis once, some hundred at a time. The deleted answers no longer
    /// count in the tenant's `tenant_bytes`. The digests of a conversation's messages stay until they expire.
    ///
    /// ```no_run
    /// # async fn forget(redis: tower_buttress_redis::Redis) -> Result<(), tower_buttress_redis::backend::BackendError> {
    /// use tower_buttress::Tenant;
    ///
    /// let keys = redis.forget(Some(&Tenant::new("acme"))).await?;
    /// # let _ = keys;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// For a tenant with an empty name nothing is deleted.
    ///
    /// # Errors
    ///
    /// Redis is unreachable for some seconds: some or all data may remain. Call it again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the keys that were not examined yet.
    pub async fn forget(&self, tenant: Option<&Tenant>) -> Result<u64, BackendError> {
        self.forget_kept(tenant).await
    }
}

impl ForgetBackend for Redis {
    async fn publish_forget(&self, tenant: &str) -> Result<u64, BackendError> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.names().forgotten()).arg(tenant);
        number(&self.call(&Command::Plain(publish)).await?).map(unsigned)
    }

    async fn forget_some(&self, owner: Option<TenantHash>, place: Vec<u8>) -> Result<Forgotten, BackendError> {
        let mut scan = redis::cmd("SCAN");
        let cursor = if place.is_empty() { b"0" } else { place.as_slice() };
        scan.arg(cursor).arg("MATCH").arg(self.names().kept()).arg("COUNT").arg(STEP);
        let Value::Array(reply) = self.call(&Command::Plain(scan)).await? else { return Err(unexpected()) };
        let Ok([Value::BulkString(next), Value::Array(keys)]) = <[Value; 2]>::try_from(reply) else {
            return Err(unexpected());
        };
        let name = |key| if let Value::BulkString(name) = key { Some(name) } else { None };
        let keys: Vec<Vec<u8>> = keys.into_iter().filter_map(name).collect();
        let count = if keys.is_empty() { 0 } else { self.forget_keys(&keys, owner).await? };
        Ok(Forgotten { count, next: (next != b"0").then_some(next) })
    }

    async fn forgotten(&self) -> Result<Subscription, BackendError> {
        self.subscribe(&self.names().forgotten()).await
    }
}

impl Redis {
    async fn forget_keys(&self, keys: &[Vec<u8>], owner: Option<TenantHash>) -> Result<u64, BackendError> {
        let (owner, mut count) = (owner.map_or(0, TenantHash::get), 0);
        let names: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let Value::Array(theirs) = self.call(&KEPT.keys(&names).arg(owner)).await? else { return Err(unexpected()) };
        // Deletes answers first: a name without its answer is harmless, but an answer without its name is never found
        // again.
        let (mut logs, mut has_logs, mut found) = (redis::cmd("UNLINK"), false, Vec::new());
        for entry in theirs.chunks_exact(3) {
            let [Value::Int(place), Value::BulkString(token), Value::BulkString(tenant)] = entry else {
                return Err(unexpected());
            };
            let key = usize::try_from(*place).ok().and_then(|place| keys.get(place.checked_sub(1)?));
            let Some(key) = key else { return Err(unexpected()) };
            if let Some(log) = Token::from_slice(token).and_then(|token| log_of(key, token)) {
                logs.arg(log);
                has_logs = true;
            }
            let tenant = tenant.as_slice().try_into().ok().map(Fingerprint::from_bytes);
            let quota = tenant.and_then(|tenant| self.names().quota_of(key, &tenant));
            found.push((key, quota.unwrap_or_else(|| key.clone()), token));
        }
        if has_logs {
            self.call(&Command::Plain(logs)).await?;
        }
        if !found.is_empty() {
            let entries = found.iter().map(|(key, ..)| key.as_slice());
            let names: Vec<&[u8]> = entries.chain(found.iter().map(|(_, quota, _)| quota.as_slice())).collect();
            let mut command = FORGET.keys(&names).arg(owner);
            for (.., token) in &found {
                command = command.arg(token.as_slice());
            }
            count = unsigned(number(&self.call(&command).await?)?);
        }
        Ok(count)
    }
}

#[cfg(any(test, feature = "model"))]
mod model {
    use super::super::model::{Channel, RedisModel};
    use super::*;

    impl ForgetBackend for RedisModel {
        async fn publish_forget(&self, tenant: &str) -> Result<u64, BackendError> {
            Ok(self.reach()?.publish(Channel::Forgotten, &bytes::Bytes::copy_from_slice(tenant.as_bytes())))
        }

        async fn forget_some(&self, owner: Option<TenantHash>, _: Vec<u8>) -> Result<Forgotten, BackendError> {
            Ok(Forgotten { count: self.reach()?.forget(owner), next: None })
        }

        async fn forgotten(&self) -> Result<Subscription, BackendError> {
            self.subscribe(Channel::Forgotten)
        }
    }
}
