//! Whether two messages that look alike may mean the same.
//!
//! # Why guards?
//!
//! How near two texts are says how alike they are put, more than whether they mean the same: of 20 hand-made pairs with
//! different answers ("enable", "disable"; 10 miles, 100 miles; Paris to London, London to Paris), 11 to 18 were nearer than a
//! threshold at which any paraphrase was found. So what an answer hangs on has to be equal, to the letter, whatever the
//! measure says. A pair that is refused costs a fallback; a pair that is not costs a wrong answer.

use std::collections::BTreeSet;

/// Shorter messages say too little by themselves, longer ones too much.
const CHARS: std::ops::RangeInclusive<usize> = 12..=4_000;

/// Words that turn a sentence around. English, and those of German, French and Spanish that are no English words.
const NEGATIONS: &[&str] = &[
    "not", "no", "never", "none", "nothing", "nobody", "nowhere", "neither", "nor", "cannot", "without", "except",
    "unless", "hardly", "nicht", "kein", "keine", "keinen", "nie", "ohne", "ne", "pas", "jamais", "sans", "nunca",
    "sin",
];

/// Of each line, the two texts must have the same words.
const EXCLUSIVE: &[&[&str]] = &[
    &["enable", "disable", "enabled", "disabled", "activate", "deactivate"],
    &["add", "remove", "insert", "delete", "create", "destroy", "drop", "subtract"],
    &["before", "after", "since", "until", "during"],
    &["with", "without"],
    &["ascending", "descending", "asc", "desc"],
    &["buy", "sell", "lend", "borrow", "import", "export"],
    &["start", "stop", "begin", "end", "finish", "pause", "resume", "cancel"],
    &["open", "close", "lock", "unlock", "block", "unblock", "allow", "deny", "forbid", "permit"],
    &["on", "off", "in", "out", "up", "down", "over", "under", "above", "below", "inside", "outside"],
    &["more", "less", "fewer", "most", "least", "max", "min", "maximum", "minimum", "highest", "lowest"],
    &["increase", "decrease", "raise", "lower", "grow", "shrink", "expand", "reduce", "gain", "lose", "win"],
    &["first", "last", "next", "previous", "latest", "oldest", "newest"],
    &["left", "right", "north", "south", "east", "west", "top", "bottom", "front", "back"],
    &[
        "high", "low", "big", "small", "large", "long", "short", "fast", "slow", "hot", "cold", "old", "new", "good",
        "bad",
    ],
    &["yes", "true", "false", "all", "any", "some", "every", "each", "both", "either", "only"],
    &["today", "tomorrow", "yesterday", "now", "morning", "evening", "night", "week", "month", "year", "day", "hour"],
    &["who", "whom", "whose", "when", "where", "why"],
    &["install", "uninstall", "upgrade", "downgrade", "upload", "download", "push", "pull", "encrypt", "decrypt"],
    &["encode", "decode", "compress", "decompress", "login", "logout", "subscribe", "unsubscribe", "accept", "reject"],
    &["he", "she", "his", "her", "him", "male", "female", "man", "woman", "men", "women", "boy", "girl"],
    &["my", "your", "our", "their"],
    &["must", "should"],
    &["safe", "unsafe", "legal", "illegal", "possible", "impossible", "public", "private", "internal", "external"],
];

/// Words between which the order of what stands around them is the meaning.
const DIRECTIONS: &[&str] = &[
    "from", "to", "into", "than", "before", "after", "versus", "vs", "over", "between", "against", "minus", "by", "per",
];

/// Numbers in words.
const NUMERALS: &[&str] = &[
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "twenty", "thirty", "forty", "fifty", "sixty", "hundred", "thousand", "million", "billion", "half", "third",
    "quarter", "double", "twice", "triple", "dozen", "second", "single", "once",
];

