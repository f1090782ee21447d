use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::prelude::*;

use super::*;
use crate::proto::fingerprint::Fingerprinter;

const S: Duration = Duration::from_secs(1);

fn tenant_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

fn named(name: &str) -> Fingerprint {
    let mut print = Fingerprinter::new("test");
    print.field(name.as_bytes());
    print.finish(0)
}

/// Conversations whose calls are named by their messages.
struct Talk {
    conversations: Conversations<&'static str>,
    now: Instant,
    order: u64,
    mode: SupersedeMode,
    settle: Duration,
}

impl Talk {
    fn new() -> Self {
        let (mode, settle) = (SupersedeMode::Interrupt, Duration::ZERO);
        Self { conversations: Conversations::new(800), now: Instant::now(), order: 0, mode, settle }
    }

    /// What becomes of this message, and which calls end.
    fn say(&mut self, text: &'static str) -> (Result<CallId, Refusal>, Vec<&'static str>) {
        self.order += 1;
        self.say_in("a", "t", text, self.order)
    }

    fn say_in(
        &mut self,
        conversation: &str,
        tenant: &str,
        text: &'static str,
        order: u64,
    ) -> (Result<CallId, Refusal>, Vec<&'static str>) {
        let message = Arriving {
            conversation: named(&format!("{tenant} {conversation}")),
            tenant: tenant_of(tenant),
            payload: named(text),
            order,
            mode: self.mode,
            settle: self.settle,
        };
        let mut ends = Vec::new();
        match self.conversations.arrive(&message, text, self.now, &mut ends) {
            Arrival::Enters(id) => (Ok(id), ends),
            Arrival::Refused(refusal) => (Err(refusal), ends),
        }
    }

    fn goes(&mut self, text: &'static str) -> CallId {
        let (said, ends) = self.say(text);
        assert_eq!(ends, [""; 0]);
        said.unwrap()
    }

    fn start_time(&self, id: CallId) -> StartTime {
        self.conversations.start_time(id, self.now)
    }

    fn served(&mut self, id: CallId) {
        self.conversations.served(id, || self.now);
    }

    fn leave(&mut self, id: CallId, ended: Ended) -> Vec<&'static str> {
        let mut turns = Vec::new();
        self.conversations.leave(id, ended, || self.now, &mut turns);
        turns
    }

    /// How many conversations are remembered on the account of the tenant `t`, and on that of strangers.
    fn accounts(&self) -> [usize; 2] {
        [Some(tenant_of("t")), None].map(|account| self.conversations.idle.of(account))
    }
}

#[test]
fn a_newer_message_ends_the_older() {
    let mut talk = Talk::new();
    let first = talk.goes("one");
    assert_eq!(talk.start_time(first), StartTime::Now);
    let (second, ends) = talk.say("two");
    assert_eq!((talk.start_time(second.unwrap()), ends), (StartTime::Now, vec!["one"]));
    assert_eq!(talk.start_time(first), StartTime::Never);
    assert_eq!(talk.leave(first, Ended::Unanswered), [""; 0]);
}

#[test]
fn the_same_payload_is_another_attempt_and_ends_nothing() {
    let mut talk = Talk::new();
    let first = talk.goes("one");
    let again = talk.goes("one");
    assert_eq!((talk.start_time(first), talk.start_time(again)), (StartTime::Now, StartTime::Now));
    let (_, ends) = talk.say("two");
    assert_eq!(ends, ["one", "one"]);
}

#[test]
fn what_was_superseded_and_comes_again_is_refused_and_ends_nothing() {
    let mut talk = Talk::new();
    talk.goes("one");
    let (second, _) = talk.say("two");
    for _ in 0..3 {
        assert_eq!(talk.say("one"), (Err(Refusal::Superseded), vec![]));
        assert_eq!(talk.start_time(second.unwrap()), StartTime::Now);
    }
    talk.now += REMEMBERED - S;
    assert_eq!(talk.say("one").0, Err(Refusal::Superseded));
    talk.now += S;
    assert_eq!(talk.say("one").1, ["two"], "ten minutes later it is a message of its own");
}

