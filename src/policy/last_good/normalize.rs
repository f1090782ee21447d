//! One spelling of a message, so that the same question in another one is the same.
//!
//! # Why so little?
//!
//! A wrong answer is worse than none. So only plain sentences are treated, and only what never carries a meaning is dropped:
//! how wide a space is, a capital letter, the mark at the end, a greeting, a "please". The order of the words stays, and so
//! does everything that numbers, names and negations are made of. A word in capitals is a name (`US`, `WHO`), not another
//! spelling (`us`, `who`), and a letter or two may be a unit, a symbol or a number (`M`, `Co`, `II`). What may be code, a
//! quotation, a list or what is asked about (line breaks, quotes, brackets, signs, what stands behind a colon) is left alone, and
//! so is compatibility decomposition: to NFKC, 10² is 102.

/// Longer messages are left alone.
const MAX_CHARS: usize = 4_000;
/// What may stand in a plain sentence beside letters, digits and spaces.
const PLAIN: &str = ".,?!;:'’-–%&€$£";
const GREETINGS: [&str; 4] = ["hi", "hello", "hey", "dear all"];
const POLITE: [&str; 3] = ["please", "thanks", "thank you"];
/// Short words that are written with a capital at the start of a sentence, and mean the same.
const SHORT: [&str; 22] = [
    "a", "am", "an", "as", "at", "be", "by", "do", "go", "he", "hi", "if", "in", "is", "it", "my", "no", "of", "on",
    "so", "to", "we",
];

/// The one spelling of this message; `None` where it must be taken as it is.
pub(crate) fn normalize(text: &str) -> Option<String> {
    let plain = |c: char| c.is_alphanumeric() || c == ' ' || c == '\t' || PLAIN.contains(c);
    let text = text.trim();
    if text.is_empty() || text.chars().nth(MAX_CHARS).is_some() || !text.chars().all(plain) || may_quote(text) {
        return None;
    }
    let mut words: Vec<String> = Vec::new();
    for word in text.split([' ', '\t']).filter(|word| !word.is_empty()) {
        let before = words.last();
        let is_unit = before.is_some_and(|before| before.ends_with(char::is_numeric));
        let opens = match before {
            Some(before) => before.ends_with(['.', '?', '!']) || words.len() == 1 && is_greeting(before),
            None => true,
        };
        words.push(if is_unit { word.to_owned() } else { fold(word, opens) });
    }
    let mut text = words.join(" ");
    trim_end(&mut text);
    trim_greeting(&mut text);
    trim_politeness(&mut text);
    (!text.is_empty()).then_some(text)
}

/// An apostrophe that is not between letters may be a quotation mark. Behind a colon that is not in a time of day stands what is
/// asked about, in which each letter counts.
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

/// A word without capitals, unless it is made of them, has a digit in it, or is short: then it is a name but for "I", and
/// those that open a sentence. Behind a comma stands no opening but that of a greeting: `He` may be helium there.
fn fold(word: &str, opens: bool) -> String {
    let letters = word.chars().filter(|c| c.is_alphabetic());
    let lower = word.to_lowercase();
    let bare = lower.trim_end_matches(['.', ',', '?', '!']);
    let is_short = letters.clone().count() < 3 && bare != "i" && !(opens && SHORT.contains(&bare));
    let is_name = is_short || letters.clone().skip(1).any(char::is_uppercase);
    if is_name || word.chars().any(char::is_numeric) { word.to_owned() } else { lower }
}

/// Whether a message may begin with this, and a comma.
fn is_greeting(word: &str) -> bool {
    word.strip_suffix(',').is_some_and(|word| GREETINGS.contains(&word))
}

/// Without the marks at the end. Behind a digit or a single letter they may be a factorial, a decimal or an initial.
fn trim_end(text: &mut String) {
    let bare = text.trim_end_matches(['.', '?', '!', ' ']);
    let last: Vec<char> = bare.chars().rev().take(2).collect();
    if last.len() == 2 && last.iter().all(|c| c.is_alphabetic()) {
        text.truncate(bare.len());
    }
}

/// Without a greeting and the comma behind it. With a single word behind it, it may be a title: "Hey, Jude".
fn trim_greeting(text: &mut String) {
    let rest = GREETINGS.iter().find_map(|greeting| text.strip_prefix(greeting)?.strip_prefix([',', '!']));
    if let Some(rest) = rest.map(str::trim_start).filter(|rest| rest.contains(' ')) {
        *text = rest.to_owned();
    }
}

/// Without one polite word at the start and one at the end.
fn trim_politeness(text: &mut String) {
    let start = text.strip_prefix("please").and_then(|rest| rest.strip_prefix([' ', ',']));
    if let Some(rest) = start.map(str::trim_start).filter(|rest| !rest.is_empty()) {
        *text = rest.to_owned();
    }
    let end = POLITE.iter().find_map(|polite| {
        let rest = text.strip_suffix(polite)?;
        rest.strip_suffix(", ").or_else(|| rest.strip_suffix(' ').filter(|_| *polite == "please"))
    });
    if let Some(length) = end.map(str::len).filter(|length| *length > 0) {
        text.truncate(length);
        trim_end(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            ("Tell me a joke, please!", "tell me a joke"),
            ("Tell me a joke please", "tell me a joke"),
            ("Hello! Tell me a joke. Thanks!", "Hello, tell me a joke. thanks"),
            ("Explain it to me, thank you", "explain it to me"),
            ("Don't stop", "don't stop"),
            ("What can I do? Is it late", "what can i do? is it late"),
            ("Do I go to Paris in May", "do I go to paris in may"),
            ("Hi, Do I go to Paris", "hi, do I go to paris"),
            ("Wake me at 10:30, please", "wake me at 10:30"),
        ] {
            assert!(same(one, other), "{one:?} and {other:?}: {:?}, {:?}", normalize(one), normalize(other));
        }
    }

    #[test]
    fn what_may_mean_something_else_is_not_one() {
        for (one, other) in [
            ("Is it 10 miles?", "Is it 100 miles?"),
            ("What is 10²?", "What is 102?"),
            ("What is 5!", "What is 5"),
            ("What is n!", "What is n"),
            ("Is it 1.5 long", "Is it 15 long"),
            ("Contact US", "contact us"),
            ("Is 5 M long", "Is 5 m long"),
            ("Is 5 Mm long", "Is 5 mm long"),
            ("Is 5 Mb large", "Is 5 mb large"),
            ("Is 5 Pa much", "Is 5 pa much"),
            ("Is five Mm long", "Is five mm long"),
            ("Is vitamin A good", "Is vitamin a good"),
            ("Is Co dangerous", "Is co dangerous"),
            ("Is plan B good", "Is plan b good"),
            ("The film Us", "The film us"),
            ("Is As toxic", "Is as toxic"),
            ("Which is lighter, He or Ne", "Which is lighter, he or Ne"),
            ("Which is heavier, As or He", "Which is heavier, as or He"),
            ("Which one is it, No or In", "Which one is it, no or In"),
            ("What does WHO say", "what does who say"),
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

    /// What numbers, negations and names are made of: in this order.
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
