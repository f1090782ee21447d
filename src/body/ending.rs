//! How an answer ended, for layers outside the one that reads it.

use std::sync::Arc;
#[cfg(feature = "llm")]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicU8, Ordering};

use http::Response;

#[cfg(feature = "llm")]
use crate::proto::dialect::Usage;
use crate::proto::dialect::{End, Kind};

/// How an answer ended, in the extensions of a response whose body [`StreamGuardLayer`](crate::StreamGuardLayer) reads.
/// For a stream it is known after the end of its body.
///
/// ```
/// use http::Response;
/// use tower_buttress::Ending;
///
/// # fn after_reading(response: &Response<()>) {
/// if let Some(ending) = Ending::of(response) {
///     println!("{:?}", ending.get());
/// }
/// # }
/// # after_reading(&Response::new(()));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<AnswerFacts>);

/// The facts reported in an answer.
#[derive(Debug, Default)]
struct AnswerFacts {
    end: AtomicU8,
    ids: AtomicU8,
    /// The dialect of the events, as the index in [`KINDS`] plus one.
    kind: AtomicU8,
    /// The `sequence_number` of the next event of Responses, plus one; 0: no layer reads them; or [`STOPPED`].
    #[cfg(feature = "llm")]
    sequence: AtomicU64,
    #[cfg(feature = "llm")]
    usage: Tokens,
    /// The tokens of the answer that this one replaces, or that replaced it.
    #[cfg(feature = "llm")]
    other: Tokens,
}

/// The token counts of one call, plus one: zero means unknown.
#[cfg(feature = "llm")]
#[derive(Debug, Default)]
struct Tokens {
    input: AtomicU64,
    output: AtomicU64,
}

/// Whether the stream's events have ids: no layer checks (`UNKNOWN`), none so far (`NO_IDS`), or possibly.
const UNKNOWN: u8 = 0;
#[cfg(feature = "llm")]
const NO_IDS: u8 = 1;
const MAY_HAVE_IDS: u8 = 2;
/// Event numbers are no longer tracked.
#[cfg(feature = "llm")]
const STOPPED: u64 = u64::MAX;

const ENDS: [End; 6] = [End::Whole, End::Paused, End::Limit, End::Refused, End::Filtered, End::Unknown];

const KINDS: [Kind; 6] =
    [Kind::OpenAiChat, Kind::OpenAiResponses, Kind::Anthropic, Kind::Gemini, Kind::Cohere, Kind::Ollama];

// === impl Ending ===

impl Ending {
    /// Returns an ending that is not known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the ending of this response, known or not: `None` if no layer reads its body.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Option<&Self> {
        response.extensions().get()
    }

    /// Sets the end.
    pub fn set(&self, end: End) {
        let index = ENDS.iter().position(|known| *known == end).and_then(|index| u8::try_from(index + 1).ok());
        self.0.end.store(index.unwrap_or(0), Ordering::Release);
    }

    /// How the answer ended: `None` if it has not ended, or broke off.
    #[must_use]
    pub fn get(&self) -> Option<End> {
        let index = usize::from(self.0.end.load(Ordering::Acquire)).checked_sub(1)?;
        ENDS.get(index).copied()
    }

    /// For a layer that checks for ids, and calls [`note_ids`](Self::note_ids) before it forwards an event with an id.
    #[cfg(feature = "llm")]
    pub(crate) fn following_ids(self) -> Self {
        self.0.ids.store(NO_IDS, Ordering::Relaxed);
        self
    }

    /// Notes that an event has an id, or that no layer checks any longer.
    pub(crate) fn note_ids(&self) {
        if self.0.ids.load(Ordering::Relaxed) != UNKNOWN {
            self.0.ids.store(MAY_HAVE_IDS, Ordering::Relaxed);
        }
    }

    /// Whether an event of the stream may have had an id. `None` if no layer checks.
    pub(crate) fn may_have_ids(&self) -> Option<bool> {
        let ids = self.0.ids.load(Ordering::Relaxed);
        (ids != UNKNOWN).then_some(ids == MAY_HAVE_IDS)
    }

    /// Notes the dialect of the events.
    #[cfg(feature = "llm")]
    pub(crate) fn note_kind(&self, kind: Option<Kind>) {
        let index = KINDS.iter().position(|known| Some(*known) == kind).and_then(|index| u8::try_from(index + 1).ok());
        self.0.kind.store(index.unwrap_or(0), Ordering::Relaxed);
    }

    /// The dialect of the events. `None` if no layer reads them, or it is unknown.
    pub(crate) fn kind(&self) -> Option<Kind> {
        let index = usize::from(self.0.kind.load(Ordering::Relaxed)).checked_sub(1)?;
        KINDS.get(index).copied()
    }

    /// The stream continues with another answer, which the layer that tracks ids and numbers does not read.
    #[cfg(feature = "llm")]
    pub(crate) fn note_splice(&self) {
        self.note_ids();
        self.stop_numbers();
    }

    /// The stream has several readers from here on, each at its own place: the layer inside reads ahead of them, and
    /// knows the next number of none.
    pub(crate) fn stop_numbers(&self) {
        #[cfg(feature = "llm")]
        self.0.sequence.store(STOPPED, Ordering::Relaxed);
    }

    /// Notes the `sequence_number` of the next event, by a layer that reads all events.
    #[cfg(feature = "llm")]
    pub(crate) fn note_sequence(&self, next: u64) {
        if self.0.sequence.load(Ordering::Relaxed) != STOPPED {
            self.0.sequence.store(next.saturating_add(1).min(STOPPED - 1), Ordering::Relaxed);
        }
    }

    /// The `sequence_number` of the next event of Responses. `None` if no layer reads the events for this reader alone.
    pub(crate) fn next_sequence(&self) -> Option<u64> {
        #[cfg(feature = "llm")]
        return Some(self.0.sequence.load(Ordering::Relaxed)).filter(|number| *number != STOPPED)?.checked_sub(1);
        #[cfg(not(feature = "llm"))]
        None
    }

    /// The tokens that the answer has reported so far: `None` if none.
    #[cfg(feature = "llm")]
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        Some(self.0.usage.get()).filter(|usage| *usage != Usage::default())
    }

    /// The same, plus the tokens of a second answer after a [`verified_restart`](crate::ResumeLayer::verified_restart) of
    /// [`ResumeLayer`](crate::ResumeLayer): the upstream bills both.
    #[cfg(feature = "llm")]
    #[must_use]
    pub fn total_usage(&self) -> Option<Usage> {
        let total = self.0.usage.get().plus(self.0.other.get());
        Some(total).filter(|usage| *usage != Usage::default())
    }

    /// Some streams report the prompt first, and the answer later.
    #[cfg(feature = "llm")]
    pub(crate) fn note_usage(&self, usage: Usage) {
        self.0.usage.note(usage);
    }

    /// Notes the tokens of a second answer, of which nothing was forwarded yet.
    #[cfg(feature = "llm")]
    pub(crate) fn note_other_usage(&self, usage: Usage) {
        self.0.other.note(usage);
    }

    /// The second answer replaces the first one.
    #[cfg(feature = "llm")]
    pub(crate) fn swap_usage(&self) {
        let (first, second) = (self.0.usage.take(), self.0.other.take());
        self.0.usage.note(second);
        self.0.other.note(first);
    }
}

