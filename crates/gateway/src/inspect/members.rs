//! The two members of a JSON request that say something here. The prompt beside them is skipped, not kept.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// What they say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// Of several the last, as most parsers have it.
    pub(super) model: Option<String>,
    pub(super) stream: bool,
    /// Not all parsers read this model: it stands there twice, or in other letters (Go does not tell `Model` from `model`), or the
    /// body is no JSON, of which some parsers read a part.
    pub(super) is_unclear: bool,
}

/// The name of a member.
enum Name {
    Model,
    LikeModel,
    Stream,
    Other,
}

/// A value that may be of another type than the one that says something.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum OrOther<T> {
    Known(T),
    Other(IgnoredAny),
}

struct MembersVisitor;
struct NameVisitor;

// === impl Members ===

impl Members {
    pub(super) fn of(body: &[u8]) -> Self {
        match serde_json::from_slice(body) {
            Ok(members) => members,
            // JSON of another form, such as a list, has no members for anybody.
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
                    members.model = known(map.next_value()?);
                }
                Name::Stream => members.stream = known(map.next_value()?).unwrap_or_default(),
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

fn known<T>(value: OrOther<T>) -> Option<T> {
    match value {
        OrOther::Known(value) => Some(value),
        OrOther::Other(_) => None,
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
        for none in ["[]", r#"["m",true]"#, r#""model""#, "{}", "7"] {
            assert_eq!(read(none), (None, false), "{none}");
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
