//! Whether two similar messages may mean the same.
//!
//! # Why guards?
//!
//! The distance of two embeddings measures similar wording more than the same meaning: of 20 hand-made pairs with
//! different answers ("enable", "disable"; 10 miles, 100 miles; Paris to London, London to Paris), 11 to 18 were nearer
//! than a threshold at which any paraphrase was found. So the words on which an answer depends must be equal, to the
//! letter, whatever the distance. A pair that is wrongly refused costs a fallback; a pair that is wrongly accepted costs
//! a wrong answer.
//!
//! # Why may only the beginning differ?
//!
//! Names occur in small letters (`rust`), numbers in words and in letters (`Elizabeth I`), negations in prefixes, units
//! in one letter, and all of them in any language: no list contains them all. Nor does a list of words exist that are
//! never one of them: in `x * a`, `hepatitis A` and `the film It` the smallest words of English are the topic.
//!
//! So only *how a question is put* may differ: the first words of an English message, if they are one of the `FORMS` of
//! the same request, and polite words before them. All words after it, and the whole of a message that begins otherwise,
//! must be the same words and signs in the same order, capitals included. That covers numbers, negations and names.

#[cfg(test)]
pub(super) mod pairs;
#[cfg(test)]
mod tests;

/// Shorter messages have too little content, longer ones too much.
const CHARS: std::ops::RangeInclusive<usize> = 12..=4_000;

/// The kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QuestionForm {
    /// A question for what something is, or what things are.
    Tell,
    /// A question for how something is done.
    How,
    Explain,
    Summarize,
}

/// A message in comparable form.
#[derive(Debug, PartialEq, Eq)]
struct ComparedMessage<'a> {
    form: Option<QuestionForm>,
    /// The words after the form, or all words.
    words: Vec<&'a str>,
}

/// Phrases for the same kind of request. None contains a name, a number or a negation, and each precedes the topic.
const FORMS: &[(QuestionForm, &str)] = &[
    (QuestionForm::Tell, "what is the"),
    (QuestionForm::Tell, "what's the"),
    (QuestionForm::Tell, "whats the"),
    (QuestionForm::Tell, "what are the"),
    (QuestionForm::Tell, "tell me the"),
    (QuestionForm::Tell, "give me the"),
    (QuestionForm::Tell, "i want to know the"),
    (QuestionForm::Tell, "i would like to know the"),
    (QuestionForm::Tell, "i'd like to know the"),
    (QuestionForm::How, "how to"),
    (QuestionForm::How, "what is the best way to"),
    (QuestionForm::How, "what's the best way to"),
    (QuestionForm::Explain, "explain"),
    (QuestionForm::Explain, "explain to me"),
    (QuestionForm::Summarize, "summarize"),
    (QuestionForm::Summarize, "summarise"),
    (QuestionForm::Summarize, "give me a summary of"),
    (QuestionForm::Summarize, "write a summary of"),
];

/// Leads before a question that is a message by itself.
const LEADS: &[&str] = &["tell me", "i want to know", "i would like to know", "i'd like to know"];
pub(super) const QUESTION_WORDS: &[&str] = &["how", "what", "what's", "whats", "when", "where", "which", "who", "why"];

/// Before one of the `VERBS`.
const POLITE: &[&str] = &["please", "kindly", "can you please", "could you please", "would you please"];
pub(super) const VERBS: &[&str] = &[
    "compare",
    "define",
    "describe",
    "explain",
    "give",
    "list",
    "show",
    "summarise",
    "summarize",
    "tell",
    "translate",
    "write",
];

/// Only before a form or a lead: "Can you write in Chinese?" differs from "Write in Chinese".
const ABLE: &[&str] = &["can you", "could you"];

/// Before a question word, a verb, or one of the `HELPERS`.
pub(super) const GREETINGS: &[&str] = &["hi,", "hi!", "hello,", "hello!", "hey,", "hey!"];
/// With a capital at the beginning of a message they are not names; `Will` and `May` may be.
const HELPERS: &[&str] =
    &["are", "can", "could", "did", "do", "does", "i", "i'd", "is", "kindly", "please", "was", "were", "would"];
/// Of these, the words that open a statement too: only the mark at its end makes it a question.
pub(super) const STATEMENTS: &[&str] = &["i", "i'd"];

/// In a message with one of these, the width of a space may matter.
const QUOTES: &[char] = &['"', '\'', '“', '”', '„', '‘', '’', '`', '«', '»', '「', '」', '『', '』'];

/// Whether a message can be compared with others.
pub(crate) fn is_comparable(text: &str) -> bool {
    CHARS.contains(&text.chars().take(CHARS.end() + 1).count())
}