// === impl Tokens ===

#[cfg(feature = "llm")]
impl Tokens {
    fn get(&self) -> Usage {
        let reported = |number: &AtomicU64| number.load(Ordering::Relaxed).checked_sub(1);
        Usage::new(reported(&self.input), reported(&self.output))
    }

    fn take(&self) -> Usage {
        let reported = |number: &AtomicU64| number.swap(0, Ordering::Relaxed).checked_sub(1);
        Usage::new(reported(&self.input), reported(&self.output))
    }

    fn note(&self, usage: Usage) {
        for (number, reported) in [(&self.input, usage.input), (&self.output, usage.output)] {
            if let Some(reported) = reported {
                number.store(reported.saturating_add(1), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_it_was_set_to_for_all_clones() {
        let ending = Ending::new();
        assert_eq!(ending.get(), None);
        for end in ENDS {
            ending.clone().set(end);
            assert_eq!(ending.get(), Some(end));
        }
    }

    #[cfg(feature = "llm")]
    #[test]
    fn ids_are_known_of_where_they_are_looked_for() {
        let ending = Ending::new();
        ending.note_ids();
        assert_eq!(ending.may_have_ids(), None);
        let ending = ending.following_ids();
        assert_eq!(ending.may_have_ids(), Some(false));
        let other = ending.clone();
        ending.note_ids();
        assert_eq!(other.may_have_ids(), Some(true));
    }

    #[cfg(feature = "llm")]
    #[test]
    fn the_dialect_is_the_one_that_was_reported_last() {
        let ending = Ending::new();
        assert_eq!(ending.kind(), None);
        for kind in KINDS.map(Some).into_iter().chain([None]) {
            ending.note_kind(kind);
            assert_eq!(ending.kind(), kind);
        }
    }

    #[cfg(feature = "llm")]
    #[test]
    fn the_next_number_is_known_until_the_stream_goes_on_in_another_answer() {
        let ending = Ending::new().following_ids();
        assert_eq!(ending.next_sequence(), None);
        for next in [0, 7, u64::MAX - 2] {
            ending.note_sequence(next);
            assert_eq!(ending.clone().next_sequence(), Some(next));
        }
        ending.note_splice();
        ending.note_sequence(9);
        assert_eq!((ending.next_sequence(), ending.may_have_ids()), (None, Some(true)));

        let ending = Ending::new().following_ids();
        ending.note_sequence(7);
        ending.stop_numbers();
        ending.note_sequence(8);
        assert_eq!((ending.next_sequence(), ending.may_have_ids()), (None, Some(false)));
    }

    #[cfg(feature = "llm")]
    #[test]
    fn tokens_are_those_that_were_reported_last() {
        let ending = Ending::new();
        assert_eq!(ending.usage(), None);
        ending.note_usage(Usage { input: Some(0), output: None });
        ending.note_usage(Usage { input: None, output: Some(3) });
        ending.note_usage(Usage { input: None, output: Some(7) });
        assert_eq!(ending.usage(), Some(Usage { input: Some(0), output: Some(7) }));
    }
    #[cfg(feature = "llm")]
    #[test]
    fn the_tokens_of_a_second_answer_are_billed_too() {
        let tokens = |input, output| Some(Usage { input, output });
        let ending = Ending::new();
        ending.note_usage(Usage::new(Some(5), None));
        ending.note_other_usage(Usage::new(Some(5), Some(9)));
        assert_eq!((ending.usage(), ending.total_usage()), (tokens(Some(5), None), tokens(Some(10), Some(9))));
        ending.swap_usage();
        assert_eq!((ending.usage(), ending.total_usage()), (tokens(Some(5), Some(9)), tokens(Some(10), Some(9))));
    }
}