/// openai's client waits half a second before it tries again.
#[test]
fn a_message_that_failed_is_superseded_too() {
    let mut talk = Talk::new();
    let first = talk.goes("one");
    talk.leave(first, Ended::Unanswered);
    let (second, ends) = talk.say("two");
    assert_eq!(ends, ["one"], "what may go on without its caller ends");
    assert_eq!(talk.say("one").0, Err(Refusal::Superseded));
    assert_eq!(talk.start_time(second.unwrap()), StartTime::Now);
}

#[test]
fn a_message_that_was_answered_may_be_sent_again() {
    let mut talk = Talk::new();
    let first = talk.goes("one");
    talk.leave(first, Ended::Answered);
    assert_eq!(talk.conversations.len(), 0);
    let second = talk.goes("two");
    talk.leave(second, Ended::Answered);
    talk.goes("one");
}

#[test]
fn the_order_is_that_in_which_messages_began_to_come() {
    let mut talk = Talk::new();
    talk.say_in("a", "t", "short and later", 2).0.unwrap();
    assert_eq!(talk.say_in("a", "t", "long", 1), (Err(Refusal::Superseded), vec![]));
    assert_eq!(talk.say_in("a", "t", "long", 3), (Err(Refusal::Superseded), vec![]), "it is remembered");
}

#[test]
fn messages_that_settle_wait_for_newer_ones() {
    let mut talk = Talk::new();
    talk.settle = S;
    let first = talk.goes("h");
    assert_eq!(talk.start_time(first), StartTime::At(talk.now + S));
    let (second, ends) = talk.say("he");
    assert_eq!(ends, ["h"]);
    talk.now += S;
    assert_eq!(talk.start_time(second.unwrap()), StartTime::Now);
    let again = talk.goes("he");
    assert_eq!(talk.start_time(again), StartTime::Now, "another attempt does not settle again");
}

#[test]
fn while_a_message_is_under_way_others_can_be_refused() {
    let mut talk = Talk::new();
    talk.mode = SupersedeMode::Reject;
    let first = talk.goes("one");
    assert_eq!(talk.say("two"), (Err(Refusal::Busy), vec![]));
    let again = talk.goes("one");
    talk.leave(first, Ended::Unanswered);
    assert_eq!(talk.say("two").0, Err(Refusal::Busy));
    talk.leave(again, Ended::Unanswered);
    talk.goes("two");
}

#[test]
fn messages_can_wait_for_those_before_them() {
    let mut talk = Talk::new();
    talk.mode = SupersedeMode::Enqueue { max: 2 };
    let first = talk.goes("one");
    let second = talk.goes("two");
    let third = talk.goes("three");
    assert_eq!(talk.say("four").0, Err(Refusal::Busy));
    let again = talk.goes("three");
    assert_eq!(
        [first, second, third, again].map(|id| talk.start_time(id)),
        [StartTime::Now, StartTime::Later, StartTime::Later, StartTime::Later]
    );
    assert_eq!(talk.leave(second, Ended::Unanswered), [""; 0], "one that waits leaves");
    assert_eq!(talk.leave(first, Ended::Answered), ["three", "three"]);
    assert_eq!((talk.start_time(third), talk.start_time(again)), (StartTime::Now, StartTime::Now));
    talk.mode = SupersedeMode::Interrupt;
    assert_eq!(talk.say("five").1, ["three", "three"]);
}

#[test]
fn what_is_cancelled_does_not_come_again() {
    let mut talk = Talk::new();
    let first = talk.goes("one");
    let mut ends = Vec::new();
    talk.conversations.cancel(&named("t a"), talk.now, &mut ends);
    assert_eq!((ends, talk.start_time(first)), (vec!["one"], StartTime::Never));
    assert_eq!(talk.say("one").0, Err(Refusal::Superseded));
    talk.goes("two");
}

