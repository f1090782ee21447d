//! The engine of shared pauses.

use std::future::Future;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use redis::Value;
use tower_buttress::PeerPause;
use tower_buttress::store::Fingerprint;

use super::redis::{millis, number, unexpected, unsigned};
use super::{BackendError, Process, Subscription};
use crate::client::Redis;
use crate::client::script::LuaScript;

static PAUSE: LuaScript =
    LuaScript::new("pause", concat!(include_str!("../scripts/paused.lua"), include_str!("../scripts/pause.lua")));
static PAUSED: LuaScript =
    LuaScript::new("paused", concat!(include_str!("../scripts/paused.lua"), "return {paused(KEYS[1])}"));

/// The engine of [`FleetPauses`](crate::FleetPauses).
///
/// See the [module](super) for an example.
pub trait PauseBackend: Clone + Send + Sync + 'static {
    /// An upstream asked to wait this long with the calls of this limit. The other processes learn of it. `false`: a
    /// longer pause is known.
    fn pause(&self, pause: PauseNews) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// The pause of this limit from now; a duration of 0: none.
    fn paused(&self, limit: Fingerprint) -> impl Future<Output = Result<PeerPause, BackendError>> + Send;

    /// Subscribes to news of pauses: see [`PauseNews`].
    fn pause_news(&self) -> impl Future<Output = Result<Subscription, BackendError>> + Send;
}

/// A pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PauseNews {
    /// The limit.
    pub limit: Fingerprint,
    /// How long its calls wait, from the receipt of this message.
    pub pause: PeerPause,
    /// The process that met the 429.
    pub process: Process,
}

/// The length of a message.
const LENGTH: usize = 32 + 8 + 1 + 16;

// === impl PauseNews ===

impl PauseNews {
    /// Parses a message; `None`: it is not such news.
    #[must_use]
    pub fn decode(mut message: Bytes) -> Option<Self> {
        if message.len() != LENGTH {
            return None;
        }
        let limit = Fingerprint::from_bytes(message.split_to(32).first_chunk().copied()?);
        let wait = Duration::from_millis(message.get_u64_le());
        let pause = PeerPause::new(wait, message.get_u8() != 0);
        Some(Self { limit, pause, process: Process::from_slice(&message)? })
    }

    pub(super) fn encode(self) -> Bytes {
        let mut message = BytesMut::with_capacity(LENGTH);
        message.put_slice(self.limit.as_bytes());
        message.put_u64_le(millis(self.pause.wait));
        message.put_u8(self.pause.finds_out.into());
        message.put_slice(self.process.as_bytes());
        message.freeze()
    }
}

impl PauseBackend for Redis {
    async fn pause(&self, pause: PauseNews) -> Result<bool, BackendError> {
        let names = self.names();
        let command = PAUSE
            .keys(&[&names.pause(&pause.limit), &names.pauses()])
            .arg(millis(pause.pause.wait))
            .arg(&pause.encode()[..])
            .arg(u8::from(pause.pause.finds_out));
        Ok(number(&self.call(&command).await?)? == 1)
    }

    async fn paused(&self, limit: Fingerprint) -> Result<PeerPause, BackendError> {
        let command = PAUSED.keys(&[&self.names().pause(&limit)]);
        let Value::Array(reply) = self.call(&command).await? else { return Err(unexpected()) };
        let [Value::Int(left), Value::Int(finds_out)] = reply.as_slice() else { return Err(unexpected()) };
        Ok(PeerPause::new(Duration::from_millis(unsigned(*left)), *finds_out == 1))
    }

    async fn pause_news(&self) -> Result<Subscription, BackendError> {
        self.subscribe(&self.names().pauses()).await
    }
}

#[cfg(any(test, feature = "model"))]
mod model {
    use super::super::model::{Channel, Lasting, RedisModel};
    use super::*;

    impl PauseBackend for RedisModel {
        async fn pause(&self, pause: PauseNews) -> Result<bool, BackendError> {
            let mut state = self.reach()?;
            let now = state.now();
            let PeerPause { wait, finds_out, .. } = pause.pause;
            if state.pauses.get_mut(&pause.limit).is_some_and(|(paused, _)| paused.left(now) >= wait) {
                return Ok(false);
            }
            state.pauses.insert(pause.limit, (Lasting::until(now + wait, now), finds_out));
            state.publish(Channel::Pauses, &pause.encode());
            Ok(true)
        }

        async fn paused(&self, limit: Fingerprint) -> Result<PeerPause, BackendError> {
            let mut state = self.reach()?;
            let now = state.now();
            let paused = state.pauses.get_mut(&limit).map(|(paused, finds_out)| (paused.left(now), *finds_out));
            let (wait, finds_out) = paused.filter(|(left, _)| !left.is_zero()).unwrap_or_default();
            Ok(PeerPause::new(wait, finds_out))
        }

        async fn pause_news(&self) -> Result<Subscription, BackendError> {
            self.subscribe(Channel::Pauses)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_read_as_they_are_written_and_nothing_else_is() {
        let limit = Fingerprint::from_bytes([7; 32]);
        for finds_out in [false, true] {
            let pause = PeerPause::new(Duration::from_millis(1500), finds_out);
            let news = PauseNews { limit, pause, process: Process::random() };
            assert_eq!(PauseNews::decode(news.encode()), Some(news));
        }
        for length in [0, 1, 56, 58] {
            assert_eq!(PauseNews::decode(vec![0; length].into()), None);
        }
    }
}
