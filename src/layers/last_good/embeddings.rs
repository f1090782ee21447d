//! An embedder that uses an API in OpenAI's format.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body::Body;
use serde_json::{Value, json};
use tower_service::Service;

use super::config::{Embedder, Embedding};
use crate::body::collect::{Collected, collect};
use crate::body::erased::ErasedBody;
use crate::body::request::CallBody;
use crate::call::Memory;
use crate::error::{BoxError, UnexpectedResponse};

/// An [`Embedder`] that calls a service with OpenAI's `/v1/embeddings`, or a compatible API.
///
/// Give the service its own limits, retries and circuit: the embedder calls it once, and an error only means that no
/// similar answer is found. So does an answer longer than 256 KiB per text, or without [memory](Self::memory) for it.
///
/// ```
/// use http::HeaderValue;
/// use http::header::AUTHORIZATION;
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use tower::Layer;
/// use tower_buttress::{CallBody, LastGoodLayer, OpenAiEmbeddings, Similar, TimeoutProfile, presets};
///
/// let client = Client::builder(TokioExecutor::new()).build_http::<CallBody>();
/// let service = presets::http_client(TimeoutProfile::FAST).layer(client);
/// let url = "http://embeddings.internal/v1/embeddings".parse().unwrap();
/// let embedder = OpenAiEmbeddings::new(service, url, "bge-small")
///     .header(AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
/// let layer = LastGoodLayer::new().similar(Similar::new(embedder).threshold(0.97));
/// # let _ = layer;
/// ```
#[derive(Clone)]
pub struct OpenAiEmbeddings<S> {
    service: S,
    url: Uri,
    model: Arc<str>,
    id: Arc<str>,
    headers: HeaderMap,
    memory: Memory,
}

/// The limit of an answer per text: a vector of 8,000 numbers.
const MAX_VECTOR: usize = 256 * 1024;
/// The limit of an answer in total.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// The limit of all answers that are read at once.
const MEMORY: usize = 64 * 1024 * 1024;
/// A parsed answer takes this many times as much memory.
const PARSED: usize = 8;

// === impl OpenAiEmbeddings ===

impl<S> OpenAiEmbeddings<S> {
    /// Calls `service` at `url` for the embeddings of `model`.
    #[must_use]
    pub fn new(service: S, url: Uri, model: impl Into<Arc<str>>) -> Self {
        let model = model.into();
        let id = format!("{} {model}", url.path()).into();
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        Self { service, url, model, id, headers, memory: Memory::new(MEMORY) }
    }

    /// The memory that counts answers while they are read. Default: 64 MiB of its own, which clones share.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Adds a header to each request, for example a credential. Its value is marked as sensitive.
    #[must_use]
    pub fn header(mut self, name: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        self.headers.insert(name, value);
        self
    }
}

impl<S, B> Embedder for OpenAiEmbeddings<S>
where
    S: Service<Request<CallBody>, Response = Response<B>, Error: Into<BoxError> + Send> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    fn id(&self) -> &str {
        &self.id
    }

    fn embed(&self, texts: Vec<String>) -> Embedding {
        let body = json!({ "model": *self.model, "input": texts, "encoding_format": "float" }).to_string();
        let mut request = Request::new(CallBody::from(Bytes::from(body)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = self.headers.clone();
        let mut service = self.service.clone();
        let (count, memory) = (texts.len(), self.memory.clone());
        let limit = MAX_VECTOR.saturating_mul(count).min(MAX_ANSWER);
        Box::pin(async move {
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
            let response = service.call(request).await.map_err(Into::into)?;
            if !response.status().is_success() {
                return Err(UnexpectedResponse::new(response.status()).into());
            }
            let body = ErasedBody::new(response.into_body());
            match collect(body, limit, memory.reserve(None)).await? {
                Collected::Whole { data, .. } => {
                    let mut parsed = memory.reserve(None);
                    if !parsed.grow(data.len().saturating_mul(PARSED)) {
                        return Err("no memory for an answer".into());
                    }
                    vectors(&data, count).ok_or_else(|| "an answer without vectors".into())
                }
                Collected::TooLarge(_) => Err("an answer that is too long".into()),
            }
        })
    }
}

/// Without the credentials.
impl<S> fmt::Debug for OpenAiEmbeddings<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiEmbeddings").field("model", &self.model).finish_non_exhaustive()
    }
}

/// Returns the vectors of an answer, in the order of the texts.
fn vectors(answer: &[u8], count: usize) -> Option<Vec<Vec<f32>>> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let mut vectors = vec![Vec::new(); count];
    for (at, item) in answer.get("data")?.as_array()?.iter().enumerate() {
        let index = item.get("index").map_or(Some(at as u64), Value::as_u64)?;
        let numbers = item.get("embedding")?.as_array()?;
        #[allow(clippy::cast_possible_truncation)]
        let vector: Option<Vec<f32>> =
            numbers.iter().map(|number| number.as_f64().map(|number| number as f32)).collect();
        *vectors.get_mut(usize::try_from(index).ok()?)? = vector?;
    }
    vectors.iter().all(|vector| !vector.is_empty()).then_some(vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_stand_where_their_index_says() {
        let answer = br#"{"data":[{"index":1,"embedding":[0.5,-1]},{"index":0,"embedding":[1]}]}"#;
        assert_eq!(vectors(answer, 2), Some(vec![vec![1.0], vec![0.5, -1.0]]));
        assert_eq!(vectors(answer, 3), None, "one is missing");
        assert_eq!(vectors(answer, 1), None, "one too many");
        assert_eq!(vectors(br#"{"data":[{"index":0,"embedding":"AAAA"}]}"#, 1), None);
        assert_eq!(vectors(b"no", 1), None);
    }
}