#[test]
fn another_tenant_with_the_same_conversation_is_untouched() {
    let mut talk = Talk::new();
    let (mine, _) = talk.say_in("a", "t", "one", 1);
    assert_eq!(talk.say_in("a", "u", "two", 2).1, [""; 0]);
    assert_eq!(talk.start_time(mine.unwrap()), StartTime::Now);
}

/// A message of each conversation is left unanswered.
fn flood(talk: &mut Talk, tenant: &str, conversations: std::ops::Range<u32>, served: bool) {
    for conversation in conversations {
        let (id, _) = talk.say_in(&conversation.to_string(), tenant, "one", 1);
        let id = id.unwrap();
        if served {
            talk.served(id);
        }
        talk.leave(id, Ended::Unanswered);
    }
}

#[test]
fn one_tenant_does_not_push_out_what_is_remembered_of_others() {
    let mut talk = Talk::new();
    flood(&mut talk, "t", 0..10, true);
    flood(&mut talk, "u", 0..100_000, true);
    for stranger in 0..1_000 {
        flood(&mut talk, &format!("stranger {stranger}"), 0..3, false);
    }
    let idle = &talk.conversations.idle;
    assert_eq!([Some("t"), Some("u"), None].map(|name| idle.of(name.map(tenant_of))), [10, 100, 100]);
    assert_eq!((talk.conversations.len(), idle.len()), (210, 210));
    // The newest are those that are remembered.
    assert_eq!(talk.say_in("99999", "u", "two", 2).1, ["one"]);
    assert_eq!(talk.say_in("0", "u", "two", 2).1, [""; 0]);
}

/// A call that was cancelled leaves after its conversation.
#[test]
fn a_conversation_is_on_its_tenants_account_once_a_call_was_served() {
    let mut talk = Talk::new();
    let id = talk.goes("one");
    talk.conversations.cancel(&named("t a"), talk.now, &mut Vec::new());
    assert_eq!(talk.accounts(), [0, 1]);
    talk.served(id);
    assert_eq!(talk.accounts(), [1, 0]);
    talk.leave(id, Ended::Unanswered);
    assert_eq!(talk.accounts(), [1, 0]);
}

/// Its caller has the head, and does not read.
#[test]
fn a_conversation_whose_served_call_was_superseded_is_on_its_tenants_account() {
    let mut talk = Talk::new();
    let first = talk.goes("one");
    talk.served(first);
    let second = talk.say("two").0.unwrap();
    talk.leave(second, Ended::Unanswered);
    assert_eq!(talk.accounts(), [1, 0]);
    talk.leave(first, Ended::Unanswered);
    assert_eq!(talk.accounts(), [1, 0]);
}

#[test]
fn of_many_tenants_few_conversations_are_remembered() {
    let mut talk = Talk::new();
    for tenant in 0..100 {
        flood(&mut talk, &format!("tenant {tenant}"), 0..90, true);
    }
    assert_eq!((talk.conversations.len(), talk.conversations.idle.len()), (800, 800));
    talk.now += REMEMBERED;
    flood(&mut talk, "t", 0..500, true);
    assert_eq!(talk.conversations.len(), 100, "what has expired is forgotten");
}

#[test]
fn of_one_conversation_the_last_sixteen_are_remembered() {
    let mut talk = Talk::new();
    const TEXTS: [&str; 18] =
        ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r"];
    for text in TEXTS {
        talk.say(text).0.unwrap();
    }
    for text in &TEXTS[1..17] {
        assert_eq!(talk.say(text).0, Err(Refusal::Superseded), "{text}");
    }
    assert_eq!(talk.say("a").1, ["r"]);
}

