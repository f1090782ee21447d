//! What the rate limits of a fleet need of an engine.

use std::future::Future;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tower_buttress::store::Fingerprint;

use super::redis::{millis, number, unsigned};
use super::{BackendError, Process, Subscription};
use crate::client::Redis;
use crate::client::script::Script;

static PAUSE: Script =
    Script::new("pause", concat!(include_str!("../scripts/paused.lua"), include_str!("../scripts/pause.lua")));
static PAUSED: Script = Script::new("paused", concat!(include_str!("../scripts/paused.lua"), "return paused(KEYS[1])"));

/// The engine of [`FleetPauses`](crate::FleetPauses).
pub trait PauseBackend: Clone + Send + Sync + 'static {
    /// An upstream said to wait for this long with the calls of this limit. The others hear of it. `false`: they wait for
    /// longer already.
    fn pause(&self, pause: PauseNews) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// How long the calls of this limit are to wait from now; zero: not at all.
    fn paused(&self, limit: Fingerprint) -> impl Future<Output = Result<Duration, BackendError>> + Send;

    /// What is told of pauses from now on: see [`PauseNews`].
    fn pause_news(&self) -> impl Future<Output = Result<Subscription, BackendError>> + Send;
}

/// A pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PauseNews {
    /// The limit.
    pub limit: Fingerprint,
    /// How long its calls wait, from when this is heard.
    pub wait: Duration,
    /// The process that the upstream told so.
    pub process: Process,
}

// === impl PauseNews ===

impl PauseNews {
    /// Reads what was heard; `None`: it is no news.
    #[must_use]
    pub fn decode(mut message: Bytes) -> Option<Self> {
        if message.len() != 32 + 8 + 16 {
            return None;
        }
        let limit = Fingerprint::from_bytes(message.split_to(32).first_chunk().copied()?);
        let wait = Duration::from_millis(message.get_u64_le());
        Some(Self { limit, wait, process: Process::from_slice(&message)? })
    }

    pub(super) fn encode(self) -> Bytes {
        let mut message = BytesMut::with_capacity(32 + 8 + 16);
        message.put_slice(self.limit.as_bytes());
        message.put_u64_le(millis(self.wait));
        message.put_slice(self.process.as_bytes());
        message.freeze()
    }
}

impl PauseBackend for Redis {
    async fn pause(&self, pause: PauseNews) -> Result<bool, BackendError> {
        let names = self.names();
        let command =
            PAUSE.keys(&[&names.pause(&pause.limit), &names.pauses()]).arg(millis(pause.wait)).arg(&pause.encode()[..]);
        Ok(number(&self.call(&command).await?)? == 1)
    }

    async fn paused(&self, limit: Fingerprint) -> Result<Duration, BackendError> {
        let command = PAUSED.keys(&[&self.names().pause(&limit)]);
        number(&self.call(&command).await?).map(|left| Duration::from_millis(unsigned(left)))
    }

    async fn pause_news(&self) -> Result<Subscription, BackendError> {
        self.subscribe(&self.names().pauses()).await
    }
}

#[cfg(any(test, feature = "model"))]
mod model {
    use super::super::model::{Channel, Lasting, Model};
    use super::*;

    impl PauseBackend for Model {
        async fn pause(&self, pause: PauseNews) -> Result<bool, BackendError> {
            let mut state = self.reach()?;
            let now = state.now();
            if state.pauses.get_mut(&pause.limit).is_some_and(|paused| paused.left(now) >= pause.wait) {
                return Ok(false);
            }
            state.pauses.insert(pause.limit, Lasting::until(now + pause.wait, now));
            state.publish(Channel::Pauses, &pause.encode());
            Ok(true)
        }

        async fn paused(&self, limit: Fingerprint) -> Result<Duration, BackendError> {
            let mut state = self.reach()?;
            let now = state.now();
            Ok(state.pauses.get_mut(&limit).map_or(Duration::ZERO, |paused| paused.left(now)))
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
        let news = PauseNews { limit, wait: Duration::from_millis(1500), process: Process::random() };
        assert_eq!(PauseNews::decode(news.encode()), Some(news));
        for length in [0, 1, 55, 57] {
            assert_eq!(PauseNews::decode(vec![0; length].into()), None);
        }
    }
}
