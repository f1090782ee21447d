//! How what is kept of callers in Redis is forgotten.

use redis::Value;
use tower_buttress::Tenant;
use tower_buttress::store::TenantHash;

use super::names::log_of;
use super::redis::unexpected;
use super::{BackendError, Subscription, Token};
use crate::client::Redis;
use crate::client::script::{Command, Script};

static FORGET: Script = Script::new("forget", include_str!("../scripts/forget.lua"));

/// How many keys are looked at in one step.
const STEP: u32 = 500;

impl Redis {
    /// Forgets what is kept in Redis of a tenant that was [authenticated](Tenant), or of all: answers, last good answers, and
    /// where answers are that callers come back to. The [other processes](Self::on_forget) are told to forget what they have. Returns how many
    /// keys there were.
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
    /// Redis cannot be reached: some of it, or all, is still there.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves what was not looked at.
    pub async fn forget(&self, tenant: Option<&Tenant>) -> Result<u64, BackendError> {
        if tenant.is_some_and(|tenant| tenant.as_str().is_empty()) {
            return Ok(0);
        }
        // First: no process is to write again what is looked at below.
        let mut tell = redis::cmd("PUBLISH");
        tell.arg(self.names().forgotten()).arg(tenant.map_or("", Tenant::as_str));
        self.call(&Command::Plain(tell)).await?;
        let owner = tenant.map_or(0, |tenant| TenantHash::of(tenant).get());
        let (pattern, mut cursor, mut forgotten) = (self.names().kept(), b"0".to_vec(), 0);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP);
            let Value::Array(reply) = self.call(&Command::Plain(scan)).await? else { return Err(unexpected()) };
            let Ok([Value::BulkString(next), Value::Array(keys)]) = <[Value; 2]>::try_from(reply) else {
                return Err(unexpected());
            };
            let name = |key| if let Value::BulkString(name) = key { Some(name) } else { None };
            let keys: Vec<Vec<u8>> = keys.into_iter().filter_map(name).collect();
            if !keys.is_empty() {
                forgotten += self.forget_keys(&keys, owner).await?;
            }
            if next == b"0" {
                return Ok(forgotten);
            }
            cursor = next;
        }
    }

    async fn forget_keys(&self, keys: &[Vec<u8>], owner: u32) -> Result<u64, BackendError> {
        let names: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let Value::Array(gone) = self.call(&FORGET.keys(&names).arg(owner)).await? else { return Err(unexpected()) };
        let (mut logs, mut has_logs, mut count) = (redis::cmd("DEL"), false, 0);
        for pair in gone.chunks_exact(2) {
            let [Value::Int(place), Value::BulkString(token)] = pair else { return Err(unexpected()) };
            count += 1;
            let key = usize::try_from(*place).ok().and_then(|place| keys.get(place.checked_sub(1)?));
            if let Some(log) = key.zip(Token::from_slice(token)).and_then(|(key, token)| log_of(key, token)) {
                logs.arg(log);
                has_logs = true;
            }
        }
        if has_logs {
            self.call(&Command::Plain(logs)).await?;
        }
        Ok(count)
    }

    pub(crate) async fn forgotten(&self) -> Result<Subscription, BackendError> {
        self.subscribe(&self.names().forgotten()).await
    }
}
