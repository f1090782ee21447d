//! How what is kept of callers is forgotten.

use std::future::Future;
use std::time::Duration;

use redis::Value;
use tower_buttress::Tenant;
use tower_buttress::store::TenantHash;

use super::names::log_of;
use super::redis::{number, unexpected, unsigned};
use super::{BackendError, Subscription, Token};
use crate::client::Redis;
use crate::client::script::{Command, Script};

static KEPT: Script = Script::new("kept", include_str!("../scripts/kept.lua"));
static FORGET: Script = Script::new("forget", include_str!("../scripts/forget.lua"));

/// The engine of [`Redis::forget`].
///
/// See the [module](super) for an example.
pub trait ForgetBackend: Clone + Send + Sync + 'static {
    /// Tells all processes to forget what they have of the tenant of this name; an empty one: of all.
    fn tell_to_forget(&self, tenant: &str) -> impl Future<Output = Result<u64, BackendError>> + Send;

    /// Forgets some of what is kept of an owner, or of all, beginning at a place; the first is empty. Returns how many keys
    /// there were, and the next place; `None`: there is none.
    fn forget_some(
        &self,
        owner: Option<TenantHash>,
        place: Vec<u8>,
    ) -> impl Future<Output = Result<Forgotten, BackendError>> + Send;

    /// What processes are told to forget from now on: names of tenants.
    fn forgotten(&self) -> impl Future<Output = Result<Subscription, BackendError>> + Send;

    /// Forgets what is kept of a tenant, or of all, as [`Redis::forget`] does.
    fn forget_kept(&self, tenant: Option<&Tenant>) -> impl Future<Output = Result<u64, BackendError>> + Send {
        async move {
            if tenant.is_some_and(|tenant| tenant.as_str().is_empty()) {
                return Ok(0);
            }
            // First: a process that has not forgotten yet could write again what the loop below has deleted.
            again(|| self.tell_to_forget(tenant.map_or("", Tenant::as_str))).await?;
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

/// What came of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// How many keys there were.
    pub count: u64,
    /// Where to go on.
    pub next: Option<Vec<u8>>,
}

/// How many keys are looked at in one step.
const STEP: u32 = 500;

/// A step that was not answered is taken again after these: it forgets what is left.
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
    /// Forgets what is kept in Redis of a tenant that was [authenticated](Tenant), or of all: answers, last good answers, and
    /// where answers are that callers come back to. The [other processes](Self::on_forget) are told to forget what they have.
    /// Returns how many keys there were, at least: what was gone when a step was taken again is not counted.
    ///
    /// Calls under way go on. Each key of Redis is looked at once, some hundred at a time. What a tenant's answers took of
    /// its `tenant_bytes` is free at the end of their windows. The digests of a
    /// conversation's messages stay to their end.
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
    /// A tenant without a name has nothing: nothing is forgotten.
    ///
    /// # Errors
    ///
    /// Redis cannot be reached, for some seconds: some of it, or all, is still there. Call it again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves what was not looked at.
    pub async fn forget(&self, tenant: Option<&Tenant>) -> Result<u64, BackendError> {
        self.forget_kept(tenant).await
    }
}

impl ForgetBackend for Redis {
    async fn tell_to_forget(&self, tenant: &str) -> Result<u64, BackendError> {
        let mut tell = redis::cmd("PUBLISH");
        tell.arg(self.names().forgotten()).arg(tenant);
        number(&self.call(&Command::Plain(tell)).await?).map(unsigned)
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
        // The answers first: a name without its answer is found to be gone, an answer without its name is never found, and
        // stays.
        let (mut logs, mut has_logs, mut tokens) = (redis::cmd("UNLINK"), false, Vec::new());
        for pair in theirs.chunks_exact(2) {
            let [Value::Int(place), Value::BulkString(token)] = pair else { return Err(unexpected()) };
            let key = usize::try_from(*place).ok().and_then(|place| keys.get(place.checked_sub(1)?));
            let Some(key) = key else { return Err(unexpected()) };
            if let Some(log) = Token::from_slice(token).and_then(|token| log_of(key, token)) {
                logs.arg(log);
                has_logs = true;
            }
            tokens.push((key.as_slice(), token));
        }
        if has_logs {
            self.call(&Command::Plain(logs)).await?;
        }
        if !tokens.is_empty() {
            let names: Vec<&[u8]> = tokens.iter().map(|(key, _)| *key).collect();
            let mut command = FORGET.keys(&names).arg(owner);
            for (_, token) in &tokens {
                command = command.arg(token.as_slice());
            }
            count = unsigned(number(&self.call(&command).await?)?);
        }
        Ok(count)
    }
}

#[cfg(any(test, feature = "model"))]
mod model {
    use super::super::model::{Channel, Model};
    use super::*;

    impl ForgetBackend for Model {
        async fn tell_to_forget(&self, tenant: &str) -> Result<u64, BackendError> {
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
