//! What the words of a message are to one another, as far as small words say it: who does what to whom.

use std::collections::{BTreeMap, BTreeSet};

/// What the next word is to the sentence.
const ROLES: &[&str] = &["about", "as", "at", "for", "of", "to"];
/// What may stand between that and the word.
const DETERMINERS: &[&str] =
    &["a", "an", "the", "my", "your", "his", "her", "our", "their", "this", "that", "these", "those"];
const SPEAKERS: &[&str] = &["i", "i'd", "i'm", "i've", "me", "us", "we"];
const LISTENERS: &[&str] = &["you"];

#[derive(Debug, Default)]
struct Relations<'a> {
    /// Of the words that have one.
    roles: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// Who speaks and who is spoken to, in their order: `true` for who speaks.
    persons: Vec<bool>,
}

/// Whether two messages, by their words in small letters, do not contradict each other: a letter to Anna about Ben is none
/// about Anna to Ben, and you help me where I do not help you. What only one of them says is no contradiction.
pub(super) fn agree<'a>(one: impl Iterator<Item = &'a str>, other: impl Iterator<Item = &'a str>) -> bool {
    let (one, other) = (Relations::of(one), Relations::of(other));
    let have_equal_roles =
        one.roles.iter().all(|(word, roles)| other.roles.get(word).is_none_or(|found| found == roles));
    have_equal_roles && (one.persons == other.persons || !(one.has_both_persons() && other.has_both_persons()))
}

/// Whether a word says what others are to one another.
#[cfg(test)]
pub(super) fn is_said_by(word: &str) -> bool {
    [ROLES, SPEAKERS, LISTENERS].iter().any(|words| words.contains(&word))
}

// === impl Relations ===

impl<'a> Relations<'a> {
    fn of(words: impl Iterator<Item = &'a str>) -> Self {
        let mut relations = Self::default();
        let mut role = None;
        for word in words {
            let is_person = SPEAKERS.contains(&word) || LISTENERS.contains(&word);
            if is_person {
                relations.persons.push(SPEAKERS.contains(&word));
            }
            if ROLES.contains(&word) {
                role = Some(word);
            } else if !DETERMINERS.contains(&word) {
                if let Some(role) = role.take().filter(|_| !is_person) {
                    relations.roles.entry(word).or_default().insert(role);
                }
            }
        }
        relations
    }

    fn has_both_persons(&self) -> bool {
        self.persons.contains(&true) && self.persons.contains(&false)
    }
}

#[cfg(test)]
mod tests {
    fn agree(one: &str, other: &str) -> bool {
        super::agree(one.split(' '), other.split(' '))
    }

    #[test]
    fn words_that_change_their_roles_contradict() {
        assert!(!agree("write a letter to anna about ben", "write a letter about anna to ben"));
        assert!(!agree("write to my boss about my wife", "write about my boss to my wife"));
        assert!(!agree("a present for the cat", "a present of the cat"));
        assert!(!agree("how can i help you", "how can you help me"));
    }

    #[test]
    fn what_only_one_says_does_not() {
        for (one, other) in [
            ("write to anna", "write anna"),
            ("write to the anna", "a letter to anna"),
            ("what do you know about cats", "tell me about cats"),
        ] {
            assert!(agree(one, other), "{one}, {other}");
        }
    }
}
