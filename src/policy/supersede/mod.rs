//! Decides which message of a conversation continues when a newer one comes.
//!
//! # Why is a superseded message remembered?
//!
//! The client that sent it does not know, and retries: the SDKs of OpenAI and Anthropic do so twice. Its second attempt
//! would count as the newest message, and end the one that the user waits for. So a superseded message is refused when it
//! comes again. A message with the same payload as the one in flight, on the other hand, is another attempt at it, and
//! ends nothing.

mod idle;

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use self::idle::IdleConversations;
use crate::proto::fingerprint::{Fingerprint, FingerprintMap};

/// The conversations with a message in flight, or with remembered messages. `C` is the handle of a call.
#[derive(Debug)]
pub(crate) struct Conversations<C> {
    known: FingerprintMap<Conversation<C>>,
    idle: IdleConversations,
    /// The number of calls so far.
    calls: u64,
}

#[derive(Debug)]
struct Conversation<C> {
    /// A hash of its tenant.
    tenant: u64,
    /// Whether its tenant has had an answer: any caller can invent a name or a key.
    is_served: bool,
    /// The first is in flight, or ended without a final answer. The others wait for it.
    messages: VecDeque<ActiveMessage<C>>,
    /// Superseded messages, the oldest first.
    superseded: VecDeque<(Fingerprint, Instant)>,
    /// The place of the newest message in the order of arrival.
    newest: u64,
    /// Its place among the idle conversations.
    idle: Option<u64>,
}

#[derive(Debug)]
struct ActiveMessage<C> {
    payload: Fingerprint,
    /// Until then it waits for a newer one.
    settles: Option<Instant>,
    /// Several, if a message is sent again while it is in flight.
    calls: Vec<(u64, C)>,
    /// The last call that was dropped or failed: a layer inside may keep its upstream call alive for a while.
    left: Option<C>,
    is_answered: bool,
}

/// What happens to a message when another one of the same conversation comes. A setting of the layer, or, in the
/// extensions of a request, for that request.
///
/// ```
/// use http::Request;
/// use tower_buttress::SupersedeMode;
///
/// let request = Request::post("/v1/chat/completions").extension(SupersedeMode::Reject).body(()).unwrap();
/// assert_eq!(request.extensions().get(), Some(&SupersedeMode::Reject));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SupersedeMode {
    /// The newer message ends the earlier ones.
    #[default]
    Interrupt,
    /// The newer message is refused while one is in flight.
    Reject,
    /// The newer message waits until the earlier ones have ended. Made with [`enqueue`](Self::enqueue).
    #[non_exhaustive]
    Enqueue {
        /// The number of messages of one conversation that may wait. Further ones are refused.
        max: u32,
    },
    /// The request is not a message: it passes, and ends nothing.
    Off,
}

/// A new message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arriving {
    pub(crate) conversation: Fingerprint,
    /// A hash of its tenant, with a key that is random in each process.
    pub(crate) tenant: u64,
    pub(crate) payload: Fingerprint,
    /// Its place in the order in which messages began to arrive: a long message may be complete after a later one.
    pub(crate) order: u64,
    pub(crate) mode: SupersedeMode,
    pub(crate) settle: Duration,
}

/// The result for a new call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It joins the conversation; [ask](Conversations::start_time) whether it may start.
    Enters(CallId),
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A newer message has replaced it.
    Superseded,
    /// Another message is in flight, and this one does not supersede it.
    Busy,
}

/// A call of a conversation. Return it with [`Conversations::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallId {
    conversation: Fingerprint,
    call: u64,
}

/// When a call may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartTime {
    Now,
    /// At this time, if no newer message comes.
    At(Instant),
    /// When the earlier messages have ended.
    Later,
    /// It no longer belongs to a conversation.
    Never,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With an answer that clients do not retry.
    Answered,
    /// It was dropped or failed: its client may retry.
    Unanswered,
}

/// How long a superseded message is refused.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(600);
/// The most superseded messages per conversation.
pub(crate) const MOST_REMEMBERED: usize = 16;

// === impl Conversations ===

impl<C: Clone> Conversations<C> {
    /// Remembers `most_idle` idle conversations, and an eighth of that per tenant.
    pub(crate) fn new(most_idle: usize) -> Self {
        Self { known: FingerprintMap::default(), idle: IdleConversations::new(most_idle), calls: 0 }
    }

    /// Adds a complete message. Calls that it ends are added to `ends`.
    pub(crate) fn arrive(&mut self, message: &Arriving, call: C, now: Instant, ends: &mut Vec<C>) -> Arrival {
        self.forget_expired(now);
        self.calls = self.calls.wrapping_add(1);
        let id = CallId { conversation: message.conversation, call: self.calls };
        let conversation = self.known.entry(message.conversation).or_insert_with(|| Conversation::new(message.tenant));
        if let Err(refusal) = conversation.enter(message, (id.call, call), now, ends) {
            return Arrival::Refused(refusal);
        }
        if let Some(place) = conversation.idle.take() {
            self.idle.remove(place);
        }
        Arrival::Enters(id)
    }

