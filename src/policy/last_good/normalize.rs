//! Normalizes the spelling of a message, so that the same question in another spelling has the same key.
//!
//! # Why so little?
//!
//! A wrong answer is worse than none. A capital makes a word a name (`Polish` nails, `polish` nails), a mark makes a
//! sentence a question ("You like it?", "You like it."), and a polite word may be the topic ("How do I say please?"). So
//! the code does not fold case in general, nor drop marks or polite words anywhere. It changes only the *opening* of a
//! message, if that is one of the words that begin a question or a request, and what depends on it:
//!
//! - the width of spaces;
//! - the capital of the opening word, and of an "I" after its "do", "can" and the like;
//! - a greeting with a mark, and a "please", before such a word;
//! - one mark at the end that the opening word implies: "?" after a question word, "." after a request.
//!
//! All else stays as it is, in its order: numbers, names and negations consist of it. Text that may be code, a quotation,
//! a list or a topic (line breaks, quotes, brackets, signs, the words after a colon) is left unchanged. Compatibility
//! decomposition is not applied: in NFKC, 10² is 102.

use super::similar::{GREETINGS, QUESTION_WORDS, STATEMENTS, VERBS, opener, spells};

/// Longer messages are left unchanged.
const MAX_CHARS: usize = 4_000;
/// The characters of a plain sentence besides letters, digits and spaces.
const PLAIN: &str = ".,?!;:'’-–%&€$£";
/// After these words, "I" is the asking user.
const BEFORE_I: [&str; 8] = ["am", "can", "could", "did", "do", "should", "was", "would"];

/// Returns the normalized message; `None` if it must be taken as it is.
pub(crate) fn normalize(text: &str) -> Option<String> {
    let plain = |c: char| c.is_alphanumeric() || c == ' ' || c == '\t' || PLAIN.contains(c);
    let text = text.trim();
    if text.is_empty() || text.chars().nth(MAX_CHARS).is_some() || !text.chars().all(plain) || may_quote(text) {
        return None;
    }
    let all: Vec<&str> = text.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    let mut words = behind_please(behind_greeting(&all)).to_vec();
    let opening = words.first().copied().and_then(opener);
    if let (Some(opening), Some(first)) = (opening, words.first_mut()) {
        *first = opening;
        fold_i(&mut words);
        let mut text = words.join(" ");
        trim_end(&mut text, opening);
        return Some(text);
    }
    Some(words.join(" "))
}

/// An apostrophe that is not between letters may be a quotation mark. After a colon that is not in a time of day comes a
/// topic, in which each letter counts.
fn may_quote(text: &str) -> bool {
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let after = chars.peek().copied().unwrap_or(' ');
        let is_within = |kind: fn(char) -> bool| kind(before) && kind(after);
        let quotes = match c {
            '\'' | '’' => !is_within(char::is_alphabetic),
            ':' => !is_within(char::is_numeric),
            _ => false,
        };
        if quotes {
            return true;
        }
        before = c;
    }
    false
}

/// Drops a greeting before a question or a request: "Hey, Jude" may be a title.
fn behind_greeting<'a, 'b>(words: &'b [&'a str]) -> &'b [&'a str] {
    match words {
        [first, rest @ ..] if GREETINGS.iter().any(|ours| spells(first, ours, true)) && opens(rest) => rest,
        _ => words,
    }
}

/// Drops a "please" before a request.
fn behind_please<'a, 'b>(words: &'b [&'a str]) -> &'b [&'a str] {
    match words {
        [first, rest @ ..] if is_please(first) && rest.first().is_some_and(|word| VERBS.contains(word)) => rest,
        _ => words,
    }
}

fn opens(words: &[&str]) -> bool {
    words.first().is_some_and(|word| is_please(word) || opener(word).is_some())
}

fn is_please(word: &str) -> bool {
    ["please", "please,"].iter().any(|please| spells(word, please, true))
}

/// "How do I", "Can I": the asking user may be written in lower case.
fn fold_i(words: &mut [&str]) {
    // A question word may come before it.
    let helper = usize::from(words.first().is_some_and(|first| QUESTION_WORDS.contains(first)));
    match words.get_mut(helper..) {
        Some([before, i, ..]) if BEFORE_I.contains(before) && *i == "I" => *i = "i",
        _ => {}
    }
}

