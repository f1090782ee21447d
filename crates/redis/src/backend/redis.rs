//! The engine on Redis.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use tokio::time::timeout;
use tower_buttress::store::{Fingerprint, TenantHash};

use super::names::{Names, Want, encode_want};
use super::{
    Appended, Ask, Backend, BackendError, ClaimArgs, Claimed, FORSAKEN, Flight, FlightEnd, FlightState, LogShare,
    Offered, Piece, Process, STRANGERS, Settled, Subscription, Token,
};
use crate::client::Redis;
use crate::client::script::{Command, LuaScript};
use crate::options::Outage;

static CLAIM: LuaScript = LuaScript::new("claim", include_str!("../scripts/claim.lua"));
static RENEW: LuaScript = LuaScript::new("renew", include_str!("../scripts/renew.lua"));
static OUTGROW: LuaScript = LuaScript::new("outgrow", include_str!("../scripts/outgrow.lua"));
static APPEND: LuaScript =
    LuaScript::new("append", concat!(include_str!("../scripts/logs.lua"), include_str!("../scripts/append.lua")));
static DISCARD: LuaScript =
    LuaScript::new("discard", concat!(include_str!("../scripts/quota.lua"), include_str!("../scripts/discard.lua")));
static OFFER: LuaScript = LuaScript::new("offer", include_str!("../scripts/offer.lua"));
static OFFERED: LuaScript = LuaScript::new("offered", include_str!("../scripts/offered.lua"));
static SETTLE: LuaScript =
    LuaScript::new("settle", concat!(include_str!("../scripts/logs.lua"), include_str!("../scripts/settle.lua")));

/// Longer than the patience, because no caller waits for a subscription.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);

impl Redis {
    pub(super) fn names(&self) -> Names<'_> {
        Names { prefix: self.prefix() }
    }

    pub(super) async fn subscribe(&self, channel: &[u8]) -> Result<Subscription, BackendError> {
        let subscribing = self.subscriptions().subscribe(channel);
        timeout(SUBSCRIBE_TIMEOUT, subscribing).await.ok().flatten().ok_or(BackendError::Unreachable)
    }

    async fn publish(&self, channel: &[u8], message: &[u8]) -> Result<u64, BackendError> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel).arg(message);
        number(&self.call(&Command::Plain(command)).await?).map(unsigned)
    }
}

impl Backend for Redis {
    async fn claim(&self, claim: ClaimArgs) -> Result<Claimed, BackendError> {
        let command = CLAIM
            .keys(&[&self.names().meta(&claim.key)])
            .arg(claim.payload.as_bytes().as_slice())
            .arg(claim.token.as_bytes().as_slice())
            .arg(claim.owner.as_bytes().as_slice())
            .arg(millis(claim.lease));
        claimed(&self.call(&command).await?).ok_or_else(unexpected)
    }

    async fn renew(&self, flight: Flight, lease: Duration) -> Result<bool, BackendError> {
        let command =
            RENEW.keys(&[&self.names().meta(&flight.key)]).arg(flight.token.as_bytes().as_slice()).arg(millis(lease));
        Ok(number(&self.call(&command).await?)? == 1)
    }

    async fn outgrow(&self, flight: Flight) -> Result<bool, BackendError> {
        let command = OUTGROW.keys(&[&self.names().meta(&flight.key)]).arg(flight.token.as_bytes().as_slice());
        Ok(number(&self.call(&command).await?)? == 1)
    }

    async fn append(
        &self,
        flight: Flight,
        offset: u64,
        bytes: Bytes,
        ttl: Duration,
        share: LogShare,
    ) -> Result<Appended, BackendError> {
        let (names, LogShare { tenant, bytes: most }) = (self.names(), share);
        let command = APPEND
            .keys(&[&names.log(&flight), &names.channel(&flight), &names.logs(&tenant), &names.log_bytes(&tenant)])
            .arg(offset)
            .arg(&bytes[..])
            .arg(millis(ttl))
            .arg(Piece::header(offset).as_slice())
            .arg(flight.token.as_bytes().as_slice())
            .arg(most);
        match &self.call(&command).await? {
            Value::Array(reply) => match reply.as_slice() {
                [Value::Int(-2), _] => Ok(Appended::NoRoom),
                [Value::Int(-1), Value::Int(length)] => Ok(Appended::Rewind { length: unsigned(*length) }),
                [Value::Int(receivers), _] => Ok(Appended::Written { receivers: unsigned(*receivers) }),
                _ => Err(unexpected()),
            },
            _ => Err(unexpected()),
        }
    }

    async fn settle(&self, flight: Flight, outcome: FlightEnd) -> Result<Settled, BackendError> {
        let names = self.names();
        let (window, length, tenant, tenant_bytes, owner) = match outcome {
            // The script ignores the tenant's keys.
            FlightEnd::Free => (0, 0, flight.key, 0, None),
            FlightEnd::Keep { window, length, tenant, tenant_bytes, owner } => {
                (millis(window), length, tenant, tenant_bytes, owner)
            }
        };
        let keys = [
            names.meta(&flight.key),
            names.log(&flight),
            names.tenant(&tenant),
            names.channel(&flight),
            names.logs(&tenant),
            names.log_bytes(&tenant),
            names.logs(&STRANGERS),
            names.log_bytes(&STRANGERS),
        ];
        let command = SETTLE
            .keys(&keys.each_ref().map(Vec::as_slice))
            .arg(flight.token.as_bytes().as_slice())
            .arg(window)
            .arg(length)
            .arg(tenant_bytes)
            .arg(owner.map_or(0, TenantHash::get))
            .arg(tenant.as_bytes().as_slice());
        Ok(match number(&self.call(&command).await?)? {
            1 => Settled::Done,
            -1 => Settled::NotWhole,
            -2 => Settled::NoRoom,
            _ => Settled::Lost,
        })
    }

