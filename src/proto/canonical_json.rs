//! JSON in a canonical form, in which the order of an object's members does not matter.
//!
//! # Why not parse it and print it again?
//!
//! Parsers lose what they cannot represent: integers beyond 2^53 become equal, `1.0` becomes `1`, and of two members of
//! one name the first is dropped. Two requests that an upstream distinguishes would be equal. So nothing is interpreted
//! here: white space between tokens is removed, members are sorted by name, and every token keeps its spelling. If names
//! repeat, their order has a meaning, and there is no canonical form.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::IgnoredAny;

/// The deepest nesting, as in `serde_json`: enough in practice, and it bounds the recursion.
const MAX_DEPTH: usize = 128;

/// The canonical form of `json`: the same for all orders of an object's members and for all white space.
///
/// The order of arrays and the spelling of numbers and strings count. `None` if there is no such form: the input is not
/// JSON, an object names a member twice, or it nests deeper than 128 levels.
///
/// ```
/// use tower_buttress::proto::canonical_json::canonical;
///
/// let one = canonical(br#"{ "b": [1, 2], "a": 1.0 }"#).unwrap();
/// assert_eq!(one, br#"{"a":1.0,"b":[1,2]}"#);
/// assert_eq!(canonical(br#"{"a":1.0,"b":[1,2]}"#).unwrap(), one);
///
/// assert_ne!(canonical(br#"{"b":[2,1],"a":1.0}"#).unwrap(), one);
/// assert_ne!(canonical(br#"{"b":[1,2],"a":1}"#).unwrap(), one);
///
/// assert!(canonical(br#"{"a":1,"a":2}"#).is_none());
/// assert!(canonical(br#"{"a":1"#).is_none());
/// ```
#[must_use]
pub fn canonical(json: &[u8]) -> Option<Vec<u8>> {
    // The code below may rely on valid JSON.
    serde_json::from_slice::<IgnoredAny>(json).ok()?;
    let json = std::str::from_utf8(json).ok()?;
    let mut writer = Writer { rest: json.trim_matches(is_space), out: Vec::with_capacity(json.len()) };
    writer.value(0)?;
    Some(writer.out)
}

/// Reads valid JSON and writes its canonical form. `None` means that there is no such form.
struct Writer<'a> {
    rest: &'a str,
    out: Vec<u8>,
}

/// A member of an object: its decoded name, and its range in the output, including the comma after it.
type Member<'a> = (Cow<'a, str>, Range<usize>);

// === impl Writer ===

impl<'a> Writer<'a> {
    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.rest.bytes().next()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => {
                let token = self.string()?;
                self.out.extend_from_slice(token.as_bytes());
                Some(())
            }
            _ => {
                let end = self.rest.find(|c| is_space(c) || matches!(c, ',' | ']' | '}')).unwrap_or(self.rest.len());
                let token = self.take(end)?;
                self.out.extend_from_slice(token.as_bytes());
                Some(())
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.take(1)?;
        self.out.push(b'[');
        if self.next_is(']')? {
            self.out.push(b']');
            return Some(());
        }
        loop {
            self.skip_space();
            self.value(depth + 1)?;
            if self.next_is(']')? {
                self.out.push(b']');
                return Some(());
            }
            self.take(1)?;
            self.out.push(b',');
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.take(1)?;
        self.out.push(b'{');
        if self.next_is('}')? {
            self.out.push(b'}');
            return Some(());
        }
        let mut members: Vec<Member<'a>> = Vec::new();
        loop {
            self.skip_space();
            let start = self.out.len();
            let token = self.string()?;
            self.out.extend_from_slice(token.as_bytes());
            self.skip_space();
            self.take(1)?;
            self.out.push(b':');
            self.skip_space();
            self.value(depth + 1)?;
            self.out.push(b',');
            members.push((meaning(token)?, start..self.out.len()));
            if self.next_is('}')? {
                break;
            }
            self.take(1)?;
        }
        self.sort(members)?;
        // Replaces the comma after the last member.
        *self.out.last_mut()? = b'}';
        Some(())
    }

    /// Sorts the members that were written last.
    fn sort(&mut self, mut members: Vec<Member<'a>>) -> Option<()> {
        let start = members.first()?.1.start;
        let in_order = members.is_sorted_by(|a, b| a.0 < b.0);
        if !in_order {
            members.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            if members.windows(2).any(|pair| matches!(pair, [a, b] if a.0 == b.0)) {
                return None;
            }
            let mut sorted = Vec::with_capacity(self.out.len() - start);
            for (_, written) in members {
                sorted.extend_from_slice(self.out.get(written)?);
            }
            self.out.truncate(start);
            self.out.append(&mut sorted);
        }
        Some(())
    }

    /// Takes the next string token, with its quotation marks.
    fn string(&mut self) -> Option<&'a str> {
        let mut escaped = false;
        let closing = self.rest.bytes().skip(1).position(|byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        })?;
        self.take(closing + 2)
    }

    /// Takes the next token if it is this one.
    fn next_is(&mut self, token: char) -> Option<bool> {
        self.skip_space();
        let is = self.rest.starts_with(token);
        if is {
            self.take(1)?;
        }
        Some(is)
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches(is_space);
    }

    fn take(&mut self, len: usize) -> Option<&'a str> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }
}

