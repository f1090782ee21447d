//! The last good answers in Redis.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use tower_buttress::store::{Fingerprint, LastGoodKeys, TenantHash};

use super::BackendError;
use super::redis::{millis, number, unexpected, unsigned};
use crate::client::Redis;
use crate::client::script::{Command, Script};

static REMEMBER: Script = Script::new("remember", include_str!("../scripts/remember.lua"));
static RECALL: Script = Script::new("recall", include_str!("../scripts/recall.lua"));

impl Redis {
    /// Keeps an answer. Returns whether the tenant has room for it.
    pub(crate) async fn remember(
        &self,
        keys: &LastGoodKeys,
        answer: &[u8],
        age: Duration,
        ttl: Duration,
        tenant_bytes: u64,
    ) -> Result<bool, BackendError> {
        let names = self.names();
        let exact = names.last_good(&keys.exact);
        let normal = keys.normal.map_or_else(|| exact.clone(), |normal| names.last_normal(&normal));
        let command = REMEMBER
            .keys(&[&exact, &normal, &names.last_good_of(&keys.tenant)])
            .arg(answer)
            .arg(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
            .arg(millis(ttl))
            .arg(tenant_bytes)
            .arg(keys.exact.as_bytes().as_slice())
            .arg(keys.owner.map_or(0, TenantHash::get));
        Ok(number(&self.call(&command).await?)? == 1)
    }

    /// An answer that was kept, and its age.
    pub(crate) async fn recall(&self, exact: &Fingerprint) -> Result<Option<(Bytes, Duration)>, BackendError> {
        let Value::Array(reply) = self.call(&RECALL.keys(&[&self.names().last_good(exact)])).await? else {
            return Err(unexpected());
        };
        Ok(match <[Value; 2]>::try_from(reply) {
            Ok([Value::BulkString(answer), Value::Int(age)]) => {
                Some((answer.into(), Duration::from_millis(unsigned(age))))
            }
            _ => None,
        })
    }

    /// What names the request whose answer was the last of this normal form.
    pub(crate) async fn last_of(&self, normal: &Fingerprint) -> Result<Option<Fingerprint>, BackendError> {
        let mut command = redis::cmd("GET");
        command.arg(self.names().last_normal(normal));
        match self.call(&Command::Plain(command)).await? {
            Value::BulkString(exact) => Ok(exact.try_into().ok().map(Fingerprint::from_bytes)),
            Value::Nil => Ok(None),
            _ => Err(unexpected()),
        }
    }
}
