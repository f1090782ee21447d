//! Whole streams of every dialect, cut at every byte, through the layer.

use http::Method;
use tower_buttress::proto::dialect::Framing;
use tower_buttress::{Ending, MissingEnd, StreamGuardLayer};

use super::{Answer, ask, read};
use crate::golden::{GOLDEN, Golden};
use crate::support::Step;

fn answer(golden: &Golden, steps: Vec<Step>) -> Answer {
    let content_type = match golden.framing {
        Framing::EventStream => "text/event-stream",
        Framing::Lines => "application/x-ndjson",
        _ => "application/json",
    };
    Answer::of(200, content_type, steps)
}

#[tokio::test(start_paused = true)]
async fn no_cut_answer_counts_as_whole() {
    let layer = StreamGuardLayer::new().missing_end(MissingEnd::Error);
    for golden in GOLDEN {
        for cut in 0..=golden.stream.len() {
            if !golden.stream.is_char_boundary(cut) {
                continue;
            }
            let ended = golden.has_ended(cut);
            for end in [None, Some(Step::Fail("reset"))] {
                let clean = end.is_none();
                let steps = [Step::Data(&golden.stream[..cut])].into_iter().chain(end).collect();
                let layer = layer.clone().dialect(golden.kind);
                let response = ask(layer, Method::POST, "/", answer(golden, steps)).await;
                let at = format!("{}, cut at {cut}, clean: {clean}", golden.name);
                let ending = Ending::of(&response).cloned();
                let refused = response.status() != 200;
                let (text, error) = read(response).await;
                let whole = !refused && error.is_none();
                assert_eq!(whole, ended && clean, "{at}");
                assert!(refused || golden.stream.starts_with(&text), "{at}");
                let known = ending.and_then(|ending| ending.get());
                assert_eq!(known.is_some(), ended && clean && !refused, "{at}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_passes_byte_for_byte_in_any_pieces() {
    for golden in GOLDEN {
        for size in [1, 2, 3, 7, 50, 333, usize::MAX] {
            let mut rest = golden.stream;
            let mut steps = Vec::new();
            while !rest.is_empty() {
                let end = (size.min(rest.len())..=rest.len()).find(|end| rest.is_char_boundary(*end)).unwrap();
                let (piece, after) = rest.split_at(end);
                steps.push(Step::Data(piece));
                rest = after;
            }
            let layer = StreamGuardLayer::new().dialect(golden.kind);
            let response = ask(layer, Method::POST, "/", answer(golden, steps)).await;
            let ending = Ending::of(&response).unwrap().clone();
            let (text, error) = read(response).await;
            assert_eq!((text.as_str(), error.is_none()), (golden.stream, true), "{}, in {size}", golden.name);
            assert_eq!(ending.get(), Some(golden.end));
        }
    }
}
