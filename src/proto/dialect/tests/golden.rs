//! Whole streams, as providers send them: one or two per dialect.

use tower_buttress::proto::dialect::{End, Framing, Kind};

/// A whole stream.
#[derive(Debug)]
pub(crate) struct Golden {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) framing: Framing,
    /// How it ends.
    pub(crate) end: End,
    /// What the model says, thoughts and calls of tools left out.
    pub(crate) text: &'static str,
    pub(crate) stream: &'static str,
    /// With the end of this, the answer has ended; with less, it has not.
    pub(crate) terminal: &'static str,
}

impl Golden {
    /// Whether the answer has ended where the stream ends behind that many of its bytes.
    pub(crate) fn has_ended(&self, cut: usize) -> bool {
        let said = self.stream.rfind(self.terminal).is_some_and(|found| cut >= found + self.terminal.len());
        // Where an answer ends with its stream, that is not inside of an event.
        let ends_with_stream = matches!(self.kind, Kind::OpenAiChat | Kind::Gemini) && self.framing != Framing::Array;
        let before = self.stream.as_bytes().get(..cut).unwrap_or_default();
        let between = ["\n\n", "\n\r", "\n\r\n"].iter().any(|blank| before.ends_with(blank.as_bytes()));
        let last = before.trim_ascii_end().rsplit(|byte| b"\r\n".contains(byte)).next().unwrap_or_default();
        let done = last.strip_prefix(b"data:").is_some_and(|data| data.trim_ascii() == b"[DONE]");
        said && (between || done || !ends_with_stream)
    }
}

pub(crate) const GOLDEN: &[Golden] = &[
    Golden {
        name: "OpenAI",
        kind: Kind::OpenAiChat,
        framing: Framing::EventStream,
        end: End::Whole,
        text: "Hello, \"wörld\"\n!",
        stream: OPENAI,
        terminal: "\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
    },
    Golden {
        name: "OpenAI, two choices",
        kind: Kind::OpenAiChat,
        framing: Framing::EventStream,
        end: End::Limit,
        text: "AaBb",
        stream: TWO_CHOICES,
        terminal: "\"finish_reason\":\"length\"}]}\n\n",
    },
    Golden {
        name: "Azure",
        kind: Kind::OpenAiChat,
        framing: Framing::EventStream,
        end: End::Whole,
        text: "Hi",
        stream: AZURE,
        terminal: "\"created\":1794000000,\"id\":\"chatcmpl-2\",\"model\":\"gpt-5\",\"object\":\"chat.completion.chunk\"}\n\n",
    },
    Golden {
        name: "DeepSeek, thinking, a tool",
        kind: Kind::OpenAiChat,
        framing: Framing::EventStream,
        end: End::Whole,
        text: "",
        stream: DEEPSEEK,
        terminal: "\"finish_reason\":\"tool_calls\"}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":9}}\n\n",
    },
    Golden {
        name: "Mistral",
        kind: Kind::OpenAiChat,
        framing: Framing::EventStream,
        end: End::Whole,
        text: "Bonjour",
        stream: MISTRAL,
        terminal: "\"finish_reason\":\"stop\"}]}\n\n",
    },
    Golden {
        name: "Responses",
        kind: Kind::OpenAiResponses,
        framing: Framing::EventStream,
        end: End::Whole,
        text: "Hello",
        stream: RESPONSES,
        terminal: "\"usage\":{\"input_tokens\":3,\"output_tokens\":2}}}\n\n",
    },
    Golden {
        name: "Anthropic",
        kind: Kind::Anthropic,
        framing: Framing::EventStream,
        end: End::Whole,
        text: "Hello",
        stream: ANTHROPIC,
        terminal: "data: {\"type\":\"message_stop\"}\n\n",
    },
    Golden {
        name: "Anthropic, refused",
        kind: Kind::Anthropic,
        framing: Framing::EventStream,
        end: End::Refused,
        text: "I",
        stream: ANTHROPIC_REFUSED,
        terminal: "data: {\"type\":\"message_stop\"}\n\n",
    },
    Golden {
        name: "Gemini",
        kind: Kind::Gemini,
        framing: Framing::EventStream,
        end: End::Whole,
        text: "Hello",
        stream: GEMINI,
        terminal: "\"modelVersion\":\"gemini-3\",\"responseId\":\"r\"}\r\n\r",
    },
    Golden {
        name: "Gemini, an array",
        kind: Kind::Gemini,
        framing: Framing::Array,
        end: End::Limit,
        text: "Hello",
        stream: GEMINI_ARRAY,
        terminal: "\n]",
    },
    Golden {
        name: "Cohere",
        kind: Kind::Cohere,
        framing: Framing::EventStream,
        end: End::Whole,
        text: "Hello",
        stream: COHERE,
        terminal: "\"tokens\":{\"input_tokens\":3,\"output_tokens\":2}}}}\n\n",
    },
    Golden {
        name: "Ollama",
        kind: Kind::Ollama,
        framing: Framing::Lines,
        end: End::Whole,
        text: "Hello",
        stream: OLLAMA,
        terminal: "\"eval_count\":2}",
    },
];