/// Words that begin a sentence and are no names.
const OPENERS: &[&str] = &[
    "a",
    "an",
    "the",
    "what",
    "whats",
    "what's",
    "which",
    "who",
    "how",
    "when",
    "where",
    "why",
    "is",
    "are",
    "was",
    "were",
    "do",
    "does",
    "did",
    "can",
    "could",
    "would",
    "should",
    "will",
    "may",
    "please",
    "tell",
    "give",
    "show",
    "explain",
    "describe",
    "list",
    "write",
    "make",
    "find",
    "compare",
    "translate",
    "summarize",
    "summarise",
    "help",
    "i",
    "i'm",
    "my",
    "we",
    "our",
    "you",
    "your",
    "it",
    "its",
    "this",
    "that",
    "these",
    "those",
    "there",
    "in",
    "on",
    "at",
    "for",
    "with",
    "from",
    "to",
    "if",
    "and",
    "or",
    "but",
    "so",
    "let",
    "let's",
    "name",
    "define",
    "suggest",
    "create",
    "calculate",
    "convert",
    "in",
    "of",
    "has",
    "have",
    "had",
    "am",
    "any",
    "some",
    "not",
    "no",
    "also",
    "then",
    "now",
    "turn",
    "set",
];

/// Words without a meaning of their own.
const FILLERS: &[&str] = &[
    "a", "an", "the", "is", "are", "was", "were", "be", "do", "does", "did", "of", "for", "and", "or", "it", "its",
    "this", "that", "please", "tell", "give", "me", "what", "how", "can", "could", "would", "will", "there", "in",
    "on", "at", "i", "you", "my", "to", "from", "than",
];

/// What an answer hangs on.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    /// Numbers, with what stands behind them.
    numbers: Vec<String>,
    negations: usize,
    quoted: Vec<String>,
    exclusive: BTreeSet<&'static str>,
    scripts: BTreeSet<Script>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Script {
    Latin,
    Greek,
    Cyrillic,
    Arabic,
    Han,
    Other,
}

/// A word, without the marks around it.
#[derive(Clone, Debug)]
struct Word<'a> {
    text: &'a str,
    lower: String,
    opens: bool,
}

/// Whether a message is one that another may be similar to.
pub(crate) fn is_comparable(text: &str) -> bool {
    CHARS.contains(&text.chars().take(CHARS.end() + 1).count())
}

/// Whether what an answer hangs on is the same in both: numbers and units, negations, quotations, names, words that exclude
/// one another, the order around words of direction, the script.
pub(crate) fn agree(one: &str, other: &str) -> bool {
    let (words, others) = (words(one), words(other));
    Facts::of(one, &words) == Facts::of(other, &others)
        && names_are_in(&words, &others)
        && names_are_in(&others, &words)
        && same_order(&words, &others)
}

/// The cosine of two vectors: `None` where they cannot be compared.
pub(crate) fn cosine(one: &[f32], other: &[f32]) -> Option<f32> {
    if one.is_empty() || one.len() != other.len() {
        return None;
    }
    let dot = |one: &[f32], other: &[f32]| -> f64 {
        one.iter().zip(other).map(|(one, other)| f64::from(*one) * f64::from(*other)).sum()
    };
    let cosine = dot(one, other) / (dot(one, one).sqrt() * dot(other, other).sqrt());
    #[allow(clippy::cast_possible_truncation)]
    let cosine = cosine.clamp(-1.0, 1.0) as f32;
    cosine.is_finite().then_some(cosine)
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut opens = true;
    let mut words = Vec::new();
    for raw in text
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')' | '[' | ']' | '"' | '`' | '“' | '”'))
    {
        let text =
            raw.trim_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '%' | '€' | '$' | '£' | '#' | '+' | '°'));
        if !text.is_empty() {
            words.push(Word { text, lower: text.to_lowercase().replace('’', "'"), opens });
            opens = false;
        }
        opens |= raw.ends_with(['.', '!', '?', ':']);
    }
    words
}

