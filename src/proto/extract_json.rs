//! Extracts the JSON from a model's text.
//!
//! Models that were asked for JSON write a sentence before it, put it into a fenced block, or leave a comma after the
//! last member. Such a value is unambiguous, and can be used without asking again. Anything ambiguous is left alone: a
//! truncated text is never closed, since that invents data. Only a single value of the wanted kind is taken; of two
//! neither is, since either may be a quotation of the user's text, even if one is in a fenced block.

use std::borrow::Cow;

use serde_json::Value;

#[cfg(test)]
use self::tests::looked_at;

/// The wanted kind of value, if a text has more in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wanted {
    /// An object or an array.
    #[default]
    Either,
    /// An object.
    Object,
    /// An array.
    Array,
}

/// An extracted value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extracted<'a> {
    /// The value; it parses.
    pub json: Cow<'a, str>,
    /// Whether it is the whole text, except for the space around it.
    pub is_whole: bool,
}

/// Longer texts are not searched.
pub const MAX_TEXT: usize = 1024 * 1024;
/// How often a search restarts after a bracket that nothing closes. Each restart costs at most one pass.
const MAX_STARTS: usize = 16;
/// The deepest nesting that `serde_json` parses into a tree.
const MAX_DEPTH: usize = 127;

/// Finds the value that `text` is or contains: the whole text, else the content of its only block fenced as JSON, with no
/// value of the wanted kind outside it, else the only value of the wanted kind. Removes commas before closing brackets,
/// and escapes raw control characters in strings. `None` if there is no such value, or more than one (either may be a
/// quotation), and for texts above 1 MiB.
///
/// Takes time proportional to the text. A value nests at most 127 levels deep.
///
/// ```
/// use tower_buttress::proto::extract_json::{Wanted, extract};
///
/// let found = |text| extract(text, Wanted::Object).map(|found| found.json.into_owned());
/// assert_eq!(found("{\"a\": 1}").as_deref(), Some("{\"a\": 1}"));
/// assert_eq!(found("Here it is:\n```json\n{\"a\": 1}\n```\nAnything else?").as_deref(), Some("{\"a\": 1}"));
/// assert_eq!(found("Sure! {\"a\": [1, 2,],}").as_deref(), Some("{\"a\": [1, 2]}"));
///
/// // Cut, or two of them:
/// assert_eq!(found("{\"a\": 12"), None);
/// assert_eq!(found("You said {\"a\": 1}, I say {\"a\": 2}."), None);
/// ```
#[must_use]
pub fn extract(text: &str, wanted: Wanted) -> Option<Extracted<'_>> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let trimmed = text.trim_matches(is_space).trim_start_matches('\u{FEFF}').trim_start_matches(is_space);
    if is_json(trimmed) {
        return Some(Extracted {
            json: Cow::Borrowed(trimmed),
            is_whole: trimmed.len() == text.trim_matches(is_space).len(),
        });
    }
    let found = |json| Extracted { json, is_whole: false };
    // A text that is one value with a mistake.
    if let Some(json) = (end_of_value(trimmed) == Some(trimmed.len())).then(|| repair(trimmed)).flatten() {
        return Some(found(json));
    }
    match fenced(trimmed) {
        Fenced::One { before, block, behind } => {
            let is_only = [before, behind].iter().all(|text| matches!(values(text, wanted), Values::None));
            parsed(block.trim_matches(is_space)).filter(|_| is_only).map(found)
        }
        Fenced::Several => None,
        Fenced::None => match values(trimmed, wanted) {
            Values::One(json) => Some(found(json)),
            Values::None | Values::Unclear => None,
        },
    }
}

/// Tests count the scanned bytes.
#[cfg(not(test))]
const fn looked_at(_bytes: usize) {}

/// Blocks that are fenced as JSON.
enum Fenced<'a> {
    None,
    One { before: &'a str, block: &'a str, behind: &'a str },
    Several,
}

fn fenced(text: &str) -> Fenced<'_> {
    let mut found = Fenced::None;
    let mut rest = text;
    looked_at(text.len());
    while let Some(at) = rest.find("```") {
        let after = rest.get(at + 3..).unwrap_or_default();
        let (info, body) = after.split_once('\n').unwrap_or((after, ""));
        let Some(end) = body.find("```") else { break };
        let (block, behind) = (body.get(..end).unwrap_or_default(), body.get(end + 3..).unwrap_or_default());
        let info = info.trim();
        let is_bare = info.is_empty() && block.trim_start().starts_with(['{', '[']);
        if info.eq_ignore_ascii_case("json") || is_bare {
            found = match found {
                Fenced::None => {
                    let before = text.get(..text.len() - rest.len() + at).unwrap_or_default();
                    Fenced::One { before, block, behind }
                }
                _ => return Fenced::Several,
            };
        }
        rest = behind;
    }
    found
}

