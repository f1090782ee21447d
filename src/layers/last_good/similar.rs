//! Answers to requests with a similar meaning, as judged by an embedder.

use std::sync::Arc;
use std::time::Duration;

use super::config::{Embedding, Similar};
use super::stored::{AnswerStore, MeaningVector};
use crate::call::Reservation;
use crate::policy::last_good::similar;
use crate::proto::fingerprint::Fingerprint;

/// The last message of a request, and a key of the rest.
pub(super) struct Question {
    pub(super) scope: Fingerprint,
    pub(super) text: String,
}

/// The overhead of a message besides its text and its vector.
const OVERHEAD: usize = 256;
/// The time limit for the embedding of a stored answer.
const BACKGROUND: Duration = Duration::from_secs(30);

// === impl Similar ===

impl Similar {
    /// Whether both messages ask the same. Only the phrasing of an English question may differ, at its beginning: `what
    /// is the`, `tell me the`, `could you please tell me the`; `how to`, `what is the best way to`; `explain`, `explain
    /// to me`; `summarize`, `give me a summary of`; a `please`, a greeting, the mark at the end. All else must be equal,
    /// word for word and sign for sign, capitals included. So numbers, units, negations and names are equal, in any
    /// language and spelling. Without this agreement a message is never similar, whatever its cosine.
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

    /// The cosine of two vectors; `None` if they cannot be compared.
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

    /// Embeds the request of a stored answer on its own task. Without a runtime, or with too many in progress, the answer
    /// is stored without an embedding.
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