/// Whether each name of `one` stands in `other`: one in capitals in capitals, others in any case.
fn names_are_in(one: &[Word<'_>], other: &[Word<'_>]) -> bool {
    one.iter().filter(|word| word.is_name()).all(|name| {
        other.iter().any(|word| if name.is_capitals() { word.text == name.text } else { word.lower == name.lower })
    })
}

/// Where a word of direction stands in one of them, the words that both have stand in the same order.
fn same_order(one: &[Word<'_>], other: &[Word<'_>]) -> bool {
    let is_directed = |words: &[Word<'_>]| words.iter().any(|word| DIRECTIONS.contains(&word.lower.as_str()));
    if !is_directed(one) && !is_directed(other) {
        return true;
    }
    let has = |words: &[Word<'_>]| words.iter().map(|word| word.lower.clone()).collect::<BTreeSet<_>>();
    let (in_one, in_other) = (has(one), has(other));
    let shared = |words: &[Word<'_>]| -> Vec<String> {
        let both = |word: &&Word<'_>| in_one.contains(&word.lower) && in_other.contains(&word.lower);
        let content = words.iter().filter(both).filter(|word| !FILLERS.contains(&word.lower.as_str()));
        content.map(|word| word.lower.clone()).collect()
    };
    shared(one) == shared(other)
}

// === impl Facts ===

impl Facts {
    fn of(text: &str, words: &[Word<'_>]) -> Self {
        let mut facts = Self {
            numbers: Vec::new(),
            negations: 0,
            quoted: quoted(text),
            exclusive: BTreeSet::new(),
            scripts: text.chars().filter(|c| c.is_alphabetic()).map(Script::of).collect(),
        };
        for (index, word) in words.iter().enumerate() {
            let lower = word.lower.as_str();
            if lower.chars().any(char::is_numeric) || NUMERALS.contains(&lower) {
                let unit = words.get(index + 1).map_or("", |unit| unit.lower.as_str());
                facts.numbers.push(format!("{} {unit}", word.lower));
            }
            facts.negations += usize::from(NEGATIONS.contains(&lower) || lower.ends_with("n't"));
            facts.exclusive.extend(EXCLUSIVE.iter().flat_map(|line| line.iter()).filter(|known| **known == lower));
        }
        facts.numbers.sort_unstable();
        facts.quoted.sort_unstable();
        facts
    }
}

/// What stands between quotation marks.
fn quoted(text: &str) -> Vec<String> {
    let parts: Vec<&str> = text.split(['"', '“', '”', '`', '«', '»']).collect();
    parts.iter().skip(1).step_by(2).map(|part| (*part).to_owned()).collect()
}

// === impl Word ===

impl Word<'_> {
    /// A name, or something that is no ordinary word.
    fn is_name(&self) -> bool {
        let capital = self.text.chars().next().is_some_and(char::is_uppercase);
        let inside = self
            .text
            .chars()
            .skip(1)
            .any(|c| c.is_uppercase() || (!c.is_alphanumeric() && !matches!(c, '\'' | '’' | '-')));
        inside || (capital && !(self.opens && OPENERS.contains(&self.lower.as_str())) && self.lower != "i")
    }

    fn is_capitals(&self) -> bool {
        let letters = self.text.chars().filter(|c| c.is_alphabetic());
        letters.clone().count() > 1 && letters.clone().all(char::is_uppercase)
    }
}

// === impl Script ===

impl Script {
    fn of(c: char) -> Self {
        match u32::from(c) {
            0x0041..=0x024F | 0x1E00..=0x1EFF => Self::Latin,
            0x0370..=0x03FF => Self::Greek,
            0x0400..=0x052F => Self::Cyrillic,
            0x0600..=0x06FF => Self::Arabic,
            0x3040..=0x30FF | 0x3400..=0x9FFF | 0x20000..=0x2FFFF => Self::Han,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paraphrases_agree() {
        for (one, other) in [
            ("What is the capital of France?", "Tell me the capital city of France"),
            ("How do I reset a forgotten password?", "how do I recover a password that was forgotten"),
            ("Explain photosynthesis in simple words", "Explain in simple words how photosynthesis works"),
            ("Translate the sentence \"Good day\" for me", "Please translate for me: \"Good day\""),
            ("Is it 10 miles to Paris?", "It is 10 miles to Paris, is it?"),
        ] {
            assert!(agree(one, other), "{one:?} and {other:?}");
        }
    }

    #[test]
    fn what_the_answer_hangs_on_must_be_equal() {
        for (one, other) in [
            ("Is it 10 miles to Paris?", "Is it 100 miles to Paris?"),
            ("Is it 10 miles to Paris?", "Is it 10 kilometres to Paris?"),
            ("Wait ten minutes for it", "Wait twenty minutes for it"),
            ("Is it safe to eat?", "Is it not safe to eat?"),
            ("Do that for me", "Don't do that for me"),
            ("Take the coat with you", "Take the coat without you"),
            ("How do I enable the firewall?", "How do I disable the firewall?"),
            ("The flight from Paris to London", "The flight from London to Paris"),
            ("Is Anna older than Ben?", "Is Ben older than Anna?"),
            ("What is the capital of France?", "What is the capital of Spain?"),
            ("what is the capital of france", "What is the capital of Spain?"),
            ("How do I contact US support?", "How do I contact us support?"),
            ("What does EU law say?", "What does US law say?"),
            ("Define the word \"set\"", "Define the word \"Set\""),
            ("Sort the list ascending", "Sort the list descending"),
            ("Who wrote this book?", "When was this book written, and who wrote it?"),
            ("What is file.txt good for?", "What is file.csv good for?"),
            ("сколько стоит билет", "skolko stoit bilet"),
        ] {
            assert!(!agree(one, other), "{one:?} and {other:?}");
            assert!(!agree(other, one), "{other:?} and {one:?}");
        }
    }

    #[test]
    fn only_messages_of_some_length_are_compared() {
        assert!(!is_comparable("yes, do it"));
        assert!(is_comparable("yes, do it now"));
        assert!(!is_comparable(&"a".repeat(4_001)));
    }

    #[test]
    fn a_cosine_is_that_of_two_vectors_of_one_length() {
        assert_eq!(cosine(&[1.0, 0.0], &[2.0, 0.0]), Some(1.0));
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), Some(0.0));
        for (one, other) in [(&[1.0][..], &[1.0, 2.0][..]), (&[], &[]), (&[0.0], &[1.0]), (&[f32::NAN], &[1.0])] {
            assert_eq!(cosine(one, other), None);
        }
    }

    /// Words of which the two texts of a pair may have different ones.
    const TELLING: [&[&str]; 5] = [
        &["1", "10", "100", "10.5", "1st", "10%"],
        &["", "not", "never", "don't", "without"],
        &["Paris", "London", "EU", "US", "Ben", "iPhone"],
        &["enable", "disable", "before", "after"],
        &["\"set\"", "\"get\"", ""],
    ];

    proptest! {
        /// None whose numbers, negations or names differ.
        #[test]
        fn one_word_that_tells_is_enough(
            kind in 0..TELLING.len(), one in 0..6_usize, other in 0..6_usize,
            before in "(the|dog|runs|fast| )([a-z ]{0,20})", after in "[a-z ]{0,20}",
        ) {
            let of = |index: usize| TELLING[kind][index % TELLING[kind].len()];
            let text = |word: &str| format!("{before} {word} {after}");
            let (left, right) = (text(of(one)), text(of(other)));
            if of(one) == of(other) {
                prop_assert!(agree(&left, &right));
            } else if kind != 1 || of(one).is_empty() != of(other).is_empty() || of(one) == "without" || of(other) == "without" {
                prop_assert!(!agree(&left, &right), "{} and {}", left, right);
            }
        }

        #[test]
        fn it_is_the_same_from_both_sides(one in "\\PC{0,40}", other in "\\PC{0,40}") {
            prop_assert_eq!(agree(&one, &other), agree(&other, &one));
            prop_assert!(agree(&one, &one));
        }
    }
}
