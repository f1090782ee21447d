//! Iterates over JSON objects and arrays, without building a tree.

use memchr::memchr2;

/// The members of the object `json`, in their order: the key as written between its quotes, and the value as written.
/// Stops if the text is not an object, or is malformed. Values are skipped, not checked.
///
/// Strings, the bulk of a prompt, are skipped many bytes at a time.
pub(crate) fn members(json: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = json.trim_ascii_start().strip_prefix(b"{");
    std::iter::from_fn(move || {
        let (key, after) = string(rest.take()?.trim_ascii_start())?;
        let value = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let (value, after) = value.split_at_checked(length(value)?)?;
        rest = after.trim_ascii_start().strip_prefix(b",");
        Some((key, value.trim_ascii_end()))
    })
}

/// The elements of the array `json`, as written. Stops if the text is not an array, or is malformed.
#[cfg(feature = "llm")]
pub(crate) fn elements(json: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = json.trim_ascii_start().strip_prefix(b"[");
    std::iter::from_fn(move || {
        let text = rest.take()?.trim_ascii_start();
        let (value, after) = text.split_at_checked(length(text)?)?;
        rest = after.strip_prefix(b",");
        let value = value.trim_ascii_end();
        (!value.is_empty()).then_some(value)
    })
}

/// The string at the start of `text`, without its quotes, and the rest.
fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"\"")?;
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text.get(at) == Some(&b'"') {
            return Some((text.get(..at)?, text.get(at + 1..)?));
        }
        // An escaped character does not end the string.
        at += 2;
    }
}

/// The length of the value at the start of `text`: up to the comma or bracket that ends it.
fn length(text: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        match text.get(at)? {
            b'"' => {
                let (_, after) = string(text.get(at..)?)?;
                at = text.len() - after.len();
                continue;
            }
            b'{' | b'[' => depth += 1,
            b',' if depth == 0 => return Some(at),
            b'}' | b']' => match depth.checked_sub(1) {
                Some(outer) => depth = outer,
                None => return Some(at),
            },
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(json: &str) -> Vec<(&str, &str)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        members(json.as_bytes()).map(|(key, value)| (text(key), text(value))).collect()
    }

    #[test]
    fn members_are_those_of_the_object_itself() {
        let json = r#" { "model" : "m\"}", "messages":[{"stream":true,"x":"]\\"}], "stream" : true , "n":1} "#;
        let found = of(json);
        let keys: Vec<&str> = found.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["model", "messages", "stream", "n"]);
        assert_eq!((found[0].1, found[2].1, found[3].1), (r#""m\"}""#, "true", "1"));
    }

    #[cfg(feature = "llm")]
    #[test]
    fn elements_are_those_of_the_array_itself() {
        let of = |json: &'static str| -> Vec<&str> {
            elements(json.as_bytes()).map(|element| std::str::from_utf8(element).unwrap()).collect()
        };
        assert_eq!(of(r#" [ 1 , "a,]" ,[2,3], {"b":[4]} ] "#), ["1", "\"a,]\"", "[2,3]", "{\"b\":[4]}"]);
        for none in ["", "[]", "[ ]", "{}", "[", "1", "]"] {
            assert!(of(none).is_empty(), "{none}");
        }
        assert_eq!(of("[1,[2"), ["1"], "cut off in the middle of an element");
    }

    #[test]
    fn what_is_no_object_has_none() {
        for json in ["", "[]", "[{\"stream\":true}]", "\"{}\"", "{", "{}", "{stream:true}", "null", "\u{FEFF}{\"a\":1}"]
        {
            assert!(of(json).is_empty(), "{json}");
        }
        assert_eq!(of(r#"{"a":1,"b":tru"#), [("a", "1")], "cut off in the middle of a value");
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_parser(text: String, flag: bool, nested in proptest::collection::vec(any::<String>(), 0..4)) {
            let json = serde_json::json!({ "a": text, "b": { "stream": !flag, "c": nested }, "stream": flag });
            for json in [json.to_string(), serde_json::to_string_pretty(&json).unwrap()] {
                let found: Vec<_> = of(&json);
                prop_assert_eq!(found.len(), 3);
                for (key, value) in found {
                    let parsed: serde_json::Value = serde_json::from_str(value).unwrap();
                    let whole: serde_json::Value = serde_json::from_str(&json).unwrap();
                    prop_assert_eq!(&parsed, &whole[key]);
                }
            }
        }

        #[test]
        fn nothing_makes_it_panic_or_run_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..100_usize) {
            prop_assert!(members(&bytes).count() <= bytes.len());
            let like = br#"{"a":["\"{",{"b":"\\"}],"stream":true}"#;
            prop_assert!(members(&like[..cut.min(like.len())]).count() <= 2);
        }
    }
}
