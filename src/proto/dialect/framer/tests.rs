//! What is found of streams, wherever they are cut.

use proptest::prelude::*;

use super::*;

/// What is found in the chunks: `name|data`, `!` before what is misplaced, `~` before what was cut, `:` for a keep-alive.
fn read(framing: Framing, chunks: &[&[u8]]) -> (Vec<String>, bool) {
    let mut framer = Framer::new(framing);
    let mut seen = Vec::new();
    let mut found = |frame: Frame<'_>, _: usize| {
        seen.push(match frame {
            Frame::Event(event) => format!(
                "{}{}{}|{}",
                if event.misplaced { "!" } else { "" },
                if event.shortened { "~" } else { "" },
                event.name,
                String::from_utf8_lossy(event.data)
            ),
            Frame::Unended(event) => format!("?{}|{}", event.name, String::from_utf8_lossy(event.data)),
            Frame::KeepAlive => ":".to_owned(),
            Frame::TooLarge => "too large".to_owned(),
            Frame::NoEvent => "no event".to_owned(),
        });
    };
    for chunk in chunks {
        framer.read(chunk, &mut found);
    }
    let in_event = framer.in_event();
    framer.end(&mut found);
    (seen, in_event)
}

#[track_caller]
fn check(framing: Framing, stream: &str, events: &[&str], in_event: bool) {
    let expected = (events.iter().map(ToString::to_string).collect(), in_event);
    assert_eq!(read(framing, &[stream.as_bytes()]), expected, "at once");
    let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
    assert_eq!(read(framing, &bytes), expected, "byte by byte");
    for cut in 0..stream.len().min(500) {
        let (before, after) = stream.as_bytes().split_at(cut);
        assert_eq!(read(framing, &[before, after]), expected, "cut at {cut}");
    }
}

#[test]
fn event_streams_are_read_by_the_standard() {
    let check = |stream: &str, events: &[&str], in_event| check(Framing::EventStream, stream, events, in_event);
    check("event: a\ndata: {}\n\n", &["a|{}"], false);
    check("data: 1\n\ndata: 2\r\n\r\ndata:3\r\r", &["|1", "|2", "|3"], false);
    check("data: 1\ndata\ndata: 2\nevent: b\n\ndata: 3\n\n", &["b|1\n\n2", "|3"], false);
    check("\u{feff}: ping\n\n:\nid: 1\nretry: 5\n\ndata:\n\n", &[":", ":", "|"], false);
    check("event: a\n\ndata: 1\n\n", &["|1"], false);
    check("event: a\ndata: x\n: c\nevent:\n\n", &[":", "|x"], false);
    check("data: 1\n\ndata: 2", &["|1", "?|2"], true);
    check("data: 1\n\nevent: b\ndata: 2\n", &["|1", "?b|2"], true);
    check("data: 1\n\ndata: {\"a\":", &["|1"], true);
    check("data: 1\n\nevent: a\n", &["|1"], true);
    check("data: 1\n\nda", &["|1"], true);
    check("data: 1\n\n: pi", &["|1"], false);
    check("data: 1\n\nid: 7\n", &["|1"], false);
}

#[test]
fn errors_that_are_no_event_are_found() {
    let check = |stream: &str, events: &[&str], in_event| check(Framing::EventStream, stream, events, in_event);
    check("error: {\"code\":500}\n\ndata: 1\n\n", &["!error|{\"code\":500}", "|1"], false);
    check(
        "data: 1\n\n{\n  \"error\": {\n    \"code\": 503\n  }\n}\n\n",
        &["|1", "!|{\n  \"error\": {\n    \"code\": 503\n  }\n}\n"],
        false,
    );
    check("{\"error\":\n", &[], true);
    check("{\"error\":1", &[], true);
    check("error: {\"code\":500", &[], true);
    check("error: gone", &[], true);
    check("x}", &[], true);
    check("data: 1\n\nx", &["|1"], true);
    check("unknown: x\nx\n\ndata: 1\n\n", &["|1"], false);
}

