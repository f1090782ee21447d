//! Edits the text and the id of an event, for an answer that continues another one.

use memchr::memmem;
use serde_json::Value;

use crate::proto::dialect::Kind;
use crate::proto::sse::Block;

/// The block structure in an event of Anthropic's, in a form that is equal for all answers with the same blocks.
pub(crate) fn structure_of(kind: Option<Kind>, block: &Block<'_>) -> Option<Vec<u8>> {
    let data = block.data.as_deref().filter(|_| kind == Some(Kind::Anthropic))?;
    memmem::find(data, b"content_block_st")?;
    let data: Value = serde_json::from_slice(data).ok()?;
    let name = data.get("type")?.as_str().filter(|name| name.starts_with("content_block_st"))?;
    let index = data.get("index").and_then(Value::as_u64).unwrap_or_default();
    let kind = data.pointer("/content_block/type").and_then(Value::as_str).unwrap_or_default();
    Some(format!("{name} {index} {kind}").into_bytes())
}

/// The same event without the first `bytes` of its only text.
pub(crate) fn cut_text(kind: Kind, block: &Block<'_>, text: &str, bytes: usize) -> Option<Vec<u8>> {
    let mut data: Value = serde_json::from_slice(block.data.as_deref()?).ok()?;
    let places: &[&str] = match kind {
        Kind::OpenAiChat => &[
            "/choices/0/delta/content",
            "/choices/0/delta/reasoning_content",
            "/choices/0/delta/reasoning",
            "/choices/0/delta/refusal",
            "/choices/0/text",
        ],
        Kind::Anthropic => &["/delta/text", "/delta/thinking", "/content_block/text", "/content_block/thinking"],
        Kind::Gemini => &["/candidates/0/content/parts/0/text"],
        _ => &[],
    };
    let is_it = |place: &&&str| data.pointer(place).and_then(Value::as_str) == Some(text);
    let place = places.iter().find(is_it)?;
    *data.pointer_mut(place)? = Value::from(text.get(bytes..)?);
    let mut event = Vec::new();
    if !block.name.is_empty() {
        event.extend_from_slice(b"event: ");
        event.extend_from_slice(block.name);
        event.push(b'\n');
    }
    event.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut event, &data).ok()?;
    event.extend_from_slice(b"\n\n");
    Some(event)
}

/// Replaces the answer's id `from` by `to`; `None` if there is nothing to change. Everything else stays byte for byte.
pub(crate) fn with_id(raw: &[u8], from: &str, to: &str) -> Option<Vec<u8>> {
    let plain =
        |id: &str| !id.is_empty() && id.bytes().all(|byte| (b' '..0x7F).contains(&byte) && !b"\"\\".contains(&byte));
    if from == to || !plain(from) || !plain(to) {
        return None;
    }
    let quoted = format!("\"{from}\"");
    let mut changed = Vec::new();
    let mut rest = raw;
    let mut found = false;
    while let Some(at) = memmem::find(rest, quoted.as_bytes()) {
        let (before, behind) = rest.split_at(at);
        changed.extend_from_slice(before);
        let key = before.trim_ascii_end().strip_suffix(b":").map(<[u8]>::trim_ascii_end).unwrap_or_default();
        if key.ends_with(b"\"id\"") || key.ends_with(b"\"responseId\"") {
            found = true;
            changed.extend_from_slice(format!("\"{to}\"").as_bytes());
        } else {
            changed.extend_from_slice(quoted.as_bytes());
        }
        rest = behind.get(quoted.len()..).unwrap_or_default();
    }
    changed.extend_from_slice(rest);
    found.then_some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_of_a_message_are_its_structure() {
        let of = |event: &str| {
            let structure = structure_of(Some(Kind::Anthropic), &Block::parse(event.as_bytes()));
            structure.map(|text| String::from_utf8(text).unwrap())
        };
        let start = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
        assert_eq!(of(start).as_deref(), Some("content_block_start 1 text"));
        assert_eq!(
            of("data: {\"type\":\"content_block_stop\",\"index\":1}\n\n").as_deref(),
            Some("content_block_stop 1 ")
        );
        assert_eq!(of("data: {\"type\":\"content_block_delta\",\"index\":1}\n\n"), None);
    }

    #[test]
    fn a_text_is_cut_in_its_place() {
        let cut = |kind, event: &str, text: &str, bytes| {
            let event = cut_text(kind, &Block::parse(event.as_bytes()), text, bytes)?;
            Some(String::from_utf8(event).unwrap())
        };
        let chat = "data: {\"choices\":[{\"delta\":{\"content\":\"\\u00e9t\\u00e9\"},\"index\":0}]}\n\n";
        let expected = "data: {\"choices\":[{\"delta\":{\"content\":\"té\"},\"index\":0}]}\n\n";
        assert_eq!(cut(Kind::OpenAiChat, chat, "été", 2).as_deref(), Some(expected));
        assert_eq!(cut(Kind::OpenAiChat, chat, "été", 1), None, "between two bytes of a character");
        let anthropic =
            "event: content_block_delta\ndata: {\"delta\":{\"text\":\"ab\",\"type\":\"text_delta\"},\"index\":0}\n\n";
        assert_eq!(cut(Kind::Anthropic, anthropic, "ab", 1).unwrap(), anthropic.replace("ab", "b"));
        let gemini = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"ab\"}]}}]}\n\n";
        assert_eq!(cut(Kind::Gemini, gemini, "ab", 2).unwrap(), gemini.replace("ab", ""));
        assert_eq!(cut(Kind::OpenAiResponses, chat, "été", 2), None);
    }

    #[test]
    fn only_the_id_of_the_answer_is_changed() {
        let event =
            br#"data: {"id":"c2","x":"c2","choices":[{"delta":{"content":"\"id\":\"c2\""}}],"y":{"id" : "c2"}}"#;
        let expected =
            br#"data: {"id":"c1","x":"c2","choices":[{"delta":{"content":"\"id\":\"c2\""}}],"y":{"id" : "c1"}}"#;
        assert_eq!(with_id(event, "c2", "c1").unwrap(), expected);
        assert_eq!(with_id(event, "c3", "c1"), None);
        assert_eq!(with_id(event, "", "c1"), None);
        assert_eq!(with_id(event, "c2", "a\"b"), None);
    }

    #[test]
    fn an_id_is_changed_only_where_both_are_plain_and_not_the_same() {
        let changed =
            |from, to| with_id(br#"{"id":"a","other":"a"}"#, from, to).map(|raw| String::from_utf8(raw).unwrap());
        assert_eq!(changed("a", "b").as_deref(), Some(r#"{"id":"b","other":"a"}"#));
        for (from, to) in [("a", "a"), ("", "b"), ("a", ""), ("a", "b\""), ("a", "b\\"), ("a", "é"), ("c", "b")] {
            assert_eq!(changed(from, to), None, "{from} {to}");
        }
        assert_eq!(with_id(br#"{"x":"a"}"#, "a", "b"), None, "it is no id");
        let gemini = with_id(br#"{"responseId" : "a"}"#, "a", "b").unwrap();
        assert_eq!(gemini, br#"{"responseId" : "b"}"#);
    }
}
