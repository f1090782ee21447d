//! A conforming parser reads the same with and without heartbeats, whatever the stream and wherever it is silent.

use std::time::Duration;

use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tower_buttress::{HeartbeatFrame, SseHeartbeatLayer};

use super::{Pieces, asked, events, through};
use crate::sse_model::{Reading, may_be_bom};
use crate::sse_streams::stream as any_stream;
use crate::support::secs;

/// `stream`, cut, each piece after so many seconds, as it comes out of the layer.
fn downstream(stream: &[u8], cuts: &[(u16, u8)], frame: HeartbeatFrame) -> Vec<u8> {
    let mut at: Vec<(usize, u8)> =
        cuts.iter().map(|&(cut, wait)| (usize::from(cut) % (stream.len() + 1), wait)).collect();
    at.extend([(0, 0), (stream.len(), 0)]);
    at.sort_unstable();
    let pieces = at.windows(2).map(|pair| {
        let piece = Bytes::copy_from_slice(&stream[pair[0].0..pair[1].0]);
        (Duration::from_secs(pair[0].1.into()), piece)
    });
    let body = Pieces::new(pieces);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let response = through(SseHeartbeatLayer::new(secs(15)).frame(frame), asked(), events(body)).await;
        response.into_body().collect().await.unwrap().to_bytes().to_vec()
    })
}

fn frames() -> impl Strategy<Value = HeartbeatFrame> {
    select(vec![
        HeartbeatFrame::Comment,
        HeartbeatFrame::CommentNoBlank,
        HeartbeatFrame::BareNewline,
        HeartbeatFrame::custom(": one\n\n: two\n").unwrap(),
    ])
}

/// Silences, most of which are long enough for one heartbeat or more.
fn cuts() -> impl Strategy<Value = Vec<(u16, u8)>> {
    vec((any::<u16>(), select(vec![0, 1, 16, 20, 40])), 1..12)
}

/// What a stream of an API looks like.
fn api_stream() -> impl Strategy<Value = String> {
    let event = (select(vec!["", "event: delta\n", "id: 7\n"]), select(vec!["data: {}\n", "data: a\ndata: b\n"]));
    let item = prop_oneof![
        6 => event.prop_map(|(field, data)| format!("{field}{data}\n")),
        1 => select(vec![": upstream comment\n", ": upstream\n\n"]).prop_map(str::to_owned),
    ];
    (vec(item, 0..8), any::<bool>()).prop_map(|(items, crlf)| {
        let text = items.concat();
        if crlf { text.replace('\n', "\r\n") } else { text }
    })
}

