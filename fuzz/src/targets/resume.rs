//! Broken streams, and any answer to the request for their rest: no event comes twice.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::proto::sse::{Item, Parser};
use tower_buttress::{ResumeBy, ResumeLayer};

pub(crate) const VOCABULARY: &[&[u8]] = &[
    // Separates two answers.
    b"\xFF",
    b"\xFF",
    b"\n",
    b"\r\n\r\n",
    b"\xEF\xBB\xBF",
    b"id: 1\ndata: a\n\n",
    b"id: 2\ndata: b\n\n",
    b"id: 3\r\ndata: c\r\n\r\n",
    b"id: 4\rdata: d\r\r",
    b"id: run-7\ndata: e\n\n",
    b"id: 18446744073709551615\ndata: f\n\n",
    b"id: 18446744073709551616\ndata: g\n\n",
    b"id\n\n",
    b"id: \0\ndata: h\n\n",
    b"id: 5\n\n",
    b"data: x\n\n",
    b"data: [DONE]\n\n",
    b": c\n\n",
    b"retry: 1\n\n",
    b"data: {\"n\":1,\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n",
    b"data: {\"n\":2,\"id\":\"d\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ab\"}}]}\n\n",
    b"data: {\"n\":3,\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    b"data: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"r\",\"background\":true}}\n\n",
    b"data: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\"a\"}\n\n",
    b"data: {\"type\":\"response.completed\",\"sequence_number\":2,\"response\":{\"id\":\"r\"}}\n\n",
];

/// A body in pieces that breaks after the last one.
struct Broken(VecDeque<Bytes>);

impl Body for Broken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(Some(self.0.pop_front().map(Frame::data).ok_or_else(|| io::ErrorKind::ConnectionReset.into())))
    }
}

/// The first bytes choose the cursor and the size of the pieces; the rest is the answers.
pub(crate) fn run(input: &[u8]) {
    let (choices, stream) = input.split_at(input.len().min(2));
    let choice = |at: usize| usize::from(choices.get(at).copied().unwrap_or_default());
    let size = choice(1) % 64 + 1;
    let (layer, path) = match choice(0) % 5 {
        0 => (ResumeLayer::new().resume_by(ResumeBy::sse_id()), "/events"),
        1 => (ResumeLayer::new().resume_by(ResumeBy::json_pointer("/n").in_json_field("n")), "/events"),
        2 => (ResumeLayer::new().resume_by(ResumeBy::bytes().in_query("from")), "/v1/chat/completions"),
        3 => (ResumeLayer::new(), "/v1/responses"),
        _ => (ResumeLayer::new().verified_restart(true).other_model(true), "/v1/chat/completions"),
    };
    let answers: VecDeque<Bytes> = stream.split(|byte| *byte == 0xFF).map(Bytes::copy_from_slice).collect();
    let first = answers.front().cloned().unwrap_or_default();
    let answers = Arc::new(Mutex::new(answers));
    let upstream = service_fn(move |_| {
        let answer = answers.lock().ok().and_then(|mut answers| answers.pop_front());
        async move {
            let status = if answer.is_some() { 200 } else { 404 };
            let pieces = answer.iter().flat_map(|answer| answer.chunks(size)).map(Bytes::copy_from_slice).collect();
            let response = Response::builder().status(status).header("content-type", "text/event-stream");
            Ok::<_, Infallible>(
                response.body(Broken(pieces)).unwrap_or_else(|_| Response::new(Broken(VecDeque::new()))),
            )
        }
    });
    let Ok(request) = Request::post(path).body(Full::<Bytes>::from("{}")) else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build() else {
        return;
    };
    let heard = runtime.block_on(async {
        let Ok(response) = layer.layer(upstream).oneshot(request).await;
        let (mut body, mut heard) = (response.into_body(), Vec::new());
        while let Some(Ok(frame)) = body.frame().await {
            heard.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        heard
    });
    if choice(0) % 5 == 0 {
        no_id_comes_again(&first, &heard);
    }
}

/// The rest has none of the ids before the break.
fn no_id_comes_again(first: &[u8], heard: &[u8]) {
    let ((before, id), (after, _)) = (ids(first), ids(heard));
    assert!(after.len() >= before.len(), "what was whole has come");
    let seen: HashSet<&String> = before.iter().collect();
    let mut last = &id;
    for id in after.get(before.len()..).unwrap_or_default() {
        // An event without an id has the id of the previous one.
        assert!(id.is_empty() || last == id || !seen.contains(id), "{id:?} came again");
        last = id;
    }
}

/// The ids of the events, and the id with which a client would come back.
fn ids(mut stream: &[u8]) -> (Vec<String>, String) {
    let (mut parser, mut ids) = (Parser::new(), Vec::new());
    while let Some(item) = parser.next(&mut stream) {
        if let Item::Message(message) = item {
            ids.push(message.last_event_id.into_owned());
        }
    }
    let last = parser.last_event_id().into_owned();
    (ids, last)
}
