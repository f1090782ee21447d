//! Whose answer is returned: over real sockets, and for any two requests.

use axum::Router;
use axum::routing::post;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use proptest::prelude::*;
use tokio::net::TcpListener;
use tower_buttress::Similar;

use super::similar::{Alike, settle};
use super::*;

/// What makes an answer one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    tenant: &'static str,
    user: Option<&'static str>,
    conversation: Option<&'static str>,
    model: &'static str,
    system: &'static str,
    earlier: Option<&'static str>,
    tools: Option<&'static str>,
    schema: Option<&'static str>,
    temperature: Option<u8>,
    metadata: Option<&'static str>,
    stream: bool,
    question: &'static str,
}

/// Questions of one line are one question. The first two lines mean the same; all others differ in a number, a negation or a
/// name.
const QUESTIONS: [&[&str]; 12] = [
    &["Could you tell me the 10 sights of Paris?"],
    &["What are the 10 sights of Paris?", "what are the 10 sights  of Paris", "Hi, what are the 10 sights of Paris?"],
    &["what are the 10 sights of rome"],
    &["what are the ten sights of paris"],
    &["What are the -10 sights of Paris?"],
    &["what are the 10 no sights of paris"],
    &["What are the 100 sights of Paris?"],
    &["What are not the 10 sights of Paris?"],
    &["What are the 10 sights of London?"],
    &["What are the 10 sights of PARIS?"],
    &["What are the \"10\" sights of Paris?"],
    &["What are the 10 sights of Paris I?"],
];

impl Asked {
    fn request(&self) -> Request<Full<Bytes>> {
        let mut messages = vec![serde_json::json!({ "role": "system", "content": self.system })];
        messages.extend(self.earlier.map(|text| serde_json::json!({ "role": "assistant", "content": text })));
        messages.push(serde_json::json!({ "role": "user", "content": self.question }));
        let mut body = serde_json::json!({ "model": self.model, "messages": messages });
        let fields = [
            ("user", self.user.map(Into::into)),
            ("tools", self.tools.map(|name| serde_json::json!([{ "type": "function", "function": { "name": name } }]))),
            (
                "response_format",
                self.schema.map(|name| serde_json::json!({ "type": "json_schema", "json_schema": { "name": name } })),
            ),
            ("temperature", self.temperature.map(Into::into)),
            ("metadata", self.metadata.map(|session| serde_json::json!({ "session": session }))),
            ("stream", self.stream.then(|| true.into())),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        let mut request = Request::post("/v1/chat/completions").header("authorization", self.tenant);
        if let Some(conversation) = self.conversation {
            request = request.header("x-conversation-id", conversation);
        }
        request.body(Full::from(body.to_string())).unwrap()
    }

    /// Whether an answer to `other` is one to this.
    fn is_answered_by(&self, other: &Self) -> bool {
        let of = |question| QUESTIONS.iter().position(|same| same.contains(&question));
        of(self.question) == of(other.question) && *self == Self { question: self.question, ..other.clone() }
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let questions: Vec<&'static str> = QUESTIONS.concat();
    let two = |one, other| prop::sample::select(vec![one, other]);
    let maybe = |one, other| prop::sample::select(vec![None, Some(one), Some(other)]);
    (
        (two("Bearer a", "Bearer b"), maybe("u", "v"), maybe("c", "d"), two("m", "n"), two("Be brief.", "be brief.")),
        (maybe("Yes.", "No."), maybe("search", "delete"), maybe("s", "t"), prop::option::of(0..2_u8)),
        (maybe("x", "y"), any::<bool>(), prop::sample::select(questions)),
    )
        .prop_map(
            |(
                (tenant, user, conversation, model, system),
                (earlier, tools, schema, temperature),
                (metadata, stream, question),
            )| {
                Asked {
                    tenant,
                    user,
                    conversation,
                    model,
                    system,
                    earlier,
                    tools,
                    schema,
                    temperature,
                    metadata,
                    stream,
                    question,
                }
            },
        )
}

/// A request and one that differs from it in a single thing, or in nothing.
fn neighbours() -> impl Strategy<Value = (Asked, Asked)> {
    (asked(), asked(), 0..14_usize).prop_map(|(one, other, which)| {
        let mut near = one.clone();
        match which {
            0 => near.tenant = other.tenant,
            1 => near.user = other.user,
            2 => near.conversation = other.conversation,
            3 => near.model = other.model,
            4 => near.system = other.system,
            5 => near.earlier = other.earlier,
            6 => near.tools = other.tools,
            7 => near.schema = other.schema,
            8 => near.temperature = other.temperature,
            9 => near.stream = other.stream,
            10 => near.metadata = other.metadata,
            _ => near.question = other.question,
        }
        (one, near)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// No answer of another tenant, user, conversation, model, system prompt, tool set, schema or question.
    #[test]
    fn an_answer_is_returned_to_its_own_request_only((one, other) in neighbours()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let upstream = Upstream::new();
            let service = LastGoodLayer::new().layer(upstream.service());
            send(&service, one.request()).await;
            upstream.set(status(503));
            let stale = send(&service, other.request()).await.1;
            prop_assert_eq!(stale.is_some(), other.is_answered_by(&one), "{:?} after {:?}", other, one);
            prop_assert_eq!(stale == Some(StaleKind::Exact), one == other);
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The same with an embedder that finds everything alike: only the question may differ, and no number, negation or name
    /// in it.
    #[test]
    fn a_similar_answer_is_returned_within_its_scope_only((one, other) in neighbours()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let upstream = Upstream::new();
            let service = LastGoodLayer::new().similar(Similar::new(Alike::default())).layer(upstream.service());
            send(&service, one.request()).await;
            settle().await;
            upstream.set(status(503));
            let stale = send(&service, other.request()).await.1;
            if other.is_answered_by(&one) {
                prop_assert!(matches!(stale, Some(StaleKind::Exact | StaleKind::Normalized)));
            } else if other != (Asked { question: other.question, ..one.clone() }) || other.schema.is_some() {
                prop_assert_eq!(stale, None, "{:?} after {:?}", other, one);
            } else {
                let means_the_same = |question: &str| QUESTIONS[..2].iter().any(|line| line.contains(&question));
                let similar = means_the_same(one.question) && means_the_same(other.question);
                prop_assert_eq!(stale, similar.then_some(StaleKind::Similar), "{:?} after {:?}", other, one);
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_provider_that_is_gone_is_answered_from_memory_over_real_sockets() {
    let provider = Router::new()
        .route("/v1/chat/completions", post(async || ([("content-type", "text/event-stream")], [WORD, STOP].concat())));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, provider).into_future());
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http::<CallBody>();
    let service = LastGoodLayer::new().layer(client);
    let request = || {
        let mut request = ask(QUESTION);
        *request.uri_mut() = format!("http://{address}/v1/chat/completions").parse().unwrap();
        request
    };
    assert_eq!(send(&service, request()).await, (200, None, [WORD, STOP].concat()));
    server.abort();
    let _ = server.await;
    let mut mallory = request();
    mallory.headers_mut().insert("authorization", "Bearer mallory".parse().unwrap());
    assert!(service.clone().oneshot(mallory).await.is_err(), "another tenant has none");
    assert_eq!(send(&service, request()).await, (200, Some(StaleKind::Exact), [WORD, STOP].concat()));
}