/// How many heartbeats there are in `text`, to see that there are any.
fn added(text: &[u8], stream: &[u8]) -> bool {
    text.len() > stream.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_stream_reads_the_same(stream in any_stream(), cuts in cuts(), frame in frames()) {
        let downstream = downstream(&stream, &cuts, frame);
        let (with, without) = (Reading::of(&downstream), Reading::of(&stream));
        prop_assert_eq!(with.output, without.output);
        prop_assert_eq!(with.last_event_id, without.last_event_id);
        prop_assert_eq!((with.data, with.event_type, with.id, with.rest), (without.data, without.event_type, without.id, without.rest));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_silence_is_filled_where_it_may_be(stream in any_stream(), cuts in cuts(), late_mark in any::<bool>()) {
        let (mut stream, mut cuts) = (stream, cuts);
        // A heartbeat first, then the mark alone.
        if late_mark {
            stream.splice(..0, *b"\xEF\xBB\xBF");
            cuts.extend([(0, 20), (3, 0)]);
        }
        let end = u16::try_from(stream.len()).unwrap();
        cuts.iter_mut().for_each(|(cut, _)| *cut %= end + 1);
        cuts.push((end, 40));
        let downstream = downstream(&[&stream[..], b"!"].concat(), &cuts, HeartbeatFrame::Comment);
        let read = Reading::of(&stream);
        let marked = may_be_bom(&stream) && !stream.is_empty();
        let cr = read.after_cr && read.ending != "\r" && read.id_ever;
        let possible = read.rest.is_empty() && !read.in_event && !marked && !cr;
        let end = read.ending;
        let beat = if read.id_ever { format!(": keepalive{end}") } else { format!(": keepalive{end}{end}") };
        prop_assert_eq!(downstream.ends_with(format!("{beat}{beat}!").as_bytes()), possible);
        prop_assert_eq!(downstream.ends_with(format!("{beat}!").as_bytes()), possible);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsers_of_others_read_the_same(stream in api_stream(), cuts in cuts(), frame in frames()) {
        let downstream = downstream(stream.as_bytes(), &cuts, frame);
        futures_util::future::FutureExt::now_or_never(async {
            assert_eq!(eventsource_stream(&downstream).await, eventsource_stream(stream.as_bytes()).await);
            assert_eq!(sseer(&downstream).await, sseer(stream.as_bytes()).await);
            assert_eq!(sse_stream(&downstream).await, sse_stream(stream.as_bytes()).await);
        }).expect("nothing waits");
    }
}

/// `(event, data, id)`.
type Read = Vec<(String, String, String)>;

async fn eventsource_stream(bytes: &[u8]) -> Read {
    let chunk = stream::iter([Ok::<_, std::convert::Infallible>(Bytes::copy_from_slice(bytes))]);
    let events = chunk.eventsource().map(|event| event.unwrap());
    events.map(|event| (event.event, event.data, event.id)).collect().await
}

async fn sseer(bytes: &[u8]) -> Read {
    let chunk = stream::iter([Ok::<_, std::convert::Infallible>(Bytes::copy_from_slice(bytes))]);
    let events = sseer::event_stream::EventStream::new(chunk).map(|event| event.unwrap());
    events.map(|event| (event.event.to_string(), event.data.to_string(), event.id.to_string())).collect().await
}

/// It hands on what has no data too, comments for one, and an id only where it was set: only events with data are looked
/// at.
async fn sse_stream(bytes: &[u8]) -> Read {
    let body = http_body_util::Full::new(Bytes::copy_from_slice(bytes));
    let events = sse_stream::SseStream::new(body).map(|event| event.unwrap());
    let read = |event: sse_stream::Sse| {
        let data = event.data?;
        Some((event.event.unwrap_or_default(), data, event.id.unwrap_or_default()))
    };
    events.filter_map(|event| std::future::ready(read(event))).collect().await
}

#[test]
fn there_are_heartbeats_in_these_tests() {
    let stream = b"data: a\n\ndata: b\n\n";
    let silent = [(9, 40)];
    assert!(added(&downstream(stream, &silent, HeartbeatFrame::Comment), stream));
    assert_eq!(
        String::from_utf8(downstream(stream, &[(0, 0), (9, 40)], HeartbeatFrame::Comment)).unwrap(),
        "data: a\n\n: keepalive\n\n: keepalive\n\ndata: b\n\n"
    );
}

#[test]
fn a_stream_that_stops_within_a_line_gets_nothing() {
    let stream = b"data: half a line";
    assert_eq!(downstream(stream, &[(0, 0), (9, 200)], HeartbeatFrame::Comment), stream);
    assert_eq!(downstream(b"data: a\r", &[(0, 0), (8, 200)], HeartbeatFrame::Comment), b"data: a\r");
}

#[test]
fn between_the_lines_of_an_event_only_a_comment_goes() {
    let stream = b"data: a\ndata: b\n\n";
    let cuts = [(0, 0), (8, 20)];
    assert_eq!(downstream(stream, &cuts, HeartbeatFrame::Comment), stream);
    assert_eq!(downstream(stream, &cuts, HeartbeatFrame::CommentNoBlank), b"data: a\n: keepalive\ndata: b\n\n");
}

#[test]
fn a_mark_behind_a_heartbeat_is_taken_off_in_any_pieces() {
    let stream = "\u{FEFF}data: a\n\n".as_bytes();
    for cut in 1..=4 {
        let out = downstream(stream, &[(0, 20), (cut, 0)], HeartbeatFrame::Comment);
        assert_eq!(String::from_utf8(out).unwrap(), ": keepalive\n\ndata: a\n\n", "cut at {cut}");
    }
    // What only begins like one is passed on.
    let stream = b"\xEF\xBBdata: a\n\n";
    let out = downstream(stream, &[(0, 20), (1, 1)], HeartbeatFrame::Comment);
    assert_eq!(out, [b": keepalive\n\n", &stream[..]].concat());
}

#[test]
fn behind_a_mark_that_was_taken_off_the_stream_is_followed() {
    // The mark comes alone, and what follows it at once; then there is silence.
    let stream = "\u{FEFF}data: a\n\ndata: b\n\n".as_bytes();
    let out = downstream(stream, &[(0, 20), (3, 0), (12, 20)], HeartbeatFrame::Comment);
    assert_eq!(String::from_utf8(out).unwrap(), ": keepalive\n\ndata: a\n\n: keepalive\n\ndata: b\n\n");
}

#[test]
fn once_an_id_was_set_no_blank_line_is_sent() {
    let out = downstream(b"id: 1\ndata: a\n\n", &[(0, 0), (15, 20)], HeartbeatFrame::Comment);
    assert_eq!(out, b"id: 1\ndata: a\n\n");
    let out = downstream(b"id: 1\ndata: a\n\n: x\n", &[(0, 0), (15, 20)], HeartbeatFrame::Comment);
    assert_eq!(String::from_utf8(out).unwrap(), "id: 1\ndata: a\n\n: keepalive\n: x\n");
}
