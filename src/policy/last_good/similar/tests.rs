use proptest::prelude::*;

use super::pairs::OTHERS;
use super::*;

#[test]
fn questions_that_are_put_in_another_way_agree() {
    for same in [
        &[
            "What is the capital of France?",
            "what is the capital of France",
            "What's the capital of France?",
            "What’s the capital of France.",
            "Tell me the capital of France",
            "Please tell me the capital of France.",
            "Could you tell me the capital of France?",
            "Can you please give me the capital of France?",
            "Hi, can you tell me what is the capital of France?",
            "I want to know what's the capital of France",
            "I'd like to know the capital of France",
        ][..],
        &["How to boil an egg?", "how to boil an egg", "What is the best way to boil an egg?"],
        &["How do I boil an egg?", "how do I boil an egg", "Tell me how do I boil an egg?"],
        &["Explain photosynthesis", "Please explain photosynthesis.", "Can you explain to me photosynthesis?"],
        &["Summarize the plot of Hamlet", "Give me a summary of the plot of Hamlet", "summarise the plot of Hamlet."],
        &["Tell me who wrote Hamlet", "who wrote Hamlet", "Who wrote Hamlet?", "I want to know who wrote Hamlet."],
        &["Please write a poem about cats", "Write a poem about cats"],
        &["Is it 10 miles to Paris?", "is it 10  miles to Paris", "Hello, is it 10 miles to Paris?"],
    ] {
        for one in same {
            for other in same {
                assert!(agree(one, other), "{one:?} and {other:?}");
            }
        }
    }
}

#[test]
fn what_an_answer_hangs_on_must_be_equal() {
    let count: usize = OTHERS.iter().map(|(_, pairs)| pairs.len()).sum();
    assert!(count >= 200, "{count}");
    for (kind, pairs) in OTHERS {
        for (one, other) in *pairs {
            assert!(!agree(one, other), "{kind}: {one:?} and {other:?}");
            assert!(!agree(other, one), "{kind}: {other:?} and {one:?}");
            // Also behind a form, where words that only put the question are dropped.
            let asked = |text: &str| [format!("Explain {text}"), format!("Please explain to me {text}")];
            for (one, other) in asked(one).iter().flat_map(|one| asked(other).map(|other| (one.clone(), other))) {
                assert!(!agree(&one, &other), "{kind}: {one:?} and {other:?}");
            }
        }
    }
}

#[test]
fn a_mark_that_makes_a_question_counts() {
    assert!(!agree("You like it a lot there?", "You like it a lot there."));
    assert!(!agree("I like it a lot there?", "I like it a lot there."));
    assert!(!agree("I'd like it a lot there?", "I'd like it a lot there."));
}

/// Words on which an answer may hang, whatever they look like: small ones, and such as stand in the forms, too.
const WORDS: &[&str] = &[
    "a",
    "i",
    "I",
    "A",
    "an",
    "the",
    "it",
    "It",
    "is",
    "in",
    "to",
    "me",
    "us",
    "US",
    "Us",
    "of",
    "and",
    "or",
    "not",
    "no",
    "never",
    "don't",
    "nicht",
    "не",
    "不",
    "10",
    "100",
    "ten",
    "-1",
    "5!",
    "!",
    ".5",
    "½",
    "٣",
    "Ⅳ",
    "II",
    "X",
    "x",
    "*",
    "/",
    "<",
    ">",
    "==",
    "!=",
    "m",
    "mm",
    "M",
    "kg",
    "°C",
    "$",
    "€5",
    "£",
    "👍",
    "👎",
    "2024-05-06",
    "10:30",
    "may",
    "May",
    "Paris",
    "paris",
    "Łódź",
    "東京",
    "C",
    "C++",
    "what",
    "What",
    "how",
    "who",
    "WHO",
    "please",
    "Please",
    "tell",
    "explain",
    "hi,",
    "can",
    "you",
    "best",
    "way",
    "\"set\"",
    "set",
    "'",
    ",",
    ".",
    "?",
];

fn some_words(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(WORDS), count)
}

