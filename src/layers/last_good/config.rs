//! The settings.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tokio::sync::Semaphore;

use crate::call::Memory;
use crate::error::BoxError;
use crate::event::{Emitter, Event};
use crate::policy::last_good::template::TextTemplate;
use crate::policy::request_scope::{FINGERPRINT_HEADERS, NameTenant};
use crate::rt::layer_classifier::LayerClassifier;
use crate::store::SharedLastGood;

/// The name of the layer in events, and in [`ServedBy`](crate::ServedBy).
pub(super) const NAME: &str = "last-good";

/// The settings.
#[derive(Clone)]
pub struct Config {
    pub(super) enabled: bool,
    pub(super) tenant: Option<Arc<NameTenant>>,
    pub(super) headers: Vec<HeaderName>,
    pub(super) normalized: bool,
    pub(super) similar: Option<Similar>,
    pub(super) template: Option<Arc<TextTemplate>>,
    pub(super) peers: Option<Arc<dyn SharedLastGood>>,
    pub(super) ttl: Duration,
    /// How long before its deadline the layer answers a call from memory.
    pub(super) reserve: Duration,
    pub(super) max_answer: usize,
    pub(super) max_body_bytes: usize,
    pub(super) read_timeout: Duration,
    pub(super) memory: Memory,
    pub(super) classifier: LayerClassifier,
    pub(super) emitter: Emitter,
}

/// Says what texts mean, as vectors: texts that mean the same have vectors that point the same way.
///
/// [`OpenAiEmbeddings`](crate::OpenAiEmbeddings) asks a service for them.
///
/// ```
/// use tower_buttress::{Embedder, Embedding};
///
/// /// Tells texts apart by their length.
/// struct Length;
///
/// impl Embedder for Length {
///     fn id(&self) -> &str {
///         "length"
///     }
///
///     fn embed(&self, texts: Vec<String>) -> Embedding {
///         let vectors = texts.iter().map(|text| vec![text.len() as f32, 1.0]).collect();
///         Box::pin(async { Ok(vectors) })
///     }
/// }
/// ```
pub trait Embedder: Send + Sync {
    /// Which model it is, of which version. Vectors of two models are never compared.
    fn id(&self) -> &str;

    /// A vector for each text, in their order.
    fn embed(&self, texts: Vec<String>) -> Embedding;
}

/// The future of an [`Embedder`].
pub type Embedding = Pin<Box<dyn Future<Output = Result<Vec<Vec<f32>>, BoxError>> + Send>>;

/// How similar requests are found: for [`LastGoodLayer::similar`](crate::LastGoodLayer::similar).
#[derive(Clone)]
pub struct Similar {
    pub(super) embedder: Arc<dyn Embedder>,
    pub(super) threshold: f32,
    pub(super) timeout: Duration,
    /// Limits the concurrent embeddings of stored answers.
    pub(super) places: Arc<Semaphore>,
}

/// Kept answers that are embedded at once. Others are kept without.
const PLACES: usize = 8;
/// Headers in which applications name the user of a request, in addition to those of every fingerprint.
const SCOPE_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("x-conversation-id"),
    HeaderName::from_static("x-session-id"),
    HeaderName::from_static("x-thread-id"),
    HeaderName::from_static("x-user-id"),
];

// === impl Config ===

impl Config {
    /// Reports a request or answer that the layer could not handle and passed on.
    #[cold]
    pub(super) fn bypassed(&self, reason: &'static str) {
        self.emitter.emit(&Event::Bypassed { layer: NAME, reason });
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            tenant: None,
            headers: FINGERPRINT_HEADERS.into_iter().chain(SCOPE_HEADERS).collect(),
            normalized: true,
            similar: None,
            template: None,
            peers: None,
            ttl: Duration::from_secs(60 * 60),
            reserve: Duration::from_millis(250),
            max_answer: 1024 * 1024,
            max_body_bytes: 2 * 1024 * 1024,
            read_timeout: Duration::from_secs(30),
            memory: Memory::default(),
            classifier: LayerClassifier::default(),
            emitter: Emitter::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("enabled", &self.enabled)
            .field("tenant", &self.tenant.is_some())
            .field("normalized", &self.normalized)
            .field("similar", &self.similar)
            .field("template", &self.template.is_some())
            .field("is_shared", &self.peers.is_some())
            .field("ttl", &self.ttl)
            .field("reserve", &self.reserve)
            .field("max_answer", &self.max_answer)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("read_timeout", &self.read_timeout)
            .field("emitter", &self.emitter)
            .finish_non_exhaustive()
    }
}

// === impl Similar ===

impl Similar {
    /// Asks this embedder what messages mean.
    #[must_use]
    pub fn new(embedder: impl Embedder + 'static) -> Self {
        Self {
            embedder: Arc::new(embedder),
            threshold: 0.95,
            timeout: Duration::from_secs(2),
            places: Arc::new(Semaphore::new(PLACES)),
        }
    }

    /// The least cosine of two messages of which one's answer is the other's. Default: 0.95. Choose it with pairs of your own:
    /// the example `similarity` prints what each threshold lets through.
    #[must_use]
    pub fn threshold(mut self, cosine: f32) -> Self {
        // What is no number lets nothing through.
        self.threshold = if cosine.is_nan() { f32::INFINITY } else { cosine };
        self
    }

    /// How long a call that has failed waits for its embedding. Default: 2 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl fmt::Debug for Similar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Similar")
            .field("embedder", &self.embedder.id())
            .field("threshold", &self.threshold)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