    /// Returns when a call may start.
    pub(crate) fn start_time(&self, id: CallId, now: Instant) -> StartTime {
        let Some(conversation) = self.known.get(&id.conversation) else { return StartTime::Never };
        match conversation.message_of(id.call) {
            None => StartTime::Never,
            Some(0) => match conversation.messages.front().and_then(|message| message.settles) {
                Some(settles) if settles > now => StartTime::At(settles),
                _ => StartTime::Now,
            },
            Some(_) => StartTime::Later,
        }
    }

    /// The upstream has served a call: its conversation now counts for its tenant's own account. The clock is read only
    /// if needed.
    pub(crate) fn served(&mut self, id: CallId, now: impl FnOnce() -> Instant) {
        let Some(conversation) = self.known.get_mut(&id.conversation) else { return };
        if std::mem::replace(&mut conversation.is_served, true) {
            return;
        }
        if let Some(place) = conversation.idle.take() {
            self.idle.remove(place);
            self.rest(id.conversation, now());
        }
    }

    /// A call has ended. Calls that may start now are added to `turns`. The clock is read only if needed.
    pub(crate) fn leave(&mut self, id: CallId, ended: Ended, now: impl FnOnce() -> Instant, turns: &mut Vec<C>) {
        let Entry::Occupied(mut known) = self.known.entry(id.conversation) else { return };
        let conversation = known.get_mut();
        conversation.leave(id.call, ended, turns);
        if conversation.is_forgettable() && conversation.idle.is_none() {
            // The usual state after a call.
            known.remove();
        } else if !conversation.is_live() {
            self.rest(id.conversation, now());
        }
    }

    /// Ends all messages of a conversation. Their calls are added to `ends`.
    pub(crate) fn cancel(&mut self, conversation: &Fingerprint, now: Instant, ends: &mut Vec<C>) {
        let Some(known) = self.known.get_mut(conversation) else { return };
        known.supersede(now, ends);
        self.rest(*conversation, now);
    }

    /// Removes the superseded messages and idle conversations of this tenant, or of all. Returns the number of
    /// conversations.
    pub(crate) fn forget(&mut self, tenant: Option<u64>) -> usize {
        let (mut count, idle) = (0, &mut self.idle);
        self.known.retain(|_, conversation| {
            if tenant.is_some_and(|tenant| conversation.tenant != tenant) {
                return true;
            }
            let is_live = conversation.is_live();
            count += usize::from(!is_live || !conversation.superseded.is_empty());
            conversation.superseded.clear();
            if let Some(place) = conversation.idle.filter(|_| !is_live) {
                idle.remove(place);
            }
            is_live
        });
        count
    }

    /// A message was superseded in another process. Its calls are added to `ends`, and calls that may start then to
    /// `turns`.
    pub(crate) fn supersede_one(
        &mut self,
        conversation: &Fingerprint,
        payload: &Fingerprint,
        now: Instant,
        ends: &mut Vec<C>,
        turns: &mut Vec<C>,
    ) {
        let Some(known) = self.known.get_mut(conversation) else { return };
        known.supersede_one(payload, now, ends, turns);
        self.rest(*conversation, now);
    }

