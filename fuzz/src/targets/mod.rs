//! The targets, with one file and one line here each.

mod answers;
mod deadline;
mod dialect;
mod hints;
mod repeats;
mod resume;
mod schema;
mod sse;

/// A parser of network bytes. It panics when a rule is broken.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]),
    /// The vocabulary of its inputs.
    pub(crate) vocabulary: &'static [&'static [u8]],
}

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "sse", run: sse::run, vocabulary: sse::VOCABULARY },
    Target { name: "deadline", run: deadline::run, vocabulary: deadline::VOCABULARY },
    Target { name: "hints", run: hints::run, vocabulary: hints::VOCABULARY },
    Target { name: "schema", run: schema::run, vocabulary: schema::VOCABULARY },
    Target { name: "repeats", run: repeats::run, vocabulary: repeats::VOCABULARY },
    Target { name: "resume", run: resume::run, vocabulary: resume::VOCABULARY },
    Target { name: "answers", run: answers::run, vocabulary: answers::VOCABULARY },
    Target { name: "openai-chat", run: dialect::open_ai_chat, vocabulary: dialect::VOCABULARY },
    Target { name: "openai-responses", run: dialect::open_ai_responses, vocabulary: dialect::VOCABULARY },
    Target { name: "anthropic", run: dialect::anthropic, vocabulary: dialect::VOCABULARY },
    Target { name: "gemini", run: dialect::gemini, vocabulary: dialect::VOCABULARY },
    Target { name: "cohere", run: dialect::cohere, vocabulary: dialect::VOCABULARY },
    Target { name: "ollama", run: dialect::ollama, vocabulary: dialect::VOCABULARY },
];
