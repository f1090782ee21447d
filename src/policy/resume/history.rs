//! The part of an answer that a caller has, for comparison with another answer.
//!
//! An answer is a sequence of texts, each on its channel, and of marks between them: a block begins, a choice has ended.
//! Two answers with the same sequence are the same, however they were cut into events. The history stores a length and a
//! hash instead of the text.

use sha2::{Digest, Sha256};

use super::NotResumed;

/// The sequence so far, as a length and a hash, with a checkpoint per KiB.
#[derive(Clone)]
pub(crate) struct History {
    digest: Sha256,
    /// The bytes of texts and marks.
    length: usize,
    /// The characters of texts.
    characters: usize,
    checkpoints: Vec<Checkpoint>,
    channel: u8,
    /// The highest length.
    most: usize,
}

/// A part of the sequence.
#[derive(Clone)]
pub(crate) enum Atom {
    Text {
        channel: u8,
        text: String,
    },
    /// Any other part that two answers must have in common.
    Mark(Vec<u8>),
}

/// Compares the sequence of a new answer with the one that a caller has.
pub(crate) struct Comparison {
    expected: History,
    found: History,
}

/// How a part of a new answer overlaps the caller's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// The caller has it.
    Inside,
    /// The caller has this many bytes of the text.
    Across(usize),
    /// It is new.
    Behind,
}

type Checkpoint = [u8; 16];

const STEP: usize = 1024;
/// This byte never occurs in UTF-8.
const MARK: u8 = 0xFF;
const SWITCH: u8 = 0xFE;

// === impl History ===

impl History {
    /// Returns an empty history, abandoned beyond `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { digest: Sha256::new(), length: 0, characters: 0, checkpoints: Vec::new(), channel: 0, most }
    }

    /// Adds a part. Returns `false` if the history has become too long.
    pub(crate) fn push(&mut self, atom: &Atom) -> bool {
        match atom {
            Atom::Text { text, .. } if text.is_empty() => {}
            Atom::Text { channel, text } => {
                if self.channel != *channel {
                    self.channel = *channel;
                    self.bytes(&[SWITCH, *channel]);
                }
                self.bytes(text.as_bytes());
                self.characters = self.characters.saturating_add(text.chars().count());
            }
            Atom::Mark(mark) => {
                self.bytes(&[MARK]);
                self.bytes(mark);
                self.channel = 0;
            }
        }
        self.length <= self.most
    }

    fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = STEP - self.length % STEP;
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.digest.update(now);
            self.length = self.length.saturating_add(now.len());
            bytes = rest;
            // Nothing is compared beyond that.
            if self.length % STEP == 0 && self.length <= self.most {
                self.checkpoints.push(self.checkpoint());
            }
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        let mut checkpoint = Checkpoint::default();
        for (byte, hashed) in checkpoint.iter_mut().zip(self.digest.clone().finalize()) {
            *byte = hashed;
        }
        checkpoint
    }
}

// === impl Comparison ===

impl Comparison {
    /// Compares the next answer with `expected`.
    pub(crate) fn new(expected: History) -> Self {
        let found = History::new(expected.length);
        Self { expected, found }
    }

    /// Whether the new answer contains all of the caller's part.
    pub(crate) fn is_complete(&self) -> bool {
        self.found.length >= self.expected.length
    }

    /// The number of characters that the caller has.
    pub(crate) fn characters(&self) -> usize {
        self.expected.characters
    }

    /// Compares the next part of the new answer.
    pub(crate) fn next(&mut self, atom: &Atom) -> Result<Overlap, NotResumed> {
        if self.is_complete() {
            return Ok(Overlap::Behind);
        }
        let mut found = self.found.clone();
        found.push(atom);
        let beyond = found.length.saturating_sub(self.expected.length);
        if beyond == 0 {
            self.found = found;
            self.check()?;
            return Ok(Overlap::Inside);
        }
        // Only a text can cross the end of the caller's part, and only between two characters.
        let Atom::Text { channel, text } = atom else { return Err(NotResumed::Diverged) };
        let inside = text.len().checked_sub(beyond).filter(|inside| text.is_char_boundary(*inside) && *inside > 0);
        let Some(inside) = inside else { return Err(NotResumed::Diverged) };
        let before = text.get(..inside).unwrap_or_default();
        self.found.push(&Atom::Text { channel: *channel, text: before.to_owned() });
        self.check()?;
        Ok(Overlap::Across(inside))
    }

