//! Whether two messages that look alike may mean the same.
//!
//! # Why guards?
//!
//! How near two texts are says how alike they are put, more than whether they mean the same: of 20 hand-made pairs with
//! different answers ("enable", "disable"; 10 miles, 100 miles; Paris to London, London to Paris), 11 to 18 were nearer than a
//! threshold at which any paraphrase was found. So what an answer hangs on has to be equal, to the letter, whatever the
//! measure says. A pair that is refused costs a fallback; a pair that is not costs a wrong answer.
//!
//! # Why a list of words that may differ, and not of those that may not?
//!
//! Names stand in small letters, numbers in words, negations in prefixes, and all of them in any language: no list has them all.
//! So every word counts, in its place, but for some hundred English ones that only put a question. In another language that leaves
//! the same words in the same order.

use std::collections::BTreeSet;

use super::relations;

/// Shorter messages say too little by themselves, longer ones too much.
const CHARS: std::ops::RangeInclusive<usize> = 12..=4_000;

/// Words by which a question is put, sorted: one text may have them, and the other not. None of them is a name, a number or a
/// negation, or has an opposite among them.
const COMMON: &[&str] = &[
    "a",
    "about",
    "actually",
    "am",
    "an",
    "and",
    "answer",
    "are",
    "as",
    "ask",
    "asking",
    "at",
    "basically",
    "be",
    "been",
    "being",
    "best",
    "brief",
    "briefly",
    "but",
    "can",
    "city",
    "could",
    "curious",
    "dear",
    "define",
    "definition",
    "describe",
    "description",
    "do",
    "does",
    "doing",
    "exactly",
    "explain",
    "explanation",
    "for",
    "give",
    "happen",
    "happens",
    "has",
    "have",
    "having",
    "hello",
    "help",
    "hey",
    "hi",
    "how",
    "how's",
    "i",
    "i'd",
    "i'm",
    "i've",
    "info",
    "information",
    "is",
    "it",
    "it's",
    "its",
    "just",
    "kindly",
    "know",
    "let",
    "let's",
    "like",
    "look",
    "looks",
    "may",
    "me",
    "mean",
    "meaning",
    "means",
    "might",
    "need",
    "of",
    "ok",
    "okay",
    "overview",
    "please",
    "provide",
    "question",
    "really",
    "say",
    "see",
    "sentence",
    "shall",
    "share",
    "show",
    "simple",
    "simply",
    "so",
    "such",
    "summarise",
    "summarize",
    "summary",
    "tell",
    "text",
    "thank",
    "thanks",
    "that",
    "that's",
    "the",
    "then",
    "there",
    "there's",
    "these",
    "thing",
    "things",
    "think",
    "this",
    "those",
    "to",
    "understand",
    "us",
    "very",
    "want",
    "way",
    "ways",
    "we",
    "well",
    "what",
    "what's",
    "whats",
    "which",
    "wonder",
    "wondering",
    "word",
    "words",
    "work",
    "works",
    "would",
    "you",
];

/// A word that both texts must have, or neither, wherever it stands: "in simple words" is said in front and behind.
const ANYWHERE: &str = "in";

/// Words behind which every word counts, however common.
const NEGATIONS: &[&str] = &["not", "no", "never", "none", "neither", "nor", "cannot", "without", "except", "unless"];

/// Marks around words that belong to the sentence.
const MARKS: &[char] = &['.', ',', ';', ':', '!', '?', '…', '\'', '’', '‘', '¿', '¡'];
const QUOTES: &[char] = &['"', '“', '”', '„', '`', '«', '»', '「', '」', '『', '』'];
const BRACKETS: &[char] = &['(', ')', '[', ']', '{', '}'];

/// What an answer hangs on.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    /// The words that count, in their order: names, numbers, negations, and all that is not known to be none of these.
    content: Vec<String>,
    has_anywhere: bool,
    quoted: Vec<String>,
    /// What is neither a letter, a digit nor a mark of a sentence, in its order: brackets, operators, currencies.
    signs: String,
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

