//! The messages in flight in this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tower_buttress::PeerMessage;
use tower_buttress::store::Fingerprint;

use super::served::ServedTenants;
use crate::backend::{ConversationShare, MessageId};

/// Calls and the task both write to it. A call notifies the task of its changes.
#[derive(Debug, Default)]
pub(super) struct LiveMessages {
    conversations: Mutex<HashMap<Fingerprint, LiveConversation>>,
    served: ServedTenants,
    /// Whether the task missed a change.
    is_behind: AtomicBool,
}

#[derive(Debug, Default)]
struct LiveConversation {
    /// The highest number known to this process.
    newest: u64,
    /// In order of arrival.
    messages: Vec<LiveMessage>,
}

#[derive(Debug)]
struct LiveMessage {
    message: PeerMessage,
    came: Instant,
    /// Whether its tenant is authenticated, or the upstream has served the message.
    is_served: bool,
    /// Zero until Redis assigns one.
    number: u64,
    /// Redis must be asked for its place.
    is_unasked: bool,
    /// That it was answered is not in Redis yet.
    is_answered: bool,
    /// When it was answered; `None`: it was not, or Redis knows.
    answered_at: Option<Instant>,
    calls: u32,
}

/// A request to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RedisRequest {
    /// The place of the message that came at this time, and the highest number of its conversation that this process
    /// knows.
    Newest(ConversationShare, Instant, u64),
    Answered(ConversationShare),
}

/// How long the report of an answered message is repeated: Redis refuses superseded messages this long.
const TELLS_FOR: Duration = Duration::from_secs(600);

/// With this many conversations in flight, the report is sent once.
const MOST_TOLD_AGAIN: usize = 4096;

// === impl LiveMessages ===