    /// Whether the parts so far match the caller's part.
    fn check(&self) -> Result<(), NotResumed> {
        let same = self.expected.checkpoints.starts_with(&self.found.checkpoints)
            && (!self.is_complete()
                || self.found.length == self.expected.length && self.found.checkpoint() == self.expected.checkpoint());
        if same { Ok(()) } else { Err(NotResumed::Diverged) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Atom {
        Atom::Text { channel: 1, text: text.to_owned() }
    }

    fn history(texts: &[&str]) -> History {
        let mut history = History::new(64 * 1024);
        texts.iter().for_each(|piece| assert!(history.push(&text(piece))));
        history
    }

    #[test]
    fn how_a_text_is_cut_makes_no_difference() {
        let mut comparison = Comparison::new(history(&["The sea", " is", " calm"]));
        assert_eq!(comparison.next(&text("The")), Ok(Overlap::Inside));
        assert!(!comparison.is_complete());
        assert_eq!(comparison.next(&text(" sea is calm tonight")), Ok(Overlap::Across(12)));
        assert!(comparison.is_complete());
        assert_eq!(comparison.next(&text(".")), Ok(Overlap::Behind));
    }

    #[test]
    fn what_differs_is_seen_at_the_end_and_in_each_kibibyte() {
        let mut comparison = Comparison::new(history(&["The sea is calm"]));
        assert_eq!(comparison.next(&text("The sky is calm")), Err(NotResumed::Diverged));
        let long = "x".repeat(10_000);
        let mut comparison = Comparison::new(history(&[&long]));
        assert_eq!(comparison.next(&text(&format!("y{}", "x".repeat(1_000)))), Ok(Overlap::Inside), "not known yet");
        assert_eq!(comparison.next(&text(&"x".repeat(30))), Err(NotResumed::Diverged));
    }

    #[test]
    fn channels_and_marks_count() {
        let thought = Atom::Text { channel: 2, text: "a".to_owned() };
        assert_eq!(Comparison::new(history(&["a"])).next(&thought), Err(NotResumed::Diverged));
        let mark = Atom::Mark(vec![1]);
        let mut marked = history(&["a"]);
        marked.push(&mark);
        let mut comparison = Comparison::new(marked.clone());
        assert_eq!((comparison.next(&text("a")), comparison.next(&mark)), (Ok(Overlap::Inside), Ok(Overlap::Inside)));
        assert!(comparison.is_complete());
        let mut comparison = Comparison::new(marked);
        assert_eq!(comparison.next(&text("ab")), Ok(Overlap::Inside), "it is as long");
        assert!(comparison.next(&text("c")).is_err());
        let mut comparison = Comparison::new(history(&["ab"]));
        assert_eq!(
            (comparison.next(&text("a")), comparison.next(&mark)),
            (Ok(Overlap::Inside), Err(NotResumed::Diverged))
        );
    }

    #[test]
    fn nothing_is_compared_with_nothing() {
        let comparison = Comparison::new(History::new(1024));
        assert!(comparison.is_complete());
    }

    proptest! {
        #[test]
        fn a_new_answer_is_accepted_where_it_begins_with_what_the_caller_has(
            answer in "[aé😀]{0,40}", had in 0..41_usize, other in any::<Option<(prop::sample::Index, char)>>(), size in 1..7_usize,
        ) {
            let characters: Vec<char> = answer.chars().collect();
            let had: String = characters.iter().take(had).collect();
            let mut new = characters;
            if let (Some((at, other)), false) = (other, new.is_empty()) {
                let at = at.index(new.len());
                new[at] = other;
            }
            let new: String = new.into_iter().collect();
            let mut comparison = Comparison::new(history(&[&had]));
            let mut held = had.clone();
            let mut diverged = false;
            for piece in new.chars().collect::<Vec<_>>().chunks(size) {
                let piece: String = piece.iter().collect();
                match comparison.next(&text(&piece)) {
                    Ok(Overlap::Inside) => {}
                    Ok(Overlap::Across(inside)) => held += &piece[inside..],
                    Ok(Overlap::Behind) => held += &piece,
                    Err(_) => { diverged = true; break; }
                }
            }
            prop_assert_eq!(diverged || !comparison.is_complete(), !new.starts_with(&had));
            let expected = if diverged || !comparison.is_complete() { had } else { new };
            prop_assert_eq!(held, expected);
        }
    }
}