/// Whether both messages ask the same: all words on which an answer depends are equal.
pub(crate) fn agree(one: &str, other: &str) -> bool {
    let message = ComparedMessage::of(one);
    // Without words after the form there is no topic.
    one == other || (!message.words.is_empty() && message == ComparedMessage::of(other))
}

/// The cosine of two vectors; `None` if they cannot be compared.
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

// === impl Message ===

impl<'a> ComparedMessage<'a> {
    fn of(text: &'a str) -> Self {
        let all = split(text);
        let rest = before(GREETINGS, all.as_slice(), |rest| rest.first().is_some_and(|word| opener(word).is_some()));
        let rest = before(POLITE, rest, |rest| rest.first().is_some_and(|word| VERBS.contains(word)));
        let rest = before(ABLE, rest, |rest| after_any(LEADS, rest).is_some() || QuestionForm::of(rest).is_some());
        let rest = before(LEADS, rest, |rest| rest.first().is_some_and(|word| QUESTION_WORDS.contains(word)));
        let (form, rest) = QuestionForm::of(rest).map_or((None, rest), |(form, rest)| (Some(form), rest));
        let mut words = rest.to_vec();
        let opener = form.is_none().then(|| rest.first().and_then(|word| opener(word))).flatten();
        if form.is_some() || opener.is_some_and(|opener| !STATEMENTS.contains(&opener)) {
            trim_mark(&mut words);
        }
        if let (Some(first), Some(opener)) = (words.first_mut(), opener) {
            *first = opener;
        }
        Self { form, words }
    }
}

// === impl Form ===

impl QuestionForm {
    /// Returns the longest form at the start of these words, and the words after it.
    fn of<'a, 'b>(words: &'b [&'a str]) -> Option<(Self, &'b [&'a str])> {
        let found = FORMS.iter().filter_map(|(form, phrase)| Some((*form, after(phrase, words)?)));
        let (form, rest) = found.min_by_key(|(_, rest)| rest.len())?;
        // "How to Train Your Dragon" is a title.
        let is_title = form == Self::How && !rest.first().is_some_and(|word| word.starts_with(char::is_lowercase));
        (!is_title).then_some((form, rest))
    }
}

/// Splits a text into its words, unchanged. Only spaces separate them: possible code keeps its lines and indents.
fn split(text: &str) -> Vec<&str> {
    let text = text.trim();
    let is_plain = !text.contains(|c: char| QUOTES.contains(&c) || (c.is_whitespace() && c != ' '));
    text.split(' ').filter(|word| !(is_plain && word.is_empty())).collect()
}

/// Drops one of these phrases at the start, if the words after it qualify.
fn before<'a, 'b>(
    phrases: &[&str],
    words: &'b [&'a str],
    is_expected: impl Fn(&'b [&'a str]) -> bool,
) -> &'b [&'a str] {
    after_any(phrases, words).filter(|rest| is_expected(rest)).unwrap_or(words)
}

fn after_any<'a, 'b>(phrases: &[&str], words: &'b [&'a str]) -> Option<&'b [&'a str]> {
    phrases.iter().filter_map(|phrase| after(phrase, words)).min_by_key(|rest| rest.len())
}

/// Returns the words after this phrase, if the words begin with it.
fn after<'a, 'b>(phrase: &str, words: &'b [&'a str]) -> Option<&'b [&'a str]> {
    let mut rest = words;
    for (at, part) in phrase.split(' ').enumerate() {
        let (first, others) = rest.split_first()?;
        if !spells(first, part, at == 0) {
            return None;
        }
        rest = others;
    }
    Some(rest)
}

/// Whether `word` is this word of the lists; with a capital, if it may have one.
pub(super) fn spells(word: &str, ours: &str, opens: bool) -> bool {
    let may_be_capital = opens || ours == "i";
    let mut letters = word.chars().map(|c| if c == '’' { '\'' } else { c });
    let first = letters.next().map(|c| if may_be_capital { c.to_ascii_lowercase() } else { c });
    let mut expected = ours.chars();
    first == expected.next() && letters.eq(expected)
}

/// Returns the word of the lists that opens a message, in small letters.
pub(super) fn opener(word: &str) -> Option<&'static str> {
    let openers = [QUESTION_WORDS, VERBS, HELPERS];
    openers.into_iter().flatten().copied().find(|opener| spells(word, opener, true))
}

/// Drops the mark at the end of a question. After a digit, a sign or a single letter it may be a part of a number or a
/// name.
fn trim_mark(words: &mut [&str]) {
    let Some(last) = words.last_mut() else { return };
    let bare = last.strip_suffix(['?', '.']).filter(|bare| {
        let mut end = bare.chars().rev();
        end.next().is_some_and(char::is_alphabetic) && end.next().is_some_and(char::is_alphabetic)
    });
    *last = bare.unwrap_or(last);
}
