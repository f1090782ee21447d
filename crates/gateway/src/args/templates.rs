//! Texts of the operator, returned when no answer can be had.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

/// The texts of a file, by model.
#[derive(Clone, Debug)]
pub(crate) struct TemplateArgs(Arc<BTreeMap<String, String>>);

/// The entry for models that have none.
const ANY: &str = "*";

// === impl Templates ===

impl TemplateArgs {
    /// The text for requests that name this model.
    pub(crate) fn text(&self, model: Option<&str>) -> Option<&str> {
        let own = model.and_then(|model| self.0.get(model));
        own.or_else(|| self.0.get(ANY)).map(String::as_str)
    }
}

impl FromStr for TemplateArgs {
    type Err = String;

    fn from_str(path: &str) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
        let texts: BTreeMap<String, String> = serde_json::from_str(&text)
            .map_err(|error| format!("not a JSON object of texts by model: line {}", error.line()))?;
        if texts.is_empty() { Err("the file has no texts".to_owned()) } else { Ok(Self(Arc::new(texts))) }
    }
}