/// How a question may begin, and what stands there in its place.
fn beginning() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "What is the",
        "what's the",
        "Tell me the",
        "Please tell me the",
        "Could you tell me what is the",
        "Hi, what are the",
        "How do I",
        "how to",
        "Explain",
        "Please explain to me",
        "Summarize",
        "Give me a summary of",
        "Who",
        "Why is",
        "Warum ist",
        "",
        "Is it",
        "I want to know",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// One word more, less, or another one, and the messages are others, wherever it stands and however they begin.
    #[test]
    fn one_word_is_enough(
        one in beginning(), other in beginning(), before in some_words(0..4), words in some_words(0..3),
        instead in some_words(0..3), after in some_words(0..4),
    ) {
        prop_assume!(words != instead);
        // The first of them ends what may belong to the form.
        let text = |beginning: &str, middle: &[&str]| {
            [&[beginning, "zebra"], &before[..], middle, &after[..], &["zebra"]].concat().join(" ")
        };
        prop_assume!(text("", &words) != text("", &instead));
        prop_assert!(!agree(&text(one, &words), &text(other, &instead)));
    }

    /// The same words in another order are another message.
    #[test]
    fn so_is_another_order(one in beginning(), other in beginning(), words in some_words(2..6), seed in any::<prop::sample::Index>()) {
        let mut shuffled = words.clone();
        shuffled.rotate_left(1 + seed.index(words.len() - 1));
        prop_assume!(shuffled != words);
        let text = |beginning: &str, words: &[&str]| format!("{beginning} zebra {} zebra", words.join(" "));
        prop_assert!(!agree(&text(one, &words), &text(other, &shuffled)));
    }

    /// Whatever the messages: where they agree, one ends as the other does, and what is left of both is known to put a question.
    #[test]
    fn only_known_words_at_the_beginning_differ(one in some_words(1..7), other in some_words(1..7), begin in beginning(), again in beginning()) {
        let (one, other) = (format!("{begin} {}", one.join(" ")), format!("{again} {}", other.join(" ")));
        if agree(&one, &other) {
            let words = |text: &str| -> Vec<String> {
                let text = text.trim().trim_end_matches(['?', '.', ' ']);
                text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
            };
            let (mut left, mut right) = (words(&one), words(&other));
            while !left.is_empty() && left.last() == right.last() {
                left.pop();
                right.pop();
            }
            let known: Vec<&str> = FORMS.iter().map(|(_, phrase)| *phrase).chain([LEADS, POLITE, ABLE, GREETINGS].concat())
                .flat_map(|phrase| phrase.split(' ')).chain([QUESTION_WORDS, VERBS, HELPERS].concat()).collect();
            for word in left.iter().chain(&right) {
                prop_assert!(known.iter().any(|known| spells(word, known, true)), "{:?} in {:?} and {:?}", word, one, other);
            }
        }
    }

    #[test]
    fn it_is_the_same_from_both_sides(one in "\\PC{0,40}", other in "\\PC{0,40}") {
        prop_assert_eq!(agree(&one, &other), agree(&other, &one));
        prop_assert!(agree(&one, &one));
    }

    /// All forms of one request are one.
    #[test]
    fn forms_of_one_request_agree(form in 0..FORMS.len(), content in "[b-df-hj-np-tv-z]{3,8} [a-z]{3,8}", mark in "[?.]?") {
        let (kind, phrase) = FORMS[form];
        for (_, other) in FORMS.iter().filter(|(other, _)| *other == kind) {
            let (one, other) = (format!("{phrase} {content}{mark}"), format!("{other} {content}"));
            prop_assert!(agree(&one, &other));
        }
        for (_, other) in FORMS.iter().filter(|(other, _)| *other != kind) {
            let (one, other) = (format!("{phrase} {content}"), format!("{other} {content}"));
            prop_assert!(!agree(&one, &other));
        }
    }
}

#[test]
fn a_mark_at_the_end_counts_where_it_may_be_a_part_of_a_word() {
    let trimmed = |word| {
        let mut words = ["the", word];
        trim_mark(&mut words);
        words[1]
    };
    for (word, bare) in [("France?", "France"), ("France.", "France"), ("Łódź?", "Łódź")] {
        assert_eq!(trimmed(word), bare);
    }
    for word in ["France", "France!", "France??", "5.", "C?", "U.S.", "?", ".", "", "x5?"] {
        assert_eq!(trimmed(word), word);
    }
    trim_mark(&mut []);
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

#[test]
fn a_cosine_does_not_depend_on_lengths() {
    assert_eq!(cosine(&[3.0, 4.0], &[3.0, 4.0]), Some(1.0));
    assert_eq!(cosine(&[3.0, 4.0], &[6.0, 8.0]), Some(1.0));
    assert_eq!(cosine(&[3.0, 4.0], &[-3.0, -4.0]), Some(-1.0));
    assert_eq!(cosine(&[3.0, 4.0], &[4.0, 3.0]), Some(0.96));
}