/// Values of the wanted kind.
enum Values<'a> {
    None,
    One(Cow<'a, str>),
    /// There are several, or may be: something is left open, or does not parse.
    Unclear,
}

/// The values in the text.
fn values(text: &str, wanted: Wanted) -> Values<'_> {
    let opens: &[char] = match wanted {
        Wanted::Either => &['{', '['],
        Wanted::Object => &['{'],
        Wanted::Array => &['['],
    };
    let mut found = None;
    let (mut at, mut starts, mut is_open) = (0, 0, false);
    while let Some(start) = text.get(at..).and_then(|rest| rest.find(['{', '['])) {
        looked_at(start + 1);
        let rest = text.get(at + start..).unwrap_or_default();
        let Some(length) = end_of_value(rest) else {
            // Nothing closes it: it was not a value, or the text was truncated.
            starts += 1;
            is_open |= rest.starts_with(opens);
            if starts > MAX_STARTS {
                return Values::Unclear;
            }
            at += start + 1;
            continue;
        };
        let value = rest.get(..length).unwrap_or_default();
        if value.starts_with(opens) {
            match parsed(value) {
                Some(json) if found.is_none() => found = Some(json),
                Some(_) => return Values::Unclear,
                // It was meant as a value, in another language's grammar. `{name}` was not.
                None if value.contains([':', ',']) => return Values::Unclear,
                None => {}
            }
        }
        at += start + length;
    }
    match found {
        // If something was left open, the last value may be a part of a truncated one.
        Some(json) if starts == 0 => Values::One(json),
        None if !is_open => Values::None,
        _ => Values::Unclear,
    }
}

/// The length of the value at the start of `text`, by its brackets. `None` if they do not match, or nothing closes them.
fn end_of_value(text: &str) -> Option<usize> {
    let mut open = Vec::new();
    let (mut in_string, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        looked_at(1);
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' => open.push(b'}'),
            b'[' => open.push(b']'),
            b'}' | b']' => {
                if open.pop() != Some(byte) {
                    return None;
                }
                if open.is_empty() {
                    return Some(at + 1);
                }
            }
            _ if open.is_empty() => return None,
            _ => {}
        }
        if open.len() > MAX_DEPTH {
            return None;
        }
    }
    None
}

fn parsed(value: &str) -> Option<Cow<'_, str>> {
    if is_json(value) { Some(Cow::Borrowed(value)) } else { repair(value) }
}

/// Removes commas before closing brackets, and escapes control characters in strings; `None` if other mistakes remain.
fn repair(value: &str) -> Option<Cow<'_, str>> {
    let mut mended = String::with_capacity(value.len() + 16);
    let (mut in_string, mut escaped) = (false, false);
    // The place of a comma after a value, with only space after it so far.
    let mut comma = None;
    let mut last = '{';
    for c in value.chars() {
        looked_at(c.len_utf8());
        if in_string {
            let control = c < ' ' && !escaped;
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            match c {
                '\n' if control => mended.push_str("\\n"),
                '\r' if control => mended.push_str("\\r"),
                '\t' if control => mended.push_str("\\t"),
                c if control => mended.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => mended.push(c),
            }
            continue;
        }
        match c {
            '}' | ']' => {
                if let Some(at) = comma.take() {
                    looked_at(mended.len() - at);
                    mended.remove(at);
                }
            }
            ',' if !matches!(last, '{' | '[' | ',') => comma = Some(mended.len()),
            c if is_space(c) => {}
            _ => comma = None,
        }
        if !is_space(c) {
            last = c;
        }
        in_string = c == '"';
        mended.push(c);
    }
    is_json(&mended).then_some(Cow::Owned(mended))
}

/// Whether `serde_json` parses it into a tree. Its parser without a tree has no depth limit, and accepts numbers beyond
/// any float and halves of surrogate pairs.
fn is_json(text: &str) -> bool {
    looked_at(text.len());
    serde_json::from_str::<Value>(text).is_ok()
}

