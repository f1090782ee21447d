//! The engine of shared conversations.

use std::future::Future;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;
use tower_buttress::store::Fingerprint;

use super::circuits::AT_ONCE;
use super::redis::{millis, number, unexpected, unsigned, whole_millis};
use super::{BackendError, STRANGERS, Subscription};
use crate::client::Redis;
use crate::client::script::LuaScript;

static NEWEST: LuaScript = LuaScript::new(
    "newest",
    concat!(include_str!("../scripts/conversations.lua"), include_str!("../scripts/newest.lua")),
);
static ANSWERED: LuaScript = LuaScript::new(
    "answered",
    concat!(include_str!("../scripts/conversations.lua"), include_str!("../scripts/answered.lua")),
);

/// The engine of [`FleetSupersede`](crate::FleetSupersede).
///
/// See the [module](super) for an example.
pub trait ConversationBackend: Clone + Send + Sync + 'static {
    /// Reports a message and when it came. The newest message gets the next number of its conversation, and the other
    /// processes learn of it. It supersedes the previous one, unless that was [answered](Self::answered). A message
    /// that came more than 0.1 s ago, and before the newest, is superseded. The number is above `known`, the highest
    /// one that the process knows, even if the engine has forgotten it and its clock has gone back. Of a new conversation
    /// nothing is stored if `share` has no room.
    fn newest(
        &self,
        message: MessageId,
        came: Instant,
        known: u64,
        share: ConversationShare,
    ) -> impl Future<Output = Result<Newest, BackendError>> + Send;

    /// Reports that a message has a final answer, so that a newer one does not supersede it. Another call of the
    /// message, reported by [`newest`](Self::newest), puts it in flight again. `false`: another message is the newest,
    /// or this was known. If the upstream has served it, the conversation counts as its tenant's own, if there is room.
    fn answered(
        &self,
        message: MessageId,
        share: ConversationShare,
    ) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// Subscribes to news of conversations: see [`ConversationNews`].
    fn conversation_news(&self) -> impl Future<Output = Result<Subscription, BackendError>> + Send;
}

/// A message of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// The conversation's digest.
    pub conversation: Fingerprint,
    /// The digest of the message.
    pub payload: Fingerprint,
}

/// A tenant's share of conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationShare {
    /// The tenant.
    pub tenant: Fingerprint,
    /// Whether it is the tenant's own. Else the conversation counts with those of all tenants of whom this is false,
    /// because any caller can invent them: together they have one share.
    pub is_served: bool,
    /// Their number.
    pub most: u64,
}

/// The place of a message in its conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Newest {
    /// It is the newest, for the first time or again.
    Number {
        /// Its number.
        number: u64,
        /// The digests of superseded messages, in no particular order.
        superseded: Vec<Fingerprint>,
    },
    /// A newer message has superseded it.
    Superseded,
    /// The tenant has too many conversations: this one is not shared.
    NoRoom,
}

/// News: a conversation has a newer message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationNews {
    /// The conversation.
    pub conversation: Fingerprint,
    /// The number of its newest message.
    pub number: u64,
    /// The digest of that message.
    pub payload: Fingerprint,
}

/// How long a superseded message is refused.
pub(super) const REMEMBERED: Duration = Duration::from_secs(600);

/// How many superseded messages per conversation are kept.
#[cfg(any(test, feature = "model"))]
pub(super) const MOST_REMEMBERED: usize = 16;

/// How long a conversation without messages keeps its number.
const KEPT: Duration = Duration::from_secs(3600);

// === impl Newest ===

impl Newest {
    fn number(number: u64, mut superseded: Vec<Fingerprint>) -> Self {
        superseded.sort_by_key(|payload| *payload.as_bytes());
        Self::Number { number, superseded }
    }
}

// === impl ConversationNews ===

impl ConversationNews {
    /// Parses a message; `None`: it is not such news.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        let (conversation, rest) = message.split_first_chunk::<32>()?;
        let (payload, number) = rest.split_first_chunk::<32>()?;
        let number = std::str::from_utf8(number).ok()?.parse().ok()?;
        let (conversation, payload) = (Fingerprint::from_bytes(*conversation), Fingerprint::from_bytes(*payload));
        Some(Self { conversation, number, payload })
    }

    /// Encodes it as the script does.
    #[cfg(any(test, feature = "model"))]
    fn encode(self) -> bytes::Bytes {
        let number = self.number.to_string();
        [&self.conversation.as_bytes()[..], self.payload.as_bytes(), number.as_bytes()].concat().into()
    }
}

