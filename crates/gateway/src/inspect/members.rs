//! Reads the members `model` and `stream` of a JSON request. Skips the prompt without storing it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The values of the two members.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// The last one where there are several, as in most parsers.
    pub(super) model: Option<String>,
    pub(super) stream: bool,
    /// Whether parsers may read another model: the member occurs twice or in other letters (Go matches `Model` to
    /// `model`), or the body is invalid JSON, of which some parsers read a part.
    pub(super) is_unclear: bool,
}

/// The name of a member.
enum Name {
    Model,
    LikeModel,
    Stream,
    Other,
}

/// The value of a member. Keeps only what is needed: a request may have a list of millions in its place.
#[derive(Debug)]
enum MemberValue {
    /// At most [`LONGEST_MODEL`] bytes.
    Text(String),
    Bool(bool),
    Other,
}

struct MembersVisitor;
struct NameVisitor;
struct ValueVisitor;

/// No provider has a longer name. It appears in logs and metrics.
pub(super) const LONGEST_MODEL: usize = 128;

// === impl Members ===

impl Members {
    pub(super) fn of(body: &[u8]) -> Self {
        match serde_json::from_slice(body) {
            Ok(members) => members,
            // JSON of another form, such as a list, has no members for any parser.
            Err(error) if error.is_data() => Self::default(),
            Err(_) => Self { is_unclear: true, ..Self::default() },
        }
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let (mut members, mut models) = (Members::default(), 0_u32);
        while let Some(name) = map.next_key()? {
            match name {
                Name::Model => {
                    models = models.saturating_add(1);
                    members.model = match map.next_value()? {
                        MemberValue::Text(name) => Some(name),
                        MemberValue::Bool(_) | MemberValue::Other => None,
                    };
                }
                Name::Stream => members.stream = matches!(map.next_value()?, MemberValue::Bool(true)),
                Name::LikeModel => {
                    members.is_unclear = true;
                    map.next_value::<IgnoredAny>()?;
                }
                Name::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        members.is_unclear |= models > 1;
        Ok(members)
    }
}

// === impl Name ===

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(NameVisitor)
    }
}

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        Ok(match name {
            "model" => Name::Model,
            "stream" => Name::Stream,
            name if name.eq_ignore_ascii_case("model") => Name::LikeModel,
            _ => Name::Other,
        })
    }
}

// === impl Value ===

impl<'de> Deserialize<'de> for MemberValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = MemberValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<MemberValue, E> {
        Ok(if text.len() <= LONGEST_MODEL { MemberValue::Text(text.to_owned()) } else { MemberValue::Other })
    }

    fn visit_bool<E>(self, value: bool) -> Result<MemberValue, E> {
        Ok(MemberValue::Bool(value))
    }

    fn visit_unit<E>(self) -> Result<MemberValue, E> {
        Ok(MemberValue::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<MemberValue, E> {
        Ok(MemberValue::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<MemberValue, E> {
        Ok(MemberValue::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<MemberValue, E> {
        Ok(MemberValue::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<MemberValue, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(MemberValue::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MemberValue, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(MemberValue::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> (Option<String>, bool) {
        let Members { model, stream, is_unclear } = Members::of(json.as_bytes());
        assert!(!is_unclear, "{json}");
        (model, stream)
    }

    #[test]
    fn model_and_stream_are_found_wherever_they_stand() {
        assert_eq!(read(r#"{"model":"m","stream":true}"#), (Some("m".to_owned()), true));
        let nested =
            r#"{"messages":[{"model":"not","stream":false}],"stream":true,"x":{"stream":1},"model":"a\u0062"}"#;
        assert_eq!(read(nested), (Some("ab".to_owned()), true));
        assert_eq!(read(r#"{"mod\u0065l":"m"}"#), (Some("m".to_owned()), false));
    }

    #[test]
    fn what_is_of_another_type_says_nothing() {
        assert_eq!(read(r#"{"model":7,"stream":"true"}"#), (None, false));
        assert_eq!(read(r#"{"model":null,"stream":null}"#), (None, false));
        assert_eq!(read(r#"{"model":{"model":"m"},"stream":[true]}"#), (None, false));
        assert_eq!(read(r#"{"model":-7.5,"stream":-1}"#), (None, false));
        assert_eq!(read(r#"{"model":true,"stream":true}"#), (None, true));
        for none in ["[]", r#"["m",true]"#, r#""model""#, "{}", "7"] {
            assert_eq!(read(none), (None, false), "{none}");
        }
    }

    #[test]
    fn a_model_that_is_long_or_deep_is_no_name_and_hides_nothing_behind_it() {
        let longest = "m".repeat(LONGEST_MODEL);
        assert_eq!(read(&format!(r#"{{"model":"{longest}"}}"#)), (Some(longest.clone()), false));
        assert_eq!(read(&format!(r#"{{"model":"{longest}m","stream":true}}"#)), (None, true));
        for list in [format!("[{}0]", "0,".repeat(512 * 1024)), "[".repeat(100) + &"]".repeat(100)] {
            assert_eq!(read(&format!(r#"{{"model":{list},"stream":true}}"#)), (None, true));
            assert!(Members::of(format!(r#"{{"model":{list},"model":"m"}}"#).as_bytes()).is_unclear);
            assert!(Members::of(format!(r#"{{"model":{list}"#).as_bytes()).is_unclear);
        }
    }

    #[test]
    fn what_parsers_read_differently_is_unclear_and_the_last_one_counts() {
        let unclear = |model: Option<&str>, json: &str| {
            let expected = Members { model: model.map(str::to_owned), stream: false, is_unclear: true };
            assert_eq!(Members::of(json.as_bytes()), expected, "{json}");
        };
        unclear(Some("b"), r#"{"model":"a","model":"b"}"#);
        unclear(Some("b"), r#"{"model":"a","mod\u0065l":"b"}"#);
        unclear(None, r#"{"model":"a","model":7}"#);
        unclear(Some("a"), r#"{"model":"a","Model":"b"}"#);
        unclear(None, r#"{"MODEL":"b"}"#);
        for broken in [r#"{"model":"a"} x"#, r#"{"model":"a""#, r#"{"model":"a","x":NaN}"#, "", "\u{feff}{}"] {
            unclear(None, broken);
        }
    }
}