const OPENAI: &str = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1794000000,"model":"gpt-5","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}

: keep-alive

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1794000000,"model":"gpt-5","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1794000000,"model":"gpt-5","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":", \"w\u00f6rld\"\n"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1794000001,"model":"gpt-5","system_fingerprint":"fp_2","choices":[{"index":0,"delta":{"content":"!"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1794000001,"model":"gpt-5","system_fingerprint":"fp_2","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1794000001,"model":"gpt-5","system_fingerprint":"fp_2","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}

data: [DONE]

"#;

const TWO_CHOICES: &str = r#"data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"A"},"finish_reason":null}]}

data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":1,"delta":{"content":"a"},"finish_reason":null}]}

data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":"B"},"finish_reason":"stop"}]}

data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":1,"delta":{"content":"b"},"finish_reason":"length"}]}

data: [DONE]

"#;

const AZURE: &str = r#"data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}]}

data: {"choices":[{"content_filter_results":{},"delta":{"content":"","refusal":null,"role":"assistant"},"finish_reason":null,"index":0,"logprobs":null}],"created":1794000000,"id":"chatcmpl-2","model":"gpt-5","object":"chat.completion.chunk"}

data: {"choices":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}},"delta":{"content":"Hi"},"finish_reason":null,"index":0,"logprobs":null}],"created":1794000000,"id":"chatcmpl-2","model":"gpt-5","object":"chat.completion.chunk"}

data: {"choices":[{"content_filter_results":{},"delta":{},"finish_reason":"stop","index":0,"logprobs":null}],"created":1794000000,"id":"chatcmpl-2","model":"gpt-5","object":"chat.completion.chunk"}

data: {"choices":[{"content_filter_offsets":{"check_offset":44,"start_offset":44,"end_offset":46},"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}},"finish_reason":null,"index":0}],"created":0,"id":"","model":"","object":""}

data: [DONE]

"#;

const DEEPSEEK: &str = r#": keep-alive

data: {"id":"d","object":"chat.completion.chunk","created":1,"model":"deepseek-reasoner","choices":[{"index":0,"delta":{"role":"assistant","content":null,"reasoning_content":"Hm"},"logprobs":null,"finish_reason":null}]}

data: {"id":"d","object":"chat.completion.chunk","created":1,"model":"deepseek-reasoner","choices":[{"index":0,"delta":{"content":null,"reasoning_content":"m."},"logprobs":null,"finish_reason":null}]}

data: {"id":"d","object":"chat.completion.chunk","created":1,"model":"deepseek-reasoner","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"weather","arguments":""}}]},"logprobs":null,"finish_reason":null}]}

data: {"id":"d","object":"chat.completion.chunk","created":1,"model":"deepseek-reasoner","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\":"}}]},"logprobs":null,"finish_reason":null}]}

data: {"id":"d","object":"chat.completion.chunk","created":1,"model":"deepseek-reasoner","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"Rome\"}"}}]},"logprobs":null,"finish_reason":null}]}

