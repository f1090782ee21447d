//! The dialects and their properties.

use memchr::memrchr;

/// A dialect that this crate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// OpenAI's chat completions, and compatible APIs: Azure, OpenRouter, vLLM, llama.cpp, DeepSeek, Mistral, Ollama's
    /// compatible API; the older text completions too.
    OpenAiChat,
    /// OpenAI's Responses.
    OpenAiResponses,
    /// Anthropic's Messages, also on Vertex AI.
    Anthropic,
    /// Gemini's `generateContent` and `streamGenerateContent`.
    Gemini,
    /// Cohere's chat, version 2.
    Cohere,
    /// Ollama's own API: one line of JSON per event.
    Ollama,
}

/// The keep-alive for a silent stream of a dialect.
///
/// What the official clients accept was tested in November 2026: google-genai (Python) fails on comments and skips a
/// blank line; the others skip comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeepAlive {
    /// A comment and a blank line.
    Comment,
    /// A blank line alone.
    BareNewline,
    /// Nothing: every form breaks some client.
    Nothing,
}

// === impl Kind ===

impl Kind {
    /// Returns the dialect of a generation endpoint, by its path (without the query). The beginning of the path does not
    /// matter, nor does a slash at the end. A colon may be percent-encoded.
    ///
    /// | Path ends in | Dialect |
    /// |---|---|
    /// | `/completions` | [`OpenAiChat`](Self::OpenAiChat) |
    /// | `/responses` | [`OpenAiResponses`](Self::OpenAiResponses) |
    /// | `/v1/messages`; `:rawPredict`, `:streamRawPredict` of a model of `/publishers/anthropic/` | [`Anthropic`](Self::Anthropic) |
    /// | `:generateContent`, `:streamGenerateContent` | [`Gemini`](Self::Gemini) |
    /// | `/v2/chat` | [`Cohere`](Self::Cohere) |
    /// | `/api/chat`, `/api/generate` | [`Ollama`](Self::Ollama) |
    ///
    /// ```
    /// use tower_buttress::proto::dialect::Kind;
    ///
    /// assert_eq!(Kind::of_path("/v1/chat/completions"), Some(Kind::OpenAiChat));
    /// assert_eq!(Kind::of_path("/openai/deployments/gpt-5/chat/completions"), Some(Kind::OpenAiChat));
    /// assert_eq!(Kind::of_path("/anthropic/v1/messages/"), Some(Kind::Anthropic));
    /// assert_eq!(Kind::of_path("/v1/models"), None);
    /// ```
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let (parent, last) = split_last(path.trim_end_matches('/'), b'/')?;
        match last {
            "completions" => Some(Self::OpenAiChat),
            "responses" => Some(Self::OpenAiResponses),
            // Not `/v1/threads/{id}/messages`, which is another API.
            "messages" if parent.ends_with("/v1") => Some(Self::Anthropic),
            "chat" if parent.ends_with("/v2") => Some(Self::Cohere),
            "chat" | "generate" if parent.ends_with("/api") => Some(Self::Ollama),
            _ => match action(last)? {
                "generateContent" | "streamGenerateContent" => Some(Self::Gemini),
                "rawPredict" | "streamRawPredict" if parent.ends_with("/publishers/anthropic/models") => {
                    Some(Self::Anthropic)
                }
                _ => None,
            },
        }
    }

    /// Returns the keep-alive for a silent stream.
    #[must_use]
    pub const fn keep_alive(self) -> KeepAlive {
        match self {
            Self::OpenAiChat | Self::OpenAiResponses | Self::Anthropic => KeepAlive::Comment,
            Self::Gemini => KeepAlive::BareNewline,
            Self::Cohere | Self::Ollama => KeepAlive::Nothing,
        }
    }

    /// A stable name, for logs and metrics: `"openai-chat"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai-chat",
            Self::OpenAiResponses => "openai-responses",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Cohere => "cohere",
            Self::Ollama => "ollama",
        }
    }
}

/// The part after the last colon, which some clients percent-encode.
fn action(last: &str) -> Option<&str> {
    if let Some((_, action)) = split_last(last, b':') {
        return Some(action);
    }
    let escaped = split_last(last, b'%')?.1;
    escaped.strip_prefix("3A").or_else(|| escaped.strip_prefix("3a"))
}

/// `rsplit_once` at an ASCII character. Every call looks up its dialect, and the standard library's searcher for a
/// character of any length costs more than reading these few bytes.
fn split_last(text: &str, at: u8) -> Option<(&str, &str)> {
    let (head, tail) = text.split_at_checked(memrchr(at, text.as_bytes())?)?;
    Some((head, tail.get(1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_recognised_by_the_end_of_their_path() {
        for (path, kind) in [
            ("/v1/chat/completions", Some(Kind::OpenAiChat)),
            ("/v1/completions", Some(Kind::OpenAiChat)),
            ("/v1/fim/completions/", Some(Kind::OpenAiChat)),
            ("/v1/responses", Some(Kind::OpenAiResponses)),
            ("/openai/v1/responses", Some(Kind::OpenAiResponses)),
            ("/v1/messages", Some(Kind::Anthropic)),
            ("/v1/projects/p/locations/l/publishers/anthropic/models/claude:streamRawPredict", Some(Kind::Anthropic)),
            ("/v1beta/models/gemini:generateContent", Some(Kind::Gemini)),
            ("/v1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent", Some(Kind::Gemini)),
            ("/v1beta/models/g%3AstreamGenerateContent", Some(Kind::Gemini)),
            ("/v1beta/models/g%3agenerateContent", Some(Kind::Gemini)),
            ("/v1/publishers/anthropic/models/claude%3ArawPredict", Some(Kind::Anthropic)),
            ("/v2/chat", Some(Kind::Cohere)),
            ("/api/chat", Some(Kind::Ollama)),
            ("/api/generate", Some(Kind::Ollama)),
        ] {
            assert_eq!(Kind::of_path(path), kind, "{path}");
        }
    }

    #[test]
    fn other_paths_are_not() {
        for path in [
            "",
            "/",
            "*",
            "completions",
            "/v1/models",
            "/v1/responses/resp_1",
            "/v1/threads/t/messages",
            "/v1/messages/batches",
            "/v1/messages/count_tokens",
            "/v1/publishers/google/models/g:rawPredict",
            "/v1beta/models/g:countTokens",
            "/v1beta/models/g:embedContent",
            "/v1/chat",
            "/chat",
            "/api/tags",
            "/v1/embeddings",
        ] {
            assert_eq!(Kind::of_path(path), None, "{path}");
        }
    }

    #[test]
    fn names_are_stable() {
        let all = [Kind::OpenAiChat, Kind::OpenAiResponses, Kind::Anthropic, Kind::Gemini, Kind::Cohere, Kind::Ollama];
        let names = ["openai-chat", "openai-responses", "anthropic", "gemini", "cohere", "ollama"];
        assert_eq!(all.map(Kind::as_str), names);
    }
}