#[test]
fn an_error_that_is_no_event_needs_no_end_of_its_last_line() {
    for (stream, event) in [
        ("{\"error\":{\"code\":503}}", "!|{\"error\":{\"code\":503}}\n"),
        ("{\n  \"error\": {\n    \"code\": 503\n  }\n}", "!|{\n  \"error\": {\n    \"code\": 503\n  }\n}\n"),
        ("error: {\"code\":500}", "!error|{\"code\":500}"),
    ] {
        for before in ["", "data: 1\n\n"] {
            let stream = [before, stream].concat();
            let expected: Vec<_> = ["|1", event].into_iter().skip(usize::from(before.is_empty())).collect();
            for size in [1, 7, stream.len()] {
                let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
                assert_eq!(read(Framing::EventStream, &chunks).0, expected, "{stream}");
            }
        }
    }
}

#[test]
fn lines_are_events() {
    let check = |stream: &str, events: &[&str], in_event| check(Framing::Lines, stream, events, in_event);
    check("{\"a\":1}\n{\"b\":2}\r\n\n{\"c\":3}", &["|{\"a\":1}", "|{\"b\":2}", ":", "|{\"c\":3}"], true);
    check("{\"a\":1}\n \n", &["|{\"a\":1}", ":"], false);
    check("{\"a\":1}\n{\"b\":", &["|{\"a\":1}"], true);
    check("1\n\"}", &["|1"], true);
}

#[test]
fn elements_of_an_array_are_events() {
    let check = |stream: &str, events: &[&str], in_event| check(Framing::Array, stream, events, in_event);
    check("[{\"a\":[{}]}\n,\r\n{\"b\":\"]}\"}]\n", &["|{\"a\":[{}]}", "|{\"b\":\"]}\"}"], false);
    check(" \n[]", &[], false);
    check("[{\"a\":1},", &["|{\"a\":1}"], true);
    check("[{\"a\":1", &[], true);
    check("", &[], true);
    check("{\"error\":1}", &["no event"], false);
    check("[1]", &["no event"], false);
}

#[test]
fn large_events_are_cut_and_huge_ones_reported() {
    let image = "x".repeat(MAX_WHOLE);
    for (framing, stream) in [
        (Framing::EventStream, format!("data: {{\"image\":\"{image}\",\"end\":1}}\n\ndata: 2\n\n")),
        (Framing::Lines, format!("{{\"image\":\"{image}\",\"end\":1}}\n2\n")),
        (Framing::Array, format!("[{{\"image\":\"{image}\",\"end\":1}},{{}}]")),
    ] {
        for size in [1, 7, 4096, usize::MAX] {
            let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size.min(stream.len())).collect();
            let (events, _) = read(framing, &chunks);
            assert_eq!(events[0], format!("~|{{\"image\":\"{}\",\"end\":1}}", "x".repeat(256)));
            assert_eq!(events.len(), 2);
        }
    }
    let huge = format!("data: [{}]\n\ndata: 2\n\n", "1,".repeat(1024 * 1024));
    assert_eq!(read(Framing::EventStream, &[huge.as_bytes()]).0, ["too large", "|2"]);
}

#[test]
fn bytes_of_whole_events_are_reported() {
    let read = |framing, chunks: &[&str]| {
        let mut framer = Framer::new(framing);
        let starts = std::cell::RefCell::new(Vec::new());
        let whole: Vec<usize> = chunks
            .iter()
            .map(|chunk| framer.read(chunk.as_bytes(), &mut |_, start| starts.borrow_mut().push(start)))
            .collect();
        (whole, starts.into_inner())
    };
    assert_eq!(
        read(Framing::EventStream, &["data: 1\n\ndata: 2\n\nda", "ta: 3\n", "\n: c\nid: 1\n"]),
        (vec![18, 0, 5], vec![0, 9, 0, 1])
    );
    assert_eq!(
        read(Framing::EventStream, &["id: 1\ndata: 1\r\n", "\r", "\ndata: 2\r\r"]),
        (vec![0, 1, 10], vec![0, 0])
    );
    assert_eq!(read(Framing::Lines, &["1\n22\n3", "3\n"]), (vec![5, 2], vec![0, 2, 0]));
    assert_eq!(read(Framing::Array, &[" [{},\n{}", ",{\"a\":", "1}]"]), (vec![8, 1, 3], vec![2, 6, 0]));
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_events(
        stream in r#"((data|event|id|error|x)?(: ?)?[{}"a\\]{0,3}(\n|\r|\r\n){0,2}){0,12}"#,
        size in 1..9_usize,
    ) {
        for framing in [Framing::EventStream, Framing::Lines, Framing::Array] {
            let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
            prop_assert_eq!(read(framing, &chunks), read(framing, &[stream.as_bytes()]));
        }
    }
}