/// Whether what an answer hangs on is the same in both: the words that count, in their order, the signs between them, what is
/// quoted, what is written in capitals, the script, and nothing that says who does what to whom in another way.
pub(crate) fn agree(one: &str, other: &str) -> bool {
    let (words, others) = (words(one), words(other));
    let (facts, other_facts) = (Facts::of(one, &words), Facts::of(other, &others));
    // Where no word counts, nothing says that they mean the same.
    (one == other || !facts.content.is_empty())
        && facts == other_facts
        && names_are_in(&words, &others)
        && names_are_in(&others, &words)
        && relations::agree(words.iter().map(|word| &*word.lower), others.iter().map(|word| &*word.lower))
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
    let mut words = Vec::new();
    let (mut opens, mut start, mut before) = (true, 0, ' ');
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let after = chars.peek().map_or(' ', |(_, after)| *after);
        // The comma of 1,000 is a part of the number.
        let lists = matches!(c, ',' | ';') && !(before.is_numeric() && after.is_numeric());
        if c.is_whitespace() || lists || QUOTES.contains(&c) || BRACKETS.contains(&c) {
            Word::push(&mut words, text.get(start..at).unwrap_or_default(), &mut opens);
            start = at + c.len_utf8();
        }
        before = c;
    }
    Word::push(&mut words, text.get(start..).unwrap_or_default(), &mut opens);
    words
}

/// Whether each name of `one` stands in `other`: one in capitals in capitals, others in any case.
fn names_are_in(one: &[Word<'_>], other: &[Word<'_>]) -> bool {
    one.iter().filter(|word| word.is_name()).all(|name| {
        other.iter().any(|word| if name.is_capitals() { word.text == name.text } else { word.lower == name.lower })
    })
}

/// What stands between quotation marks, or behind one that nothing closes.
fn quoted(text: &str) -> Vec<String> {
    let (mut parts, mut inside, mut before) = (Vec::new(), None::<String>, ' ');
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let within = before.is_alphanumeric() && chars.peek().is_some_and(|after| after.is_alphanumeric());
        let is_apostrophe = matches!(c, '\'' | '’' | '‘');
        if QUOTES.contains(&c) || (is_apostrophe && !within) {
            match inside.take() {
                Some(part) => parts.push(part),
                None => inside = Some(String::new()),
            }
        } else if let Some(part) = &mut inside {
            part.push(c);
        }
        before = c;
    }
    parts.extend(inside);
    parts
}

fn is_sign(c: char) -> bool {
    !(c.is_alphanumeric() || c.is_whitespace() || MARKS.contains(&c) || QUOTES.contains(&c))
}

// === impl Facts ===

impl Facts {
    fn of(text: &str, words: &[Word<'_>]) -> Self {
        let mut facts = Self {
            content: Vec::new(),
            has_anywhere: false,
            quoted: quoted(text),
            signs: text.chars().filter(|c| is_sign(*c)).collect(),
            scripts: text.chars().filter(|c| c.is_alphabetic()).map(Script::of).collect(),
        };
        // The word behind a number is its unit, the one behind a negation is what is negated, and a capital makes a name.
        let mut counts = false;
        for word in words {
            counts |= word.is_capitals() || word.is_name();
            // "don't" is "do", which may be missing, and "not". "didn't" says more, as "did" does.
            let stem = word.lower.strip_suffix("n't").map(|stem| if stem == "ca" { "can" } else { stem });
            let is_not = stem.is_some_and(|stem| is_in(COMMON, stem));
            let word = if is_not { "not" } else { word.lower.as_str() };
            if !counts && word == ANYWHERE {
                facts.has_anywhere = true;
            } else if counts || !is_in(COMMON, word) {
                facts.content.push(word.to_owned());
            }
            counts = stem.is_some() || NEGATIONS.contains(&word) || word.contains(char::is_numeric);
        }
        facts
    }
}

// === impl Word ===

impl<'a> Word<'a> {
    /// Adds the word in `raw`, if there is one.
    fn push(words: &mut Vec<Self>, raw: &'a str, opens: &mut bool) {
        let start = raw.trim_start_matches(MARKS);
        // .5 is no 5, and 5! is no 5.
        let point = raw.len() - start.len();
        let is_fraction =
            raw.get(..point).is_some_and(|marks| marks.ends_with('.')) && start.starts_with(char::is_numeric);
        let start = if is_fraction { raw.get(point - 1..).unwrap_or(start) } else { start };
        let bare = start.trim_end_matches(MARKS);
        let is_factorial = start.get(bare.len()..).is_some_and(|marks| marks.starts_with('!'))
            && (bare.ends_with(char::is_numeric) || bare.chars().count() == 1);
        let text = if is_factorial { start.get(..=bare.len()).unwrap_or(bare) } else { bare };
        if !text.is_empty() {
            words.push(Self { text, lower: text.to_lowercase().replace('’', "'"), opens: *opens });
            *opens = false;
        }
        *opens |= raw.ends_with(['.', '!', '?', ':']);
    }