    /// A message of another process was superseded in a conversation that is known here.
    pub(crate) fn refuse(&mut self, conversation: &Fingerprint, payload: Fingerprint, now: Instant) {
        let Some(known) = self.known.get_mut(conversation) else { return };
        let is_under_way = known.messages.iter().any(|message| message.payload == payload);
        if !is_under_way && !known.superseded.iter().any(|(superseded, _)| *superseded == payload) {
            known.remember(payload, now);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Keeps a conversation without a message in flight only if it has something to remember.
    fn rest(&mut self, name: Fingerprint, now: Instant) {
        let Some(conversation) = self.known.get_mut(&name) else { return };
        if conversation.is_live() {
            return;
        }
        if conversation.is_forgettable() {
            if let Some(place) = conversation.idle {
                self.idle.remove(place);
            }
            self.known.remove(&name);
        } else if conversation.idle.is_none() {
            let account = conversation.is_served.then_some(conversation.tenant);
            let (place, forgotten) = self.idle.add(name, account, now);
            conversation.idle = Some(place);
            if let Some(forgotten) = forgotten {
                self.known.remove(&forgotten);
            }
        }
    }

    fn forget_expired(&mut self, now: Instant) {
        // Removes two for each one that is added, so that they become fewer.
        for _ in 0..2 {
            let Some(expired) = self.idle.take_expired(now, REMEMBERED) else { return };
            self.known.remove(&expired);
        }
    }
}

// === impl Conversation ===

impl<C: Clone> Conversation<C> {
    fn new(tenant: u64) -> Self {
        Self { tenant, is_served: false, messages: VecDeque::new(), superseded: VecDeque::new(), newest: 0, idle: None }
    }

    fn is_forgettable(&self) -> bool {
        self.messages.is_empty() && self.superseded.is_empty()
    }

    fn is_live(&self) -> bool {
        self.messages.iter().any(|message| !message.calls.is_empty())
    }

    /// The number of messages that wait for the first.
    fn waiting(&self) -> usize {
        self.messages.len().saturating_sub(1)
    }

    fn message_of(&self, call: u64) -> Option<usize> {
        self.messages.iter().position(|message| message.calls.iter().any(|(id, _)| *id == call))
    }

    fn enter(&mut self, message: &Arriving, call: (u64, C), now: Instant, ends: &mut Vec<C>) -> Result<(), Refusal> {
        self.superseded.retain(|(_, since)| now.saturating_duration_since(*since) < REMEMBERED);
        if let Some(same) = self.messages.iter_mut().find(|known| known.payload == message.payload) {
            same.calls.push(call);
            return Ok(());
        }
        if self.superseded.iter().any(|(payload, _)| *payload == message.payload) {
            return Err(Refusal::Superseded);
        }
        let mut settles = None;
        match message.mode {
            SupersedeMode::Interrupt if message.order < self.newest => {
                self.remember(message.payload, now);
                return Err(Refusal::Superseded);
            }
            SupersedeMode::Interrupt => {
                self.supersede(now, ends);
                settles = now.checked_add(message.settle).filter(|settles| *settles > now);
            }
            // The rest of a message that ended matters only to its own client.
            _ if !self.is_live() => self.messages.clear(),
            SupersedeMode::Enqueue { max } if self.waiting() < usize::try_from(max).unwrap_or(usize::MAX) => {}
            _ => return Err(Refusal::Busy),
        }
        self.newest = self.newest.max(message.order);
        self.messages.push_back(ActiveMessage {
            payload: message.payload,
            settles,
            calls: vec![call],
            left: None,
            is_answered: false,
        });
        Ok(())
    }

    /// Supersedes all messages.
    fn supersede(&mut self, now: Instant, ends: &mut Vec<C>) {
        for message in std::mem::take(&mut self.messages) {
            self.remember(message.payload, now);
            ends.extend(message.calls.into_iter().map(|(_, call)| call).chain(message.left));
        }
    }

    fn supersede_one(&mut self, payload: &Fingerprint, now: Instant, ends: &mut Vec<C>, turns: &mut Vec<C>) {
        let Some(index) = self.messages.iter().position(|message| message.payload == *payload) else { return };
        let Some(message) = self.messages.remove(index) else { return };
        self.remember(message.payload, now);
        ends.extend(message.calls.into_iter().map(|(_, call)| call).chain(message.left));
        if let Some(next) = self.messages.front().filter(|_| index == 0) {
            turns.extend(next.calls.iter().map(|(_, call)| call.clone()));
        }
    }

    fn remember(&mut self, payload: Fingerprint, now: Instant) {
        if self.superseded.len() >= MOST_REMEMBERED {
            self.superseded.pop_front();
        }
        self.superseded.push_back((payload, now));
    }

    fn leave(&mut self, call: u64, ended: Ended, turns: &mut Vec<C>) {
        // `None`: it was superseded.
        let Some(index) = self.message_of(call) else { return };
        let others = self.waiting() > 0;
        let Some(message) = self.messages.get_mut(index) else { return };
        let Some(position) = message.calls.iter().position(|(id, _)| *id == call) else { return };
        let (_, left) = message.calls.swap_remove(position);
        match ended {
            Ended::Answered => message.is_answered = true,
            Ended::Unanswered => message.left = Some(left),
        }
        let is_over = message.calls.is_empty() && (message.is_answered || others);
        if is_over {
            self.messages.remove(index);
            if let Some(next) = self.messages.front().filter(|_| index == 0) {
                turns.extend(next.calls.iter().map(|(_, call)| call.clone()));
            }
        }
    }
}

// === impl CallId ===

impl CallId {
    pub(crate) const fn conversation(self) -> Fingerprint {
        self.conversation
    }
}

// === impl SupersedeMode ===

impl SupersedeMode {
    /// At most `max` messages of one conversation wait. Further ones are refused.
    #[must_use]
    pub const fn enqueue(max: u32) -> Self {
        Self::Enqueue { max }
    }

    /// A stable name: `"interrupt"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Reject => "reject",
            Self::Enqueue { .. } => "enqueue",
            Self::Off => "off",
        }
    }
}

#[cfg(test)]
mod tests;
