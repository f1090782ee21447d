//! Answers to requests that mean the same, as far as a model can tell.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::stored::{AnswerStore, MeaningVector};
use crate::call::Reservation;
use crate::error::BoxError;
use crate::policy::last_good::similar;
use crate::proto::fingerprint::Fingerprint;

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
    embedder: Arc<dyn Embedder>,
    pub(super) threshold: f32,
    pub(super) timeout: Duration,
    /// Embeddings of kept answers that are under way.
    places: Arc<Semaphore>,
}

/// The last message of a request, and all else of it.
pub(super) struct Question {
    pub(super) scope: Fingerprint,
    pub(super) text: String,
}

/// Kept answers that are embedded at once. Others are kept without.
const PLACES: usize = 8;
/// What the meaning of a message takes beside its text and its vector.
const OVERHEAD: usize = 256;
/// How long the embedding of a kept answer may take.
const BACKGROUND: Duration = Duration::from_secs(30);

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

    /// Whether both messages ask for the same of the same. Only how an English question is put may differ, at its beginning: `what
    /// is the`, `tell me the`, `could you please tell me the`; `how to`, `what is the best way to`; `explain`,
    /// `explain to me`; `summarize`, `give me a summary of`; a `please`, a greeting, the mark at the end. All else has to be equal,
    /// word for word and sign for sign, capitals included. So numbers, units, negations and names are the same, in any language
    /// and however they are written. Only then is a message similar, however near the embedder finds it.
    ///
    /// ```
    /// use tower_buttress::Similar;
    ///
    /// assert!(Similar::agree("What is the capital of France?", "Tell me the capital of France"));
    /// assert!(!Similar::agree("What is the capital of France?", "Tell me the capital city of France"));
    /// assert!(!Similar::agree("What is the capital of France?", "What is the capital of Spain?"));
    /// assert!(!Similar::agree("Is it safe?", "Is it not safe?"));
    /// assert!(!Similar::agree("from Paris to London", "from London to Paris"));
    /// ```
    #[must_use]
    pub fn agree(one: &str, other: &str) -> bool {
        similar::agree(one, other)
    }

    /// The cosine of two vectors; `None` where they cannot be compared.
    #[must_use]
    pub fn cosine(one: &[f32], other: &[f32]) -> Option<f32> {
        similar::cosine(one, other)
    }

    pub(super) fn id(&self) -> &str {
        self.embedder.id()
    }

    pub(super) fn embed(&self, text: String) -> Embedding {
        self.embedder.embed(vec![text])
    }

    /// Embeds the request of a kept answer on a task of its own. Without a runtime, or with too many under way, it is kept
    /// without.
    pub(super) fn embed_kept(
        &self,
        question: Arc<Question>,
        exact: Fingerprint,
        store: Arc<AnswerStore>,
        mut reservation: Reservation,
    ) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let embedding = self.embed(question.text.clone());
        runtime.spawn(async move {
            let _place = place;
            let Ok(Ok(vectors)) = tokio::time::timeout(BACKGROUND, embedding).await else { return };
            let Some(vector) = vectors.into_iter().next() else { return };
            let (text, vector) = (question.text.as_str().into(), vector.into_boxed_slice());
            let bytes = size_of_val(&*vector).saturating_add(question.text.len()).saturating_add(OVERHEAD);
            if reservation.set_exactly(bytes) {
                let meaning = MeaningVector { text, vector, _reservation: reservation };
                store.with(|answers| answers.attach(exact, question.scope, meaning, bytes));
            }
        });
    }
}

impl fmt::Debug for Similar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Similar")
            .field("embedder", &self.id())
            .field("threshold", &self.threshold)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