impl LiveMessages {
    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, LiveConversation>> {
        self.conversations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn came(&self, id: MessageId, message: PeerMessage) {
        let mut conversations = self.lock();
        let conversation = conversations.entry(id.conversation).or_default();
        if let Some(live) = conversation.get(&id) {
            live.calls += 1;
            live.is_unasked = true;
            live.is_served |= message.is_served();
            // First reports that the earlier calls were answered: they count as another message.
            live.is_answered |= live.answered_at.is_some();
            return;
        }
        conversation.messages.push(LiveMessage {
            came: Instant::now(),
            is_served: message.is_served(),
            message,
            number: 0,
            is_unasked: true,
            is_answered: false,
            answered_at: None,
            calls: 1,
        });
    }

    pub(super) fn ended(&self, id: &MessageId, is_served: bool, is_answered: bool) {
        let mut conversations = self.lock();
        if let Some(live) = conversations.get_mut(&id.conversation).and_then(|known| known.get(id)) {
            live.calls = live.calls.saturating_sub(1);
            if is_served && !std::mem::replace(&mut live.is_served, true) {
                self.served.add(*live.message.tenant());
            }
            if is_answered {
                (live.is_answered, live.answered_at) = (true, Some(Instant::now()));
            }
        }
    }

    pub(super) fn forget(&self, id: &MessageId) {
        let mut conversations = self.lock();
        if let Some(known) = conversations.get_mut(&id.conversation) {
            known.messages.retain(|live| live.message.payload() != &id.payload);
            if known.messages.is_empty() {
                conversations.remove(&id.conversation);
            }
        }
    }

    /// Makes the task examine all conversations.
    pub(super) fn look_at_all(&self) {
        self.is_behind.store(true, Relaxed);
    }

    pub(super) fn is_behind(&self) -> bool {
        self.is_behind.load(Relaxed)
    }

    /// All conversations. Clears the mark that the task missed a change.
    pub(super) fn all(&self) -> Vec<Fingerprint> {
        self.is_behind.store(false, Relaxed);
        self.lock().keys().copied().collect()
    }

    /// The next request to Redis; `None`: none. `most`: how many conversations of one tenant are shared.
    pub(super) fn next(&self, conversation: &Fingerprint, most: u64) -> Option<(MessageId, RedisRequest)> {
        let mut conversations = self.lock();
        let known = conversations.get_mut(conversation)?;
        let id = |live: &LiveMessage| MessageId { conversation: *conversation, payload: *live.message.payload() };
        let share = |live: &LiveMessage| {
            let tenant = *live.message.tenant();
            ConversationShare { tenant, is_served: live.is_served || self.served.contains(&tenant), most }
        };
        // An answered message is reported only after Redis has numbered it.
        if let Some(live) = known.messages.iter_mut().find(|live| live.is_answered && live.number > 0) {
            live.is_answered = false;
            return Some((id(live), RedisRequest::Answered(share(live))));
        }
        if let Some(live) = known.messages.iter_mut().find(|live| live.is_unasked) {
            live.is_unasked = false;
            return Some((id(live), RedisRequest::Newest(share(live), live.came, known.newest)));
        }
        if let Some(live) = known.messages.iter_mut().find(|live| live.is_answered) {
            live.is_answered = false;
            return Some((id(live), RedisRequest::Answered(share(live))));
        }
        known.messages.retain(|live| live.calls > 0 || live.answered_at.is_some());
        if known.messages.is_empty() {
            conversations.remove(conversation);
        }
        None
    }

    /// Redis numbered a message. Returns the message, if it is in flight, and whether a newer one is known.
    pub(super) fn numbered(&self, id: &MessageId, number: u64) -> Option<(PeerMessage, bool)> {
        let mut conversations = self.lock();
        let known = conversations.get_mut(&id.conversation)?;
        known.newest = known.newest.max(number);
        let newest = known.newest;
        let live = known.get(id)?;
        live.number = number;
        Some((live.message.clone(), number < newest))
    }

    /// Records whether Redis knows that a message was answered. Returns whether to repeat the report.
    pub(super) fn answer_reported(&self, id: &MessageId, is_known: bool) -> bool {
        let mut conversations = self.lock();
        let is_room = conversations.len() < MOST_TOLD_AGAIN;
        let Some(live) = conversations.get_mut(&id.conversation).and_then(|known| known.get(id)) else { return false };
        // If another call of it is in flight, Redis learns how that one ends.
        let again = |at: &Instant| !is_known && is_room && live.calls == 0 && at.elapsed() < TELLS_FOR;
        live.answered_at = live.answered_at.filter(again);
        live.answered_at.is_some()
    }

    pub(super) fn get(&self, id: &MessageId) -> Option<PeerMessage> {
        Some(self.lock().get_mut(&id.conversation)?.get(id)?.message.clone())
    }

    /// Handles the newest message's number. Returns the older messages. One without a number is unknown here; Redis is
    /// asked for it.
    pub(super) fn on_newer(&self, newest: &MessageId, number: u64) -> Vec<PeerMessage> {
        let mut conversations = self.lock();
        let Some(known) = conversations.get_mut(&newest.conversation) else { return Vec::new() };
        known.newest = known.newest.max(number);
        let others = known.messages.iter_mut().filter(|live| *live.message.payload() != newest.payload);
        let older = others.filter_map(|live| {
            live.is_unasked |= live.number == 0 && live.calls > 0;
            (live.calls > 0 && (1..number).contains(&live.number)).then(|| live.message.clone())
        });
        older.collect()
    }

    /// Asks Redis again for all messages without a number, and repeats reports; with `numbered`, also asks for those
    /// with a number.
    pub(super) fn ask_again(&self, numbered: bool) {
        for live in self.lock().values_mut().flat_map(|known| &mut known.messages) {
            live.is_unasked |= live.calls > 0 && (numbered || live.number == 0);
            live.is_answered |= live.answered_at.is_some();
        }
    }
}

// === impl LiveConversation ===

impl LiveConversation {
    fn get(&mut self, id: &MessageId) -> Option<&mut LiveMessage> {
        self.messages.iter_mut().find(|live| *live.message.payload() == id.payload)
    }
}