    /// A name, or something that is no ordinary word.
    fn is_name(&self) -> bool {
        let capital = self.text.chars().next().is_some_and(char::is_uppercase);
        let inside = self.text.chars().skip(1).any(char::is_uppercase);
        let is_opener = || self.opens && (is_in(COMMON, &self.lower) || self.lower == ANYWHERE);
        inside || (capital && self.lower != "i" && !is_opener())
    }

    fn is_capitals(&self) -> bool {
        let letters = self.text.chars().filter(|c| c.is_alphabetic());
        letters.clone().count() > 1 && letters.clone().all(char::is_uppercase)
    }
}

fn is_in(words: &[&str], word: &str) -> bool {
    words.binary_search(&word).is_ok()
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
            ("How do I boil an egg?", "What is the best way to boil an egg?"),
            ("Explain photosynthesis in simple words", "Explain in simple words how photosynthesis works"),
            ("Translate the sentence \"Good day\" for me", "Please translate for me: \"Good day\""),
            ("Is it 10 miles to Paris?", "It is 10 miles to Paris, is it?"),
            ("Why is the sky blue?", "Why does the sky look blue?"),
            ("Why can't cats swim?", "Please explain to me: why can't cats swim"),
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
            ("Write a letter to Anna about Ben", "Write a letter about Anna to Ben"),
            ("How can I help you?", "How can you help me?"),
            ("What is the meaning of work?", "What is the meaning of help?"),
            ("Who directed the film Us?", "Who directed the film for us?"),
            ("Is hepatitis A dangerous?", "Is a hepatitis dangerous?"),
            ("Why didn't the build run?", "Why doesn't the build run?"),
            ("Who isn't the president of it?", "Who wasn't the president of it?"),
            ("Do all cats like some dogs?", "Do some cats like all dogs?"),
            ("Can only adults see children?", "Can adults see only children?"),
            ("Anna goes if Ben stays", "If Anna goes, Ben stays"),
            ("Is the cat in the box on the table?", "Is the cat on the box in the table?"),
        ] {
            assert!(!agree(one, other), "{one:?} and {other:?}");
            assert!(!agree(other, one), "{other:?} and {one:?}");
        }
    }

    /// What has no capital, no digit and no word that says "not", or is written in another language.
    #[test]
    fn names_numbers_and_negations_are_seen_in_any_form() {
        for (one, other) in [
            // Names in small letters, and the order in which they stand.
            ("what is the capital of france", "what is the capital of spain"),
            ("did anna call ben yesterday", "did ben call anna yesterday"),
            ("the flight from paris to london", "the flight to paris from london"),
            ("how old is adam", "how old is adams"),
            ("is the US bigger than the EU", "is the EU bigger than the US"),
            ("the US and the EU are what", "the EU and the US are what"),
            // Numbers in words, in other digits, and what stands before and behind them.
            ("what is thirteen plus two", "what is sixteen plus two"),
            ("thirteen cats and sixteen dogs", "sixteen cats and thirteen dogs"),
            ("is the ٣ o'clock train late", "is the ٤ o'clock train late"),
            ("what is the Ⅳ chapter about", "what is the Ⅵ chapter about"),
            ("is -5 degrees cold for a cat", "is 5 degrees cold for a cat"),
            ("pour .5 litres of water", "pour 5 litres of water"),
            ("is -5 or 3 the larger number", "is 5 or -3 the larger number"),
            ("what is 5! as a number", "what is 5 as a number"),
            ("what is 8 * 4 please", "what is 8 / 4 please"),
            ("values that are > 5 please", "values that are < 5 please"),
            ("is it 1,000 or more", "is it 1.000 or more"),
            ("x costs 5 and y costs 7", "x costs 7 and y costs 5"),
            ("what happened in 1914 in may", "what happened in 1914 in june"),
            ("what is on 2024-05-06", "what is on 2024-06-05"),
            ("is it 5 kg in weight", "is it 5 lb in weight"),
            ("give me 5 ways to relax", "give me 5 words to relax"),
            // Negations by prefix, without an apostrophe, of another word, of other languages.
            ("is this mushroom toxic", "is this mushroom nontoxic"),
            ("why is she happy today", "why is she unhappy today"),
            ("why can cats swim well", "why cant cats swim well"),
            ("is it not safe but legal", "is it safe but not legal"),
            ("warum ist das sicher", "warum ist das unsicher"),
            ("darf ich das essen", "darf ich das nicht essen"),
            ("czy to jest bezpieczne", "czy to nie jest bezpieczne"),
            ("これは安全ですか教えてください", "これは安全ではないですか教えてください"),
            ("法国的首都是哪个城市呢请告诉我", "德国的首都是哪个城市呢请告诉我"),
            ("ما هي عاصمة فرنسا اليوم", "ما هي عاصمة ألمانيا اليوم"),
            // Code.
            ("what does x == y do here", "what does x != y do here"),
            ("what is ( a + b ) * c then", "what is a + ( b * c ) then"),
            ("explain the flag --force to me", "explain the flag force to me"),
            ("is a && b true for me", "is a || b true for me"),
            ("how do I learn C fast", "how do I learn C++ fast"),
            ("define the word 'set' for me", "define the word 'Set' for me"),
            // Opposites, each in its place.
            ("hot in summer and cold in winter", "cold in summer and hot in winter"),
            ("turn on the fan, turn off the tv", "turn off the fan, turn on the tv"),
            ("who is the president of it", "who was the president of it"),
            // What looks like the same letters.
            ("where is the town of Paris", "where is the town of P\u{0430}ris"),
            ("where is the town of Paris", "where is the town of Pa\u{200B}ris"),
        ] {
            assert!(!agree(one, other), "{one:?} and {other:?}");
            assert!(!agree(other, one), "{other:?} and {one:?}");
        }
    }

    #[test]
    fn the_lists_are_sorted_and_have_nothing_in_common() {
        assert!(COMMON.is_sorted() && !is_in(COMMON, ANYWHERE));
        assert!(COMMON.iter().all(|word| !NEGATIONS.contains(word)));
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

    /// Words of which the two texts of a pair may have different ones: numbers, negations, names, opposites, quotations.
    const TELLING: [&[&str]; 6] = [
        &["1", "10", "100", "10.5", ".5", "-1", "1st", "10%", "ten", "thirteen", "٣", "½", "5!", "1,000"],
        &["", "never", "don't", "without", "cannot", "unsafe", "nicht", "jamais", "не"],
        &["Paris", "paris", "London", "EU", "US", "Ben", "iPhone", "müller", "Łódź", "東京"],
        &["enable", "disable", "before", "after", "off", "<", ">", "&&", "||"],
        &["\"set\"", "\"get\"", ""],
        &["january", "monday", "kg", "km", "euros", "°C"],
    ];

    proptest! {
        /// None whose numbers, negations or names differ.
        #[test]
        fn one_word_that_tells_is_enough(
            kind in 0..TELLING.len(), one in 0..14_usize, other in 0..14_usize,
            before in "(the|dog|runs|fast|please tell me| )([a-z ]{0,20})", after in "( please| thanks|[a-z ]{0,20})",
        ) {
            let of = |index: usize| TELLING[kind][index % TELLING[kind].len()];
            let text = |word: &str| format!("{before} {word} {after}");
            let (left, right) = (text(of(one)), text(of(other)));
            // One in capitals may be the same name as one that is not.
            if of(one).to_lowercase() != of(other).to_lowercase() {
                prop_assert!(!agree(&left, &right), "{} and {}", left, right);
            } else if of(one) == of(other) {
                prop_assert!(agree(&left, &right));
            }
        }

        /// Nor any in which they stand in another order.
        #[test]
        fn two_words_that_change_places_are_others(
            kind in 0..TELLING.len(), one in 0..14_usize, other in 0..14_usize,
            before in "(the|is|please tell me| )", between in "(and|or|than|to| )", after in "( please| thanks|)",
        ) {
            let of = |index: usize| TELLING[kind][index % TELLING[kind].len()];
            let text = |one: &str, other: &str| format!("{before} {one} {between} {other} {after}");
            let (left, right) = (text(of(one), of(other)), text(of(other), of(one)));
            let differ = of(one).to_lowercase() != of(other).to_lowercase();
            if differ && !of(one).is_empty() && !of(other).is_empty() {
                prop_assert!(!agree(&left, &right), "{} and {}", left, right);
            }
        }

        #[test]
        fn it_is_the_same_from_both_sides(one in "\\PC{0,40}", other in "\\PC{0,40}") {
            prop_assert_eq!(agree(&one, &other), agree(&other, &one));
            prop_assert!(agree(&one, &one));
        }

        /// Words that only put a question change nothing.
        #[test]
        fn common_words_may_differ(
            content in "[b-df-hj-np-tv-z]{2,8} [b-df-hj-np-tv-z]{2,8}",
            one in prop::collection::vec(prop::sample::select(COMMON), 0..4),
            other in prop::collection::vec(prop::sample::select(COMMON), 0..4),
        ) {
            prop_assume!(!one.iter().chain(&other).any(|word| relations::is_said_by(word)));
            let text = |words: &[&str]| format!("{} {content}", words.join(" "));
            let known = |word: &str| is_in(COMMON, word) || word == ANYWHERE || NEGATIONS.contains(&word);
            if !content.split(' ').any(known) {
                prop_assert!(agree(&text(&one), &text(&other)));
            }
        }
    }

    #[test]
    fn a_cosine_does_not_depend_on_lengths() {
        assert_eq!(cosine(&[3.0, 4.0], &[3.0, 4.0]), Some(1.0));
        assert_eq!(cosine(&[3.0, 4.0], &[6.0, 8.0]), Some(1.0));
        assert_eq!(cosine(&[3.0, 4.0], &[-3.0, -4.0]), Some(-1.0));
        assert_eq!(cosine(&[3.0, 4.0], &[4.0, 3.0]), Some(0.96));
    }

    #[test]
    fn capitals_are_more_than_one() {
        let capitals = |text: &str| words(text).first().is_some_and(Word::is_capitals);
        assert!(capitals("US") && capitals("U-2S"));
        assert!(!capitals("Us") && !capitals("U") && !capitals("U2") && !capitals("us") && !capitals("22"));
    }

    #[test]
    fn scripts_are_told_apart() {
        let of = |c| format!("{:?}", Script::of(c));
        for (c, name) in [
            ('a', "Latin"),
            ('é', "Latin"),
            ('ế', "Latin"),
            ('λ', "Greek"),
            ('ж', "Cyrillic"),
            ('ع', "Arabic"),
            ('か', "Han"),
            ('漢', "Han"),
            ('한', "Other"),
            ('1', "Other"),
        ] {
            assert_eq!(of(c), name, "{c}");
        }
    }
}
