use std::sync::Arc;

use http::{Extensions, Request};
use memchr::memchr;

/// The model that a request asks for, in the request's extensions.
///
/// Layers with state per model read it, such as
/// [`CircuitBreakerLayer::key_by_model`](crate::CircuitBreakerLayer::key_by_model).
/// [`InspectRequestLayer::llm`](crate::InspectRequestLayer::llm), a part of the presets for models, sets it. Callers
/// choose the name: layers bound how many names they accept.
///
/// ```
/// use http::Request;
/// use tower_buttress::Model;
///
/// let request = Request::builder().extension(Model::new("gpt-5-mini")).body(()).unwrap();
/// assert_eq!(Model::of(&request), Some("gpt-5-mini"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Model(Arc<str>);

// === impl Model ===

impl Model {
    /// Returns the model with this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Returns the model that a request's path names, as written there, for APIs that do not name it in the body: Gemini
    /// and Vertex AI (`/models/NAME:generateContent`), deployments of Azure (`/deployments/NAME/chat/completions`), and
    /// Amazon Bedrock (`/model/NAME/converse`).
    ///
    /// ```
    /// use tower_buttress::Model;
    ///
    /// assert_eq!(Model::in_path("/v1beta/models/gemini-2.5-pro:streamGenerateContent"), Some("gemini-2.5-pro"));
    /// assert_eq!(Model::in_path("/openai/deployments/mine/chat/completions"), Some("mine"));
    /// assert_eq!(Model::in_path("/model/amazon.nova-lite-v1%3A0/converse"), Some("amazon.nova-lite-v1%3A0"));
    /// assert_eq!(Model::in_path("/v1/chat/completions"), None);
    /// ```
    #[must_use]
    pub fn in_path(path: &str) -> Option<&str> {
        let is = |segment: &str, names: &[&str]| names.iter().any(|name| segment.eq_ignore_ascii_case(name));
        let mut rest = path.trim_end_matches('/');
        let mut before = "";
        while let Some(at) = memchr(b'/', rest.as_bytes()) {
            let (segment, after) = (rest.get(..at)?, rest.get(at + 1..)?);
            if !segment.is_empty() && is(before, &["deployments", "model"]) {
                return Some(segment);
            }
            (before, rest) = (segment, after);
        }
        let is_method = is(before, &["models", "tunedModels", "endpoints"]);
        let (name, _method) = rest.rsplit_once(':').filter(|_| is_method)?;
        (!name.is_empty()).then_some(name)
    }

    /// Returns the name of the model that this request asks for, if known.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Option<&str> {
        Self::in_extensions(request.extensions())
    }

    pub(crate) fn in_extensions(extensions: &Extensions) -> Option<&str> {
        extensions.get().map(Self::as_str)
    }

    /// The model's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_model_where_apis_have_it() {
        for (path, model) in [
            ("/v1beta/models/gemini-pro:generateContent", "gemini-pro"),
            ("/v1beta/tunedModels/mine:streamGenerateContent/", "mine"),
            ("/v1/projects/p/locations/l/publishers/anthropic/models/claude@1:rawPredict", "claude@1"),
            ("/v1/projects/p/locations/l/endpoints/7:predict", "7"),
            ("/OpenAI/Deployments/gpt/embeddings", "gpt"),
            ("/model/us.meta.llama3%3A0/invoke-with-response-stream", "us.meta.llama3%3A0"),
        ] {
            assert_eq!(Model::in_path(path), Some(model), "{path}");
        }
        for path in [
            "/",
            "",
            "/v1/models",
            "/v1/models/gpt-5",
            "/v1beta/models/:generateContent",
            "/openai/deployments",
            "/openai/deployments/gpt",
            "/openai/deployments//chat",
            "/v1/responses/a:b",
        ] {
            assert_eq!(Model::in_path(path), None, "{path}");
        }
    }
}