/// Drops the mark that the opening word implies. After a digit or a single letter it may be a factorial, a decimal or an
/// initial.
fn trim_end(text: &mut String, opening: &str) {
    if STATEMENTS.contains(&opening) {
        return;
    }
    let mark = if VERBS.contains(&opening) { '.' } else { '?' };
    let Some(bare) = text.strip_suffix(mark).map(str::trim_end) else { return };
    let last: Vec<char> = bare.chars().rev().take(2).collect();
    if last.len() == 2 && last.iter().all(|c| c.is_alphabetic()) {
        text.truncate(bare.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::similar::pairs::OTHERS;
    use super::*;

    fn same(one: &str, other: &str) -> bool {
        matches!((normalize(one), normalize(other)), (Some(one), Some(other)) if one == other)
    }

    #[test]
    fn spellings_of_one_question_are_one() {
        for (one, other) in [
            ("What is the capital of France?", "what is the capital of France"),
            ("What is  the capital\tof France ?", "What is the capital of France?"),
            ("Hi, please tell me a joke.", "Tell me a joke"),
            ("Please, tell me a joke", "tell me a joke."),
            ("Hello! Tell me a joke. Thanks!", "Hello, tell me a joke. Thanks!"),
            ("Do I go to Paris in May", "do i go to Paris in May?"),
            ("How do I boil an egg?", "how do i boil an egg"),
            ("Hi, Do I go to Paris", "hi, do I go to Paris"),
            ("Wake me at 10:30", "Wake me  at 10:30"),
            ("What's new in Paris?", "what's new in Paris"),
        ] {
            assert!(same(one, other), "{one:?} and {other:?}: {:?}, {:?}", normalize(one), normalize(other));
        }
    }

    #[test]
    fn what_has_another_answer_is_not_one() {
        for (kind, pairs) in OTHERS {
            for (one, other) in *pairs {
                assert!(!same(one, other), "{kind}: {one:?} and {other:?}");
                for lead in ["Explain", "Please explain", "Hi, explain", "What is", "Why"] {
                    let (one, other) = (format!("{lead} {one}"), format!("{lead} {other}"));
                    assert!(!same(&one, &other), "{kind}: {one:?} and {other:?}");
                }
            }
        }
    }

    #[test]
    fn what_may_mean_something_else_is_not_one() {
        for (one, other) in [
            ("You like it a lot there?", "You like it a lot there."),
            ("I like it a lot there?", "I like it a lot there."),
            ("What a lovely day.", "What a lovely day?"),
            ("Tell me a joke?", "Tell me a joke."),
            ("Who sang Help!", "Who sang Help"),
            ("What is Yahoo!", "What is Yahoo"),
            ("How do I say please?", "How do I say?"),
            ("How do I say yes, please?", "How do I say yes?"),
            ("How do I say thank you?", "How do I say?"),
            ("Translate good morning, thanks", "Translate good morning"),
            ("Tell me a joke please", "Tell me a joke"),
            ("Hey, Jude lyrics", "Jude lyrics"),
            ("Please Please Me lyrics", "Please Me lyrics"),
            ("Dear all, can you come", "can you come"),
            ("What did Dr. Who do", "What did Dr. who do"),
            ("Who drew Oh! Is it", "Who drew Oh! is it"),
            ("Polish nails", "polish nails"),
            ("Turkey eggs", "turkey eggs"),
            ("It cast", "it cast"),
            ("As of today, He or Ne", "as of today, He or Ne"),
            ("What is I in physics?", "What is i in physics?"),
            ("Paris to london", "paris to london"),
            ("Is it 10 miles?", "Is it 100 miles?"),
            ("What is 10²?", "What is 102?"),
            ("What is 5!", "What is 5"),
            ("What is 5?", "What is 5"),
            ("What is n!", "What is n"),
            ("Is it 1.5 long", "Is it 15 long"),
            ("Contact US", "contact us"),
            ("Is 5 M long", "Is 5 m long"),
            ("Is five Mm long", "Is five mm long"),
            ("Is vitamin A good", "Is vitamin a good"),
            ("The film Us", "The film us"),
            ("Which is lighter, He or Ne", "Which is lighter, he or Ne"),
            ("What does WHO say", "what does who say"),
            ("WHO says so", "who says so"),
            ("Is it safe", "Is it not safe"),
            ("Paris to London", "London to Paris"),
            ("Turn off the light", "Turn on the light"),
            ("Hello Kitty toys", "kitty toys"),
            ("Hey, Jude", "Jude"),
            ("iPhone", "iphone"),
            ("Explain A1", "explain a1"),
            ("well, it's", "well its"),
        ] {
            assert!(!same(one, other), "{one:?} and {other:?}");
        }
    }

    #[test]
    fn code_quotations_and_lists_are_left_alone() {
        for text in [
            "if x:\n    a",
            "What does \"It\" mean?",
            "What does 'It' mean?",
            "`ls`",
            "a = b",
            "f(x)",
            "[1]",
            "#1",
            "a@b",
            "path/To",
            "Is this spelled right: paris",
            "Translate to French: good morning, thanks",
            "",
            " ",
        ] {
            assert_eq!(normalize(text), None, "{text:?}");
        }
        assert_eq!(normalize(&"a".repeat(MAX_CHARS + 1)), None);
        assert!(normalize(&"a".repeat(MAX_CHARS)).is_some());
    }

    /// The parts of numbers, negations and names, in this order.
    fn essence(text: &str) -> Vec<String> {
        const NOT: [&str; 6] = ["not", "no", "never", "don't", "without", "isn't"];
        let words = text.split([' ', '\t', ',']).map(|word| word.trim_end_matches(['.', '?', '!']));
        let spelling = |word: &str| {
            let letters = word.chars().filter(|c| c.is_alphabetic());
            let is_name = letters.clone().count() > 1 && letters.clone().all(char::is_uppercase);
            let is_number = word.chars().any(char::is_numeric);
            let lower = word.to_lowercase();
            if is_name || is_number { Some(word.to_owned()) } else { Some(lower).filter(|word| NOT.contains(&&**word)) }
        };
        words.filter_map(spelling).collect()
    }

    const WORDS: [&str; 24] = [
        "is", "Is", "it", "IT", "US", "us", "not", "no", "don't", "never", "1", "10", "1.0", "5!", "10²", "please",
        "Please", "hi,", "thanks", "joke.", "joke?", "A1", "a1", ",",
    ];

    proptest! {
        #[test]
        fn no_number_negation_or_name_is_lost(
            one in prop::collection::vec(prop::sample::select(&WORDS[..]), 1..6),
            other in prop::collection::vec(prop::sample::select(&WORDS[..]), 1..6),
        ) {
            let (one, other) = (one.join(" "), other.join(" "));
            if same(&one, &other) {
                prop_assert_eq!(essence(&one), essence(&other), "{:?} and {:?}", one, other);
            }
        }

        #[test]
        fn it_is_its_own_spelling_or_shorter(text in "\\PC{0,60}") {
            if let Some(normal) = normalize(&text) {
                prop_assert!(!normal.is_empty());
                prop_assert!(normal.len() <= text.len() * 3);
            }
        }
    }
}
