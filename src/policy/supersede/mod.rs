//! Which message of a conversation goes on when a newer one comes.
//!
//! # Why is a message remembered that was superseded?
//!
//! The client that sent it does not know, and tries again: openai's and anthropic's do so twice by themselves. Its second
//! attempt would be the newest message of the conversation, and end the one that the person waits for. So what was
//! superseded is refused when it comes again. The same payload as that of the message under way, on the other hand, is
//! another attempt at it, and ends nothing.

mod idle;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use self::idle::IdleConversations;
use crate::proto::fingerprint::Fingerprint;

/// The conversations that have a message under way, or something to remember. `C` is the handle of a call.
#[derive(Debug)]
pub(crate) struct Conversations<C> {
    known: HashMap<Fingerprint, Conversation<C>>,
    idle: IdleConversations,
    /// How many calls have come.
    calls: u64,
}

#[derive(Debug)]
struct Conversation<C> {
    /// A hash of its tenant.
    tenant: u64,
    /// Whether its tenant has had an answer: any caller can invent a name or a key.
    is_served: bool,
    /// The first is under way, or was, and has had no answer that is final. The others wait for it.
    messages: VecDeque<Message<C>>,
    /// What was superseded, the oldest first.
    superseded: VecDeque<(Fingerprint, Instant)>,
    /// Where the newest message stands in the order in which messages came.
    newest: u64,
    /// Its place among the conversations that have no message under way.
    idle: Option<u64>,
}

#[derive(Debug)]
struct Message<C> {
    payload: Fingerprint,
    /// Until then it waits for a newer one.
    settles: Option<Instant>,
    /// A message that is sent again while it is under way has several.
    calls: Vec<(u64, C)>,
    /// The last call that was dropped or failed: a layer inside may keep its upstream going for a while.
    left: Option<C>,
    is_answered: bool,
}

/// What becomes of a message when another one of the same conversation comes. Set for a layer, and, in the extensions of a
/// request, for that request.
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
    /// The newer message ends those before it.
    #[default]
    Interrupt,
    /// The newer message is refused while one is under way.
    Reject,
    /// The newer message waits until those before it have ended.
    Enqueue {
        /// How many messages of one conversation may wait. One more is refused.
        max: u32,
    },
    /// The request is no message: it passes, and ends nothing.
    Off,
}

/// A message that comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arriving {
    pub(crate) conversation: Fingerprint,
    /// A hash of its tenant, with a key that is drawn anew in each process.
    pub(crate) tenant: u64,
    pub(crate) payload: Fingerprint,
    /// Where it stands in the order in which messages began to come: a long one may be complete after a later one.
    pub(crate) order: u64,
    pub(crate) mode: SupersedeMode,
    pub(crate) settle: Duration,
}

/// What becomes of a call that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is in the conversation, and to [ask](Conversations::turn) whether it may go on.
    Enters(CallId),
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A newer message has taken its place.
    Superseded,
    /// Another message is under way, and none is superseded.
    Busy,
}

/// A call of a conversation. It is given back with [`Conversations::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallId {
    conversation: Fingerprint,
    call: u64,
}

/// When a call may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartTime {
    Now,
    /// Not before this, if no newer message comes.
    At(Instant),
    /// When the messages before it have ended.
    Later,
    /// It belongs to no conversation any more.
    Never,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With an answer that clients do not ask for again.
    Answered,
    /// It was dropped or failed: its client may try again.
    Unanswered,
}

/// How long a superseded message is refused.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(600);
/// How many of one conversation are.
pub(crate) const MOST_REMEMBERED: usize = 16;

// === impl Conversations ===

impl<C: Clone> Conversations<C> {
    /// Remembers `most_idle` conversations that have no message under way, and an eighth of that for one tenant.
    pub(crate) fn new(most_idle: usize) -> Self {
        Self { known: HashMap::new(), idle: IdleConversations::new(most_idle), calls: 0 }
    }

    /// A message has come whole. Calls that end with that are added to `ends`.
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

    /// Whether a call may go on.
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

    /// The upstream has served a call. From now on its conversation is remembered on its tenant's own account. The clock is
    /// read where that is needed.
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

    /// A call is over. Calls whose turn it is with that are added to `turns`. The clock is read where that is needed.
    pub(crate) fn leave(&mut self, id: CallId, ended: Ended, now: impl FnOnce() -> Instant, turns: &mut Vec<C>) {
        let Entry::Occupied(mut known) = self.known.entry(id.conversation) else { return };
        let conversation = known.get_mut();
        conversation.leave(id.call, ended, turns);
        if conversation.is_forgettable() && conversation.idle.is_none() {
            // What most calls leave behind.
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

    /// Forgets what was superseded of this tenant, or of all, and the conversations without a message under way. Returns how many
    /// conversations that were.
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

    /// A message was superseded in another process. Its calls are added to `ends`, and those whose turn it is then to `turns`.
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

    /// In a conversation that is known here, a message of another process was superseded.
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

    /// Where no message of a conversation is under way any more, it is remembered if there is something to remember.
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
        // More than one comes at a time: so these become fewer.
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

    /// How many messages wait for the first.
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
            // What is left here of one that ended is its own client's matter.
            _ if !self.is_live() => self.messages.clear(),
            SupersedeMode::Enqueue { max } if self.waiting() < usize::try_from(max).unwrap_or(usize::MAX) => {}
            _ => return Err(Refusal::Busy),
        }
        self.newest = self.newest.max(message.order);
        self.messages.push_back(Message {
            payload: message.payload,
            settles,
            calls: vec![call],
            left: None,
            is_answered: false,
        });
        Ok(())
    }

    /// All messages have been superseded.
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
