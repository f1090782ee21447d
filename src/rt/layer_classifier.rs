//! The classifier of a layer: its own, or that of the stack around it.

use std::ops::Deref;
use std::sync::OnceLock;

use crate::policy::verdict::{Classifier, Classify};

/// Set by the layer's own setter, or else by the first stack that makes a service with the layer's state. Without either,
/// the standard decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerClassifier(OnceLock<Classifier>);

static STANDARD: Classifier = Classifier::STANDARD;

// === impl LayerClassifier ===

impl LayerClassifier {
    /// The layer's own.
    pub(crate) fn own(classifier: impl Classify + 'static) -> Self {
        Self(OnceLock::from(Classifier::new(classifier)))
    }

    /// Takes the classifier of the stack, if the layer has none.
    pub(crate) fn adopt(&self, of_stack: &Classifier) {
        if !of_stack.is_standard() {
            self.0.get_or_init(|| of_stack.clone());
        }
    }
}

impl Deref for LayerClassifier {
    type Target = Classifier;

    #[inline]
    fn deref(&self) -> &Classifier {
        self.0.get().unwrap_or(&STANDARD)
    }
}