#[derive(Clone, Debug)]
enum Step {
    /// This text, in this conversation.
    Say(usize, usize, SupersedeMode),
    /// One of the calls that are under way.
    Leave(usize, Ended),
    Cancel(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mode = prop_oneof![
        4 => Just(SupersedeMode::Interrupt),
        1 => Just(SupersedeMode::Reject),
        2 => (0..3u32).prop_map(|max| SupersedeMode::Enqueue { max }),
    ];
    let ended = prop_oneof![Just(Ended::Answered), Just(Ended::Unanswered)];
    let step = prop_oneof![
        6 => (0..2usize, 0..5usize, mode).prop_map(|(conversation, text, mode)| Step::Say(conversation, text, mode)),
        4 => (any::<usize>(), ended).prop_map(|(call, ended)| Step::Leave(call, ended)),
        1 => (0..2usize).prop_map(Step::Cancel),
        1 => (0..700u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..60)
}

/// A call as its caller sees it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    conversation: usize,
    text: usize,
    id: CallId,
    order: u64,
}

proptest! {
    #[test]
    fn at_most_one_message_of_a_conversation_is_under_way(steps in steps()) {
        const NAMES: [&str; 2] = ["x", "y"];
        const TEXTS: [&str; 5] = ["a", "b", "c", "d", "e"];
        let mut conversations: Conversations<u64> = Conversations::new(800);
        let mut now = Instant::now();
        // By the number of the call, which is its handle.
        let mut live: HashMap<u64, Seen> = HashMap::new();
        let mut superseded: HashMap<(usize, usize), Instant> = HashMap::new();
        let mut calls = 0;
        for step in steps {
            match step {
                Step::Say(conversation, text, mode) => {
                    calls += 1;
                    let message = Arriving {
                        conversation: named(NAMES[conversation]),
                        tenant: tenant_of("t"),
                        payload: named(TEXTS[text]),
                        order: calls,
                        mode,
                        settle: Duration::ZERO,
                    };
                    let is_live = live.values().any(|seen| seen.conversation == conversation);
                    let is_same = live.values().any(|seen| (seen.conversation, seen.text) == (conversation, text));
                    let is_superseded =
                        superseded.get(&(conversation, text)).is_some_and(|since| now - *since < REMEMBERED);
                    let mut ends = Vec::new();
                    let arrival = conversations.arrive(&message, calls, now, &mut ends);
                    for ended in &ends {
                        // The handle of one that left before may come once more.
                        if let Some(seen) = live.remove(ended) {
                            prop_assert_eq!(seen.conversation, conversation, "of no other conversation");
                            prop_assert_eq!(mode, SupersedeMode::Interrupt);
                            prop_assert!(seen.text != text, "the same payload ends nothing");
                            superseded.insert((conversation, seen.text), now);
                        }
                    }
                    match arrival {
                        Arrival::Enters(id) => {
                            prop_assert!(is_same || !is_superseded);
                            if mode == SupersedeMode::Interrupt && !is_same {
                                prop_assert!(live.values().all(|seen| seen.conversation != conversation));
                            }
                            superseded.remove(&(conversation, text));
                            // Another attempt stands where the message stands.
                            let same = live.values().find(|seen| (seen.conversation, seen.text) == (conversation, text));
                            let order = same.map_or(calls, |seen| seen.order);
                            live.insert(calls, Seen { conversation, text, id, order });
                        }
                        Arrival::Refused(Refusal::Superseded) => {
                            prop_assert!(!is_same && ends.is_empty());
                        }
                        Arrival::Refused(Refusal::Busy) => {
                            prop_assert!(is_live && !is_same && ends.is_empty());
                            prop_assert!(mode != SupersedeMode::Interrupt);
                        }
                    }
                }
                Step::Leave(which, ended) => {
                    let mut numbers: Vec<u64> = live.keys().copied().collect();
                    numbers.sort_unstable();
                    let Some(number) = numbers.get(which % numbers.len().max(1)) else { continue };
                    let seen = live.remove(number).unwrap();
                    let mut turns = Vec::new();
                    conversations.leave(seen.id, ended, || now, &mut turns);
                    for turn in turns {
                        prop_assert_eq!(conversations.start_time(live[&turn].id, now), StartTime::Now);
                    }
                }
                Step::Cancel(conversation) => {
                    let mut ends = Vec::new();
                    conversations.cancel(&named(NAMES[conversation]), now, &mut ends);
                    for ended in ends {
                        if let Some(seen) = live.remove(&ended) {
                            superseded.insert((conversation, seen.text), now);
                        }
                    }
                    prop_assert!(live.values().all(|seen| seen.conversation != conversation));
                }
                Step::Pass(seconds) => now += Duration::from_secs(seconds),
            }
            for conversation in 0..NAMES.len() {
                let of = || live.values().filter(|seen| seen.conversation == conversation);
                let first = of().filter(|seen| conversations.start_time(seen.id, now) == StartTime::Now);
                let mut texts: Vec<usize> = first.map(|seen| seen.text).collect();
                texts.dedup();
                prop_assert_eq!(texts.len(), usize::from(of().next().is_some()), "one message, and always one");
                let oldest = of().min_by_key(|seen| seen.order).map(|seen| conversations.start_time(seen.id, now));
                prop_assert!(oldest.is_none_or(|turn| turn == StartTime::Now), "first in, first out");
            }
        }
        for seen in live.into_values() {
            conversations.leave(seen.id, Ended::Unanswered, || now, &mut Vec::new());
        }
        prop_assert_eq!(conversations.len(), conversations.idle.len());
    }
}

#[test]
fn what_another_process_superseded_is_refused_here() {
    let mut talk = Talk::new();
    let conversation = named("t a");
    talk.conversations.refuse(&conversation, named("one"), talk.now);
    assert_eq!(talk.conversations.len(), 0, "nothing is known of that conversation here");
    assert!(talk.say("one").0.is_ok());
    talk.conversations.refuse(&conversation, named("one"), talk.now);
    assert!(talk.conversations.known[&conversation].superseded.is_empty(), "it is under way here");
    for _ in 0..2 {
        talk.conversations.refuse(&conversation, named("two"), talk.now);
        assert_eq!(talk.conversations.known[&conversation].superseded.len(), 1);
    }
    assert_eq!(talk.say("two").0, Err(Refusal::Superseded));
}

#[test]
fn modes_have_stable_names() {
    let modes =
        [SupersedeMode::Interrupt, SupersedeMode::Reject, SupersedeMode::Enqueue { max: 1 }, SupersedeMode::Off];
    assert_eq!(modes.map(SupersedeMode::as_str), ["interrupt", "reject", "enqueue", "off"]);
}

#[test]
fn a_message_that_is_superseded_elsewhere_ends_and_the_next_one_goes_on() {
    let mut talk = Talk::new();
    talk.mode = SupersedeMode::Enqueue { max: 9 };
    let conversation = named("t a");
    for text in ["one", "two", "three"] {
        assert!(talk.say(text).0.is_ok());
    }
    let mut supersede = |text: &str| {
        let (mut ends, mut turns) = (Vec::new(), Vec::new());
        talk.conversations.supersede_one(&conversation, &named(text), talk.now, &mut ends, &mut turns);
        (ends, turns)
    };
    assert_eq!(supersede("nothing"), (vec![], vec![]));
    assert_eq!(supersede("two"), (vec!["two"], vec![]), "it waited");
    assert_eq!(supersede("one"), (vec!["one"], vec!["three"]));
}

#[test]
fn what_is_forgotten_of_a_tenant_is_what_rests() {
    let mut talk = Talk::new();
    assert!(talk.say_in("a", "t", "one", 1).0.is_ok());
    let rests = talk.say_in("b", "t", "one", 2).0.unwrap();
    talk.leave(rests, Ended::Answered);
    let others = talk.say_in("c", "u", "one", 3).0.unwrap();
    talk.leave(others, Ended::Answered);
    let known = talk.conversations.len();
    let count = talk.conversations.forget(Some(tenant_of("t")));
    assert_eq!(talk.conversations.len(), known - count, "those that rest");
    assert!(talk.conversations.known.contains_key(&named("t a")), "it has a message under way");
}