    async fn discard(&self, flight: Flight, tenant: Fingerprint) -> Result<bool, BackendError> {
        let names = self.names();
        let keys = [names.meta(&flight.key), names.log(&flight), names.tenant(&tenant), names.tenant(&STRANGERS)];
        let command = DISCARD
            .keys(&keys.each_ref().map(Vec::as_slice))
            .arg(flight.token.as_bytes().as_slice())
            .arg(tenant.as_bytes().as_slice())
            .arg(STRANGERS.as_bytes().as_slice());
        Ok(number(&self.call(&command).await?)? == 1)
    }

    async fn read(&self, flight: Flight, offset: u64, max: usize) -> Result<Bytes, BackendError> {
        let mut command = redis::cmd("GETRANGE");
        let last = offset.saturating_add(max as u64).saturating_sub(1);
        command.arg(self.names().log(&flight)).arg(offset).arg(last);
        match self.call(&Command::Plain(command)).await? {
            Value::BulkString(bytes) => Ok(bytes.into()),
            Value::Nil => Ok(Bytes::new()),
            _ => Err(unexpected()),
        }
    }

    async fn holder(&self, key: Fingerprint) -> Result<Option<Token>, BackendError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.names().meta(&key)).arg("t");
        match self.call(&Command::Plain(command)).await? {
            Value::BulkString(token) => Ok(Token::from_slice(&token)),
            Value::Nil => Ok(None),
            _ => Err(unexpected()),
        }
    }

    async fn want(&self, process: Process, want: Want) -> Result<u64, BackendError> {
        self.publish(&self.names().inbox(&process), &encode_want(want)).await
    }

    async fn forsake(&self, flight: Flight) -> Result<u64, BackendError> {
        self.publish(&self.names().channel(&flight), &Piece::header(FORSAKEN)).await
    }

    async fn listen(&self, flight: Flight) -> Result<Subscription, BackendError> {
        self.subscribe(&self.names().channel(&flight)).await
    }

    async fn inbox(&self, process: Process) -> Result<Subscription, BackendError> {
        self.subscribe(&self.names().inbox(&process)).await
    }

    async fn mark(&self, flight: Flight, length: u64) -> Result<u64, BackendError> {
        self.publish(&self.names().channel(&flight), &Piece::caught_up(length)).await
    }

    async fn offer(
        &self,
        token: Fingerprint,
        offered: Offered,
        owner: Option<TenantHash>,
        ttl: Duration,
    ) -> Result<(), BackendError> {
        let command = OFFER
            .keys(&[&self.names().offer(&token)])
            .arg(offered.encode())
            .arg(whole_millis(offered.age))
            .arg(millis(ttl))
            .arg(owner.map_or(0, TenantHash::get))
            .arg(if offered.has_ended { "e" } else { "f" });
        self.call(&command).await.map(drop)
    }

    async fn offered(&self, token: Fingerprint) -> Result<Option<Offered>, BackendError> {
        let reply = self.call(&OFFERED.keys(&[&self.names().offer(&token)])).await?;
        match &reply {
            Value::Array(reply) => Ok(match reply.as_slice() {
                [Value::BulkString(bytes), Value::Int(age)] => {
                    Offered::decode(bytes, Duration::from_millis(unsigned(*age)))
                }
                _ => None,
            }),
            _ => Err(unexpected()),
        }
    }

    async fn withdraw(&self, token: Fingerprint) -> Result<(), BackendError> {
        let mut command = redis::cmd("DEL");
        command.arg(self.names().offer(&token));
        self.call(&Command::Plain(command)).await.map(drop)
    }

    async fn ask(&self, process: Process, ask: Ask) -> Result<u64, BackendError> {
        self.publish(&self.names().inbox(&process), &ask.encode()).await
    }

    fn patience(&self) -> Duration {
        Redis::patience(self)
    }

    fn outage(&self) -> Outage {
        Redis::outage(self)
    }
}

fn claimed(reply: &Value) -> Option<Claimed> {
    let Value::Array(reply) = reply else { return None };
    let taken = |state, same_payload| {
        let [_, Value::BulkString(token), Value::BulkString(owner), Value::Int(age), Value::Int(ttl), ..] =
            reply.as_slice()
        else {
            return None;
        };
        Some(Claimed::Taken {
            state,
            same_payload,
            token: Token::from_slice(token)?,
            owner: Process::from_slice(owner)?,
            age: Duration::from_millis(unsigned(*age)),
            ttl: Duration::from_millis(unsigned(*ttl)),
        })
    };
    match reply.first()? {
        Value::Int(1) => Some(Claimed::Lead),
        Value::Int(0) if reply.last() == Some(&Value::Int(1)) => taken(FlightState::Kept, false),
        Value::Int(0) => taken(FlightState::InFlight, false),
        Value::Int(2) => taken(FlightState::InFlight, true),
        Value::Int(3) => taken(FlightState::Kept, true),
        Value::Int(4) => taken(FlightState::Outgrown, true),
        _ => None,
    }
}

pub(super) fn number(reply: &Value) -> Result<i64, BackendError> {
    match reply {
        Value::Int(number) => Ok(*number),
        _ => Err(unexpected()),
    }
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// At least 1, because 0 would mean for ever, or now.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, LONGEST_MILLIS)
}

/// The whole milliseconds; 0 for less than one.
pub(super) fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(LONGEST_MILLIS)
}

/// A hundred years: the most that Redis can add to its clock.
const LONGEST_MILLIS: u64 = 100 * 365 * 24 * 60 * 60 * 1000;

#[cold]
pub(super) fn unexpected() -> BackendError {
    BackendError::Refused("the script returned an unexpected reply".into())
}