/// JSON's white space: RFC 8259, 2.
const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Decodes a string token. Differently spelled names may be equal.
fn meaning(token: &str) -> Option<Cow<'_, str>> {
    if token.contains('\\') {
        serde_json::from_str(token).ok().map(Cow::Owned)
    } else {
        token.get(1..token.len() - 1).map(Cow::Borrowed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn text(json: &str) -> Option<String> {
        canonical(json.as_bytes()).map(|json| String::from_utf8(json).unwrap())
    }

    #[test]
    fn the_order_of_members_makes_no_difference() {
        let one = text(r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#).unwrap();
        let two =
            text(" {\"stream\" : true,\n\"messages\":[ {\"content\":\"hi\",\"role\":\"user\"} ],\t\"model\":\"m\"}\n");
        assert_eq!(two.unwrap(), one);
        assert_eq!(one, r#"{"messages":[{"content":"hi","role":"user"}],"model":"m","stream":true}"#);
    }

    #[test]
    fn what_an_upstream_may_tell_apart_stays_apart() {
        for (one, two) in [
            ("[1,2]", "[2,1]"),
            ("1", "1.0"),
            ("1e2", "100"),
            ("-0", "0"),
            ("9007199254740992", "9007199254740993"),
            ("123456789012345678901234567890", "123456789012345678901234567891"),
            (r#""a b""#, r#""a  b""#),
            (r#""A""#, r#""\u0041""#),
            ("{}", "[]"),
            ("null", r#""null""#),
            (r#"{"a":{"b":1}}"#, r#"{"a":{},"b":1}"#),
        ] {
            assert_ne!(text(one).unwrap(), text(two).unwrap());
        }
    }

    #[test]
    fn names_that_repeat_have_no_canonical_form() {
        for json in [r#"{"a":1,"a":2}"#, r#"{"a":1,"b":0,"a":1}"#, r#"{"a":1,"\u0061":2}"#, r#"[{"x":{"a":1,"a":1}}]"#]
        {
            assert_eq!(text(json), None, "{json}");
        }
        assert!(text(r#"{"a":{"a":1},"b":{"a":1}}"#).is_some());
    }

    #[test]
    fn what_is_no_json_has_no_canonical_form() {
        for json in ["", " ", "{", "{]", "[1,]", "{\"a\"}", "01", "1 2", "\"a", "nul", "NaN", "'a'", "{a:1}", "\"\\x\""]
        {
            assert_eq!(text(json), None, "{json:?}");
        }
        assert_eq!(canonical(b"\"\xff\""), None);
        assert_eq!(text("\u{feff}{}"), None);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(text(&nested(MAX_DEPTH)).is_some());
        assert_eq!(text(&nested(MAX_DEPTH + 2)), None);
        assert_eq!(text(&nested(1_000_000)), None);
        assert_eq!(text(&("{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000))), None);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
            "[ab\\\\\"\n\u{e9}]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[ab\\\\\"\u{e9}]{0,2}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Writes `value` with random member order and white space.
    fn scrambled(value: &Value, dice: &mut fastrand::Rng, out: &mut String) {
        let space = |dice: &mut fastrand::Rng| ["", "", " ", "\n\t"][dice.usize(..4)];
        match value {
            Value::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                dice.shuffle(&mut members);
                out.push('{');
                for (index, (name, value)) in members.into_iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    out.push_str(space(dice));
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push_str(space(dice));
                    out.push(':');
                    out.push_str(space(dice));
                    scrambled(value, dice, out);
                }
                out.push_str(space(dice));
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    out.push_str(space(dice));
                    scrambled(item, dice, out);
                }
                out.push_str(space(dice));
                out.push(']');
            }
            leaf => out.push_str(&leaf.to_string()),
        }
    }

    proptest! {
        #[test]
        fn one_form_for_all_spellings_of_a_document(value in json(), seed: u64) {
            let mut dice = fastrand::Rng::with_seed(seed);
            let mut spelled = String::new();
            scrambled(&value, &mut dice, &mut spelled);
            let canonical = text(&spelled).unwrap();
            prop_assert_eq!(&text(&value.to_string()).unwrap(), &canonical);
            // It has the same value, and is its own canonical form.
            prop_assert_eq!(serde_json::from_str::<Value>(&canonical).unwrap(), value);
            prop_assert_eq!(text(&canonical).unwrap(), canonical);
        }

        #[test]
        fn hostile_bytes_do_no_harm(bytes in prop::collection::vec(prop_oneof![
            Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b'"'), Just(b'\\'), Just(b','), Just(b':'),
            Just(b'1'), Just(b'u'), Just(b' '), any::<u8>(),
        ], 0..40)) {
            let _ = canonical(&bytes);
        }
    }
}