data: {"id":"d","object":"chat.completion.chunk","created":1,"model":"deepseek-reasoner","choices":[{"index":0,"delta":{"content":"","reasoning_content":null},"logprobs":null,"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":5,"completion_tokens":9}}

data: [DONE]

"#;

const MISTRAL: &str = r#"data: {"id":"m","object":"chat.completion.chunk","created":1,"model":"magistral","choices":[{"index":0,"delta":{"role":"assistant","content":[{"type":"thinking","thinking":[{"type":"text","text":"Well"}]}]},"finish_reason":null}]}

data: {"id":"m","object":"chat.completion.chunk","created":1,"model":"magistral","choices":[{"index":0,"delta":{"content":"Bon"},"finish_reason":null}]}

data: {"id":"m","object":"chat.completion.chunk","created":1,"model":"magistral","choices":[{"index":0,"delta":{"content":"jour"},"finish_reason":"stop"}]}

data: [DONE]

"#;

const RESPONSES: &str = r#"event: response.created
data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress","error":null,"model":"gpt-5","output":[]}}

event: response.in_progress
data: {"type":"response.in_progress","sequence_number":1,"response":{"id":"resp_1","object":"response","status":"in_progress","error":null,"model":"gpt-5","output":[]}}

event: response.output_item.added
data: {"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"msg_1","type":"message","status":"in_progress","content":[],"role":"assistant"}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":3,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hel","logprobs":[],"obfuscation":"a8Qz"}

event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"lo","logprobs":[],"obfuscation":"TyU19"}

event: response.output_text.done
data: {"type":"response.output_text.done","sequence_number":5,"item_id":"msg_1","output_index":0,"content_index":0,"text":"Hello"}

event: response.completed
data: {"type":"response.completed","sequence_number":6,"response":{"id":"resp_1","object":"response","status":"completed","error":null,"incomplete_details":null,"model":"gpt-5","output":[{"id":"msg_1","type":"message","status":"completed","content":[{"type":"output_text","text":"Hello"}],"role":"assistant"}],"usage":{"input_tokens":3,"output_tokens":2}}}

"#;

const ANTHROPIC: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQB"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hel"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"lo"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":5}}

event: message_stop
data: {"type":"message_stop"}

"#;

const ANTHROPIC_REFUSED: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_2","type":"message","role":"assistant","model":"claude-5","content":[],"usage":{"input_tokens":3,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"I"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"category":"cyber"}},"usage":{"output_tokens":5}}

event: message_stop
data: {"type":"message_stop"}

"#;

const GEMINI: &str = concat!(
    r#"data: {"candidates": [{"content": {"parts": [{"text": "Plan","thought": true}],"role": "model"},"index": 0}],"usageMetadata": {"promptTokenCount": 4,"totalTokenCount": 4},"modelVersion": "gemini-3","responseId": "r"}"#,
    "\r\n\r\n",
    r#"data: {"candidates": [{"content": {"parts": [{"text": "Hel"}],"role": "model"},"index": 0}],"usageMetadata": {"promptTokenCount": 4,"candidatesTokenCount": 1,"totalTokenCount": 5},"modelVersion": "gemini-3","responseId": "r"}"#,
    "\r\n\r\n",
    r#"data: {"candidates": [{"content": {"parts": [{"text": "l"}],"role": "model"},"index": 0}],"usageMetadata": {"promptTokenCount": 4,"candidatesTokenCount": 2,"totalTokenCount": 6},"modelVersion": "gemini-3","responseId": "r"}"#,
    "\r\n\r\n",
    r#"data: {"candidates":[{"content":{"parts":[{"text":"o","thoughtSignature":"CiQB"}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":3,"thoughtsTokenCount":7},"modelVersion":"gemini-3","responseId":"r"}"#,
    "\r\n\r\n",
);

const GEMINI_ARRAY: &str = r#"[{
  "candidates": [
    {
      "content": { "parts": [ { "text": "Hel" } ], "role": "model" }
    }
  ],
  "modelVersion": "gemini-3"
}
,
{
  "candidates": [
    {
      "content": { "parts": [ { "text": "lo" } ], "role": "model" },
      "finishReason": "MAX_TOKENS"
    }
  ],
  "modelVersion": "gemini-3"
}
]
"#;

const COHERE: &str = r#"event: message-start
data: {"id":"29f14a5a","type":"message-start","delta":{"message":{"role":"assistant","content":[],"tool_plan":"","tool_calls":[],"citations":[]}}}

event: content-start
data: {"type":"content-start","index":0,"delta":{"message":{"content":{"type":"text","text":""}}}}

event: content-delta
data: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"Hel"}}}}

event: content-delta
data: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"lo"}}}}

event: content-end
data: {"type":"content-end","index":0}

event: message-end
data: {"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":3},"tokens":{"input_tokens":3,"output_tokens":2}}}}

data: [DONE]

"#;

const OLLAMA: &str = r#"{"model":"llama4","created_at":"2026-11-20T12:00:00.000000001Z","message":{"role":"assistant","content":"","thinking":"Hm"},"done":false}
{"model":"llama4","created_at":"2026-11-20T12:00:00.000000002Z","message":{"role":"assistant","content":"Hel"},"done":false}
{"model":"llama4","created_at":"2026-11-20T12:00:00.000000003Z","message":{"role":"assistant","content":"lo"},"done":false}
{"model":"llama4","created_at":"2026-11-20T12:00:00.000000004Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":5,"prompt_eval_count":3,"eval_count":2}
"#;