impl ConversationBackend for Redis {
    async fn newest(
        &self,
        message: MessageId,
        came: Instant,
        known: u64,
        share: ConversationShare,
    ) -> Result<Newest, BackendError> {
        // By the clock of Redis, if known, so that a Redis that was frozen sees that the command is late.
        let at = self.clock_at(came);
        match self.send_newest(message, came, at, known, share).await? {
            // The message came before the newest, by a clock that may have jumped since. Ask again by age: Redis
            // answers now, so the age is correct.
            None if at.is_some() => {
                Ok(self.send_newest(message, came, None, known, share).await?.unwrap_or(Newest::Superseded))
            }
            newest => Ok(newest.unwrap_or(Newest::Superseded)),
        }
    }

    async fn answered(&self, message: MessageId, share: ConversationShare) -> Result<bool, BackendError> {
        let names = self.names();
        let keys = [
            names.conversation(&message.conversation, 'i'),
            names.conversations_of(&share.tenant),
            names.conversations_of(&STRANGERS),
        ];
        let command = ANSWERED
            .keys(&keys.each_ref().map(Vec::as_slice))
            .arg(message.payload.as_bytes().as_slice())
            .arg(message.conversation.as_bytes().as_slice())
            .arg(millis(KEPT))
            .arg(share.most)
            .arg(u8::from(share.is_served));
        Ok(number(&self.call(&command).await?)? == 1)
    }

    async fn conversation_news(&self) -> Result<Subscription, BackendError> {
        self.subscribe(&self.names().conversations()).await
    }
}

impl Redis {
    /// `at`: when the message came, by the clock of Redis; `None`: use its age. Returns `None` for a message that came
    /// before the newest by `at`; nothing is stored then.
    async fn send_newest(
        &self,
        message: MessageId,
        came: Instant,
        at: Option<u64>,
        known: u64,
        share: ConversationShare,
    ) -> Result<Option<Newest>, BackendError> {
        let MessageId { conversation, payload } = message;
        let names = self.names();
        let keys = [
            names.conversation(&conversation, 'i'),
            names.conversation(&conversation, 's'),
            names.conversations(),
            names.conversations_of(&share.tenant),
            names.conversations_of(&STRANGERS),
        ];
        let command = NEWEST
            .keys(&keys.each_ref().map(Vec::as_slice))
            .arg(payload.as_bytes().as_slice())
            .arg(millis(REMEMBERED))
            .arg(millis(KEPT))
            .arg([*conversation.as_bytes(), *payload.as_bytes()].concat())
            .arg(at.unwrap_or(0))
            .arg(whole_millis(came.elapsed()))
            .arg(whole_millis(AT_ONCE))
            .arg(known)
            .arg(share.most)
            .arg(u8::from(share.is_served));
        let sent = Instant::now();
        let Value::Array(reply) = self.call(&command).await? else { return Err(unexpected()) };
        let [Value::Int(number), Value::Int(what), Value::Int(now), payloads @ ..] = reply.as_slice() else {
            return Err(unexpected());
        };
        self.note_clock(unsigned(*now), sent);
        let payload = |payload: &Value| match payload {
            Value::BulkString(payload) => payload.as_slice().try_into().ok().map(Fingerprint::from_bytes),
            _ => None,
        };
        Ok(match what {
            2 => Some(Newest::Superseded),
            3 => None,
            4 => Some(Newest::NoRoom),
            _ => Some(Newest::number(unsigned(*number), payloads.iter().filter_map(payload).collect())),
        })
    }
}

#[cfg(any(test, feature = "model"))]
pub(super) mod model {
    use std::collections::HashMap;

    use super::super::model::{Channel, Conversation, RedisModel, State};
    use super::*;

    /// The conversations of each tenant.
    #[derive(Clone, Default)]
    pub(in super::super) struct Shares(HashMap<Fingerprint, Spoken>);

    /// A tenant's conversations, by expiry.
    #[derive(Clone, Default)]
    struct Spoken {
        conversations: HashMap<Fingerprint, Instant>,
        until: Option<Instant>,
    }

    // === impl Shares ===

    impl Shares {
        /// In whose share a conversation counts; `None`: there is no room.
        fn share_of(
            &mut self,
            conversation: &Fingerprint,
            share: ConversationShare,
            now: Instant,
        ) -> Option<Fingerprint> {
            let ConversationShare { tenant, is_served, most } = share;
            for tenant in [tenant, STRANGERS] {
                let spoken = self.0.entry(tenant).or_default();
                if spoken.until.is_some_and(|until| until.saturating_duration_since(now) > KEPT) {
                    spoken.conversations.clear();
                }
                spoken.conversations.retain(|_, until| *until > now);
            }
            let is_strangers = self.expiry(&STRANGERS, conversation).is_some();
            if self.expiry(&tenant, conversation).is_some() {
                return Some(tenant);
            }
            if is_strangers && !is_served {
                return Some(STRANGERS);
            }
            let whose = if is_served { tenant } else { STRANGERS };
            let has_room = self.0.get(&whose).is_none_or(|spoken| (spoken.conversations.len() as u64) < most);
            if has_room { Some(whose) } else { is_strangers.then_some(STRANGERS) }
        }

