//! The messages that are under way here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tower_buttress::PeerMessage;
use tower_buttress::store::Fingerprint;

use crate::backend::Message;

/// Written by the calls, which tell the task that something has changed, and by the task.
#[derive(Debug, Default)]
pub(super) struct LiveMessages {
    conversations: Mutex<HashMap<Fingerprint, Conversation>>,
    /// The task was not told of every change.
    is_behind: AtomicBool,
}

#[derive(Debug, Default)]
struct Conversation {
    /// The number of its newest message, as far as was heard.
    newest: u64,
    /// In the order in which they came.
    messages: Vec<Live>,
}

#[derive(Debug)]
struct Live {
    message: PeerMessage,
    came: Instant,
    /// Zero: Redis did not say.
    number: u64,
    /// Redis is to be asked.
    is_unasked: bool,
    /// It was answered, and Redis is to be told.
    is_answered: bool,
    calls: u32,
}

/// What Redis is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Where the message stands that came then.
    Newest(Instant),
    Answered,
}

// === impl LiveMessages ===

impl LiveMessages {
    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, Conversation>> {
        self.conversations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn came(&self, id: Message, message: PeerMessage) {
        let mut conversations = self.lock();
        let conversation = conversations.entry(id.conversation).or_default();
        if let Some(live) = conversation.get(&id) {
            live.calls += 1;
            live.is_unasked = true;
            return;
        }
        let came = Instant::now();
        let live = Live { message, came, number: 0, is_unasked: true, is_answered: false, calls: 1 };
        conversation.messages.push(live);
    }

    pub(super) fn ended(&self, id: &Message, is_answered: bool) {
        let mut conversations = self.lock();
        if let Some(live) = conversations.get_mut(&id.conversation).and_then(|known| known.get(id)) {
            live.calls = live.calls.saturating_sub(1);
            live.is_answered |= is_answered;
        }
    }

    pub(super) fn forget(&self, id: &Message) {
        let mut conversations = self.lock();
        if let Some(known) = conversations.get_mut(&id.conversation) {
            known.messages.retain(|live| live.message.payload() != &id.payload);
            if known.messages.is_empty() {
                conversations.remove(&id.conversation);
            }
        }
    }

    /// The task looks at all conversations when it can.
    pub(super) fn look_at_all(&self) {
        self.is_behind.store(true, Relaxed);
    }

    pub(super) fn is_behind(&self) -> bool {
        self.is_behind.load(Relaxed)
    }

    /// The conversations, of all of which the task knows from now on.
    pub(super) fn all(&self) -> Vec<Fingerprint> {
        self.is_behind.store(false, Relaxed);
        self.lock().keys().copied().collect()
    }

    /// What Redis is to be asked for next; `None`: nothing.
    pub(super) fn next(&self, conversation: &Fingerprint) -> Option<(Message, Ask)> {
        let mut conversations = self.lock();
        let known = conversations.get_mut(conversation)?;
        let id = |live: &Live| Message { conversation: *conversation, payload: *live.message.payload() };
        if let Some(live) = known.messages.iter_mut().find(|live| live.is_unasked) {
            live.is_unasked = false;
            return Some((id(live), Ask::Newest(live.came)));
        }
        if let Some(live) = known.messages.iter_mut().find(|live| live.is_answered) {
            live.is_answered = false;
            return Some((id(live), Ask::Answered));
        }
        known.messages.retain(|live| live.calls > 0);
        if known.messages.is_empty() {
            conversations.remove(conversation);
        }
        None
    }

    /// Redis has given a message its number. Returns the message, if it is under way, and whether a newer one is known.
    pub(super) fn numbered(&self, id: &Message, number: u64) -> Option<(PeerMessage, bool)> {
        let mut conversations = self.lock();
        let known = conversations.get_mut(&id.conversation)?;
        known.newest = known.newest.max(number);
        let newest = known.newest;
        let live = known.get(id)?;
        live.number = number;
        Some((live.message.clone(), number < newest))
    }

    pub(super) fn get(&self, id: &Message) -> Option<PeerMessage> {
        Some(self.lock().get_mut(&id.conversation)?.get(id)?.message.clone())
    }

    /// The newest message has this number and says that. Returns those that are older. Of one without a number that is not known:
    /// it is asked for.
    pub(super) fn on_newer(&self, newest: &Message, number: u64) -> Vec<PeerMessage> {
        let mut conversations = self.lock();
        let Some(known) = conversations.get_mut(&newest.conversation) else { return Vec::new() };
        known.newest = known.newest.max(number);
        let others = known.messages.iter_mut().filter(|live| *live.message.payload() != newest.payload);
        let older = others.filter_map(|live| {
            live.is_unasked |= live.number == 0 && live.calls > 0;
            (1..number).contains(&live.number).then(|| live.message.clone())
        });
        older.collect()
    }

    /// Redis is asked again for all messages without a number; with `numbered`, also for those that have one.
    pub(super) fn ask_again(&self, numbered: bool) {
        for live in self.lock().values_mut().flat_map(|known| &mut known.messages) {
            live.is_unasked |= live.calls > 0 && (numbered || live.number == 0);
        }
    }
}

// === impl Conversation ===

impl Conversation {
    fn get(&mut self, id: &Message) -> Option<&mut Live> {
        self.messages.iter_mut().find(|live| *live.message.payload() == id.payload)
    }
}