const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn looked_at(bytes: usize) {
        LOOKED_AT.set(LOOKED_AT.get() + bytes);
    }

    /// How often each byte of a text is scanned, on average.
    fn looks(text: &str, wanted: Wanted) -> usize {
        LOOKED_AT.set(0);
        let _ = extract(text, wanted);
        LOOKED_AT.get().div_ceil(text.len().max(1))
    }

    /// One pass per restart, and a few for parsing and repair.
    const MAX_LOOKS: usize = 30;

    fn of(text: &str) -> Option<String> {
        extract(text, Wanted::Object).map(|found| found.json.into_owned())
    }

    #[test]
    fn what_is_plain_is_found() {
        for (text, json) in [
            (r#"{"a":1}"#, r#"{"a":1}"#),
            ("\n {\"a\":1}\n", r#"{"a":1}"#),
            ("\u{FEFF}{\"a\":1}", r#"{"a":1}"#),
            ("[1]", "[1]"),
            ("\"text\"", "\"text\""),
            ("```json\n{\"a\":1}\n```", r#"{"a":1}"#),
            ("```\n{\"a\":1}\n```", r#"{"a":1}"#),
            ("Use `ls`:\n```sh\nls -l\n```\nand\n```JSON\n{\"a\":1}\n```", r#"{"a":1}"#),
            ("For [0, 1) and a list [1]:\n```json\n{\"a\":1}\n```", r#"{"a":1}"#),
            ("Each {name} is in it:\n```json\n{\"a\":1}\n```\n{done}", r#"{"a":1}"#),
            ("Here: {\"a\":{\"b\":[1,2]}}. Done.", r#"{"a":{"b":[1,2]}}"#),
            ("The list [1] is {\"a\":1}", r#"{"a":1}"#),
            ("{\"a\":[1,2 , ],\n}", "{\"a\":[1,2  ]\n}"),
            ("{\"a\":\"b\nc\td\u{1}\"}", r#"{"a":"b\nc\td\u0001"}"#),
            (r#"{"a":",}",}"#, r#"{"a":",}"}"#),
        ] {
            assert_eq!(of(text).as_deref(), Some(json), "{text}");
        }
        assert!(extract("{}", Wanted::Object).unwrap().is_whole);
        assert!(!extract("{},", Wanted::Object).unwrap().is_whole);
    }

    #[test]
    fn what_is_not_plain_is_left_alone() {
        for text in [
            "",
            "Sorry, I cannot do that.",
            r#"{"a":1"#,
            r#"{"a":"x"#,
            r#"{"a":1}{"a":2}"#,
            "{\"a\":1}\n{\"a\":2}\n",
            r#"You wrote {"admin":true}. My answer is {"admin":false}."#,
            "You sent:\n```json\n{\"admin\":true}\n```\nMy answer: {\"admin\":false}",
            "You sent:\n```json\n{\"admin\":true}\n```\nMy answer: {'admin': False}",
            r#"You wrote {"admin":true}. My answer is {'admin': False}."#,
            "My answer: {\"admin\":false,}\nYou sent:\n```json\n{\"admin\":true}\n```",
            "You sent:\n```json\n{\"admin\":true}\n```\n```js\n{\"admin\":false}\n```",
            "You sent:\n```json\n{\"admin\":true}\n```\nMy answer: {\"admin\":fal",
            "You sent:\n```json\n{\"admin\":true}\n```\n```json\n{\"admin\":fal",
            "```json\n{\"a\":1}\n```\n```json\n{\"a\":2}\n```",
            "```json\n{\"a\":1",
            "{'a': 1}",
            "{a: 1}",
            "{\"a\": True}",
            "{\"a\": 1 // one\n}",
            "{\"a\": \"he said \"no\"\"}",
            "{\"a\":[1}",
            "[1, 2",
            "{\"list\": [{\"a\":1}, {\"b\":2",
            "{\"list\": {\"a\":1}",
            "{,}",
            // JSON by its grammar, and yet nothing that `serde_json` reads into a tree.
            "1e900",
            r#"{"a":-1e900}"#,
            r#"{"a":"\ud800"}"#,
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(of(&"[".repeat(200)), None);
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(serde_json::from_str::<Value>(&of(&nested(MAX_DEPTH)).unwrap()).is_ok());
        assert_eq!(of(&nested(MAX_DEPTH + 1)), None);
        assert_eq!(of(&format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_TEXT))), None);
    }

    /// In the longest of them each byte is looked at as often as in one that is 64 times shorter.
    #[test]
    fn there_is_nothing_in_the_worst_texts_and_they_take_linear_time() {
        for worst in
            ["{", "{\"", "```", "{}", "{\"a\":{", "[1,2 , ", "{\"a\": ,}", "```json\n{", "[\n```\n", "{\"\\", "x"]
        {
            for block in ["", "```json\n{}\n```\n"] {
                let looks = [MAX_TEXT, MAX_TEXT / 64].map(|length| {
                    let text = block.to_owned() + &worst.repeat((length - block.len()) / worst.len());
                    assert!(
                        ["x", "```"].contains(&worst) && !block.is_empty() || of(&text).is_none(),
                        "{block}{worst}"
                    );
                    looks(&text, Wanted::Either)
                });
                assert!(looks.iter().all(|looks| (1..=MAX_LOOKS).contains(looks)), "{block}{worst}: {looks:?}");
                assert!(looks[0] <= looks[1], "{block}{worst}: {looks:?}");
            }
        }
        // A long one that is found, at once or repaired.
        let long = format!("{{\"a\":[{}1]}}", "1,".repeat(MAX_TEXT / 4));
        assert!(
            looks(&long, Wanted::Object) == 1
                && looks(&format!("So: {}", long.replace("1]", "1,]")), Wanted::Object) <= 8
        );
    }

    /// Any value that is no scalar.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            "[{}\\[\\]\"\\\\,:`\n]{0,8}".prop_map(Value::from),
        ];
        let tree = leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-z]{1,4}", inner, 0..4).prop_map(Value::from_iter),
            ]
        });
        prop::collection::hash_map("[a-z]{1,4}", tree, 0..4).prop_map(Value::from_iter)
    }

    proptest! {
        #[test]
        fn a_value_is_found_in_a_sentence_and_in_a_block(value in value(), pretty: bool, before in "[A-Za-z .:,]{0,20}", after in "[A-Za-z .!]{0,20}") {
            let json = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            for text in [json.clone(), format!("{before}{json}{after}"), format!("{before}\n```json\n{json}\n```\n{after}")] {
                let has_fence_inside = json.contains("```");
                let found = of(&text).map(|json| serde_json::from_str::<Value>(&json).unwrap());
                prop_assert!(has_fence_inside || found == Some(value.clone()), "{}", text);
            }
        }

        #[test]
        fn a_value_that_was_cut_is_not_found(value in value(), at in any::<prop::sample::Index>()) {
            let json = value.to_string();
            let cuts: Vec<usize> = (1..json.len()).filter(|at| json.is_char_boundary(*at)).collect();
            if !cuts.is_empty() {
                let cut = &json[..cuts[at.index(cuts.len())]];
                prop_assert_eq!(of(cut), None, "{}", cut);
            }
        }

        #[test]
        fn mistakes_are_mended(value in value()) {
            let broken = value.to_string().replace("}", ",}").replace("{,}", "{}");
            // Text in which such a thing stands is another text.
            if !value.to_string().contains("\\") && !value.to_string().replace("}", "").contains(",]") {
                if let Some(found) = of(&broken) {
                    prop_assert!(serde_json::from_str::<Value>(&found).is_ok());
                }
            }
        }

        #[test]
        fn each_byte_is_looked_at_so_often(text in "[{}\\[\\]\",:`\\\\a \n]{1,40}", before in "[{}\\[\\]\",:`\\\\a \n]{0,40}", times in 1..2_000_usize) {
            let text = before + &text.repeat(times);
            for wanted in [Wanted::Either, Wanted::Object, Wanted::Array] {
                prop_assert!(looks(&text, wanted) <= MAX_LOOKS);
            }
        }

        #[test]
        fn nothing_panics_and_what_is_found_parses(text in "[{}\\[\\]\",:`\\\\aude0189.+ \n-]{0,80}") {
            for wanted in [Wanted::Either, Wanted::Object, Wanted::Array] {
                if let Some(found) = extract(&text, wanted) {
                    prop_assert!(serde_json::from_str::<Value>(&found.json).is_ok());
                }
            }
        }
    }

    #[test]
    fn a_block_is_fenced_as_json_by_its_name_or_its_bracket() {
        let of = |text| match fenced(text) {
            Fenced::None => "none".to_owned(),
            Fenced::One { before, block, behind } => {
                assert!(text.starts_with(before) && text.ends_with(behind));
                format!("one {}", block.trim())
            }
            Fenced::Several => "several".to_owned(),
        };
        assert_eq!(of("```json\nx\n```"), "one x");
        assert_eq!(of("```JSON \n{}\n```"), "one {}");
        assert_eq!(of("a ```\n [1]\n``` b"), "one [1]");
        for text in ["```\nx\n```", "```python\n{}\n```", "```json\n{}", "json {}", ""] {
            assert_eq!(of(text), "none", "{text}");
        }
        assert_eq!(of("```\nx\n``` ```json\n{}\n```"), "one {}", "the first is another language's");
        assert_eq!(of("```json\n{}\n``` and ```\n[]\n```"), "several");
    }

    #[test]
    fn a_value_ends_where_its_bracket_closes() {
        for (text, end) in [
            ("{}x", Some(2)),
            ("[{}, 1]", Some(7)),
            ("{\"}\"} ", Some(5)),
            ("{\"\\\"}\"}", Some(7)),
            ("{\"\\\\\"}]", Some(6)),
            ("{]", None),
            ("x{}", None),
            ("}", None),
            ("{", None),
            ("{\"}", None),
        ] {
            assert_eq!(end_of_value(text), end, "{text}");
        }
        let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(end_of_value(&deep(MAX_DEPTH)), Some(2 * MAX_DEPTH));
        assert_eq!(end_of_value(&deep(MAX_DEPTH + 1)), None);
    }
}