        fn expiry(&self, tenant: &Fingerprint, conversation: &Fingerprint) -> Option<Instant> {
            self.0.get(tenant)?.conversations.get(conversation).copied()
        }

        fn keep(&mut self, whose: Fingerprint, conversation: Fingerprint, expires: Instant, now: Instant) {
            if let Some(strangers) = self.0.get_mut(&STRANGERS).filter(|_| whose != STRANGERS) {
                strangers.conversations.remove(&conversation);
            }
            let spoken = self.0.entry(whose).or_default();
            spoken.conversations.insert(conversation, expires);
            spoken.until = Some(now + KEPT);
        }

        pub(in super::super) fn clear(&mut self) {
            self.0.clear();
        }
    }

    impl ConversationBackend for RedisModel {
        async fn newest(
            &self,
            message: MessageId,
            came: Instant,
            numbered: u64,
            share: ConversationShare,
        ) -> Result<Newest, BackendError> {
            let MessageId { conversation, payload } = message;
            let mut state = self.reach()?;
            let (now, millis, age) = (state.now(), state.millis(), came.elapsed());
            let came = if age <= AT_ONCE { now } else { now.checked_sub(age).unwrap_or(now) };
            let State { conversations, spoken, .. } = &mut *state;
            let is_known = conversations.get(&conversation).is_some_and(|known| known.until > now);
            let whose = match spoken.share_of(&conversation, share, now) {
                None if !is_known => return Ok(Newest::NoRoom),
                None => {
                    if share.is_served {
                        share.tenant
                    } else {
                        STRANGERS
                    }
                }
                Some(whose) => whose,
            };
            let known = conversations.entry(conversation).or_insert_with(|| Conversation::new(now));
            if known.until <= now {
                *known = Conversation { superseded: std::mem::take(&mut known.superseded), ..Conversation::new(now) };
            }
            known.superseded.retain(|(_, since)| now.saturating_duration_since(*since) < REMEMBERED);
            known.superseded.iter_mut().for_each(|(_, since)| *since = now.min(*since));
            let is_older = known.came.is_some_and(|newest| newest > came && newest <= now);
            if known.newest == Some(payload) && (is_older || !known.is_answered) {
                (known.is_answered, known.until) = (false, now + KEPT);
                spoken.keep(whose, conversation, now + KEPT, now);
                return Ok(Newest::number(known.number, known.payloads()));
            }
            if known.superseded.iter().any(|(superseded, _)| *superseded == payload) {
                return Ok(Newest::Superseded);
            }
            if is_older {
                known.supersede(payload, now);
                return Ok(Newest::Superseded);
            }
            if let Some(newest) = known.newest.filter(|_| !known.is_answered) {
                known.supersede(newest, now);
            }
            known.number = millis.max(known.number.max(numbered) + 1);
            (known.newest, known.is_answered) = (Some(payload), false);
            (known.came, known.until) = (Some(came), now + KEPT);
            spoken.keep(whose, conversation, now + KEPT, now);
            let newest = Newest::number(known.number, known.payloads());
            let news = ConversationNews { conversation, number: known.number, payload };
            state.publish(Channel::Conversations, &news.encode());
            Ok(newest)
        }

        async fn answered(&self, message: MessageId, share: ConversationShare) -> Result<bool, BackendError> {
            let MessageId { conversation, payload } = message;
            let mut state = self.reach()?;
            let now = state.now();
            let State { conversations, spoken, .. } = &mut *state;
            let known = conversations.get_mut(&conversation);
            let Some(known) = known.filter(|known| known.until > now && known.newest == Some(payload)) else {
                return Ok(false);
            };
            if let Some(expires) = spoken.expiry(&STRANGERS, &conversation).filter(|_| share.is_served)
                && spoken.share_of(&conversation, share, now) == Some(share.tenant)
            {
                spoken.keep(share.tenant, conversation, expires, now);
            }
            Ok(!std::mem::replace(&mut known.is_answered, true))
        }

        async fn conversation_news(&self) -> Result<Subscription, BackendError> {
            self.subscribe(Channel::Conversations)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_read_as_they_are_written_and_nothing_else_is() {
        let news = ConversationNews {
            conversation: Fingerprint::from_bytes([7; 32]),
            number: 12,
            payload: Fingerprint::from_bytes([8; 32]),
        };
        assert_eq!(ConversationNews::decode(&news.encode()), Some(news));
        for none in [&b""[..], &[0; 64], &[0xff; 70]] {
            assert_eq!(ConversationNews::decode(none), None);
        }
    }
}
