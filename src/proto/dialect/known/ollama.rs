//! Ollama's own API: `https://github.com/ollama/ollama/blob/main/docs/api.md`.

use serde_json::{Map, Value};

use super::{Facts, delta, json, list, number, object, some_text, text};
use crate::proto::dialect::end::End;
use crate::proto::dialect::event::StreamEvent;
use crate::proto::dialect::fact::{Channel, Fact, Usage};
use crate::proto::dialect::fault::Fault;
use crate::proto::dialect::kind::Kind;
use crate::proto::dialect::reader::Dialect;

#[derive(Debug, Default)]
pub(super) struct Ollama {
    started: bool,
}

// === impl Ollama ===

impl Ollama {
    fn read(&mut self, event: &StreamEvent<'_>, line: &Map<String, Value>, facts: &mut Facts<'_>) {
        if let Some(fault) = Fault::inside(line) {
            return facts(Fact::Failed(fault));
        }
        if let Some(model) = some_text(line, "model").filter(|_| !self.started) {
            self.started = true;
            facts(Fact::started(None, Some(model)));
        }
        let mut said = false;
        let mut say = |channel, text: &str| {
            said = true;
            facts(delta(event, 0, channel, text));
        };
        // `/api/generate` has no message.
        let message = object(line, "message").unwrap_or(line);
        if let Some(text) = some_text(message, "thinking") {
            say(Channel::Reasoning, text);
        }
        if let Some(text) = some_text(message, "content").or_else(|| some_text(message, "response")) {
            say(Channel::Text, text);
        }
        for (index, call) in (0..).zip(list(message, "tool_calls").into_iter().flatten()) {
            let name = call.get("function").and_then(|function| function.get("name")).and_then(Value::as_str);
            say(Channel::tool_call(index), name.unwrap_or_default());
        }
        if line.get("done") != Some(&Value::Bool(true)) {
            if !said {
                facts(if Kind::Ollama.writes("", line) { Fact::KeepAlive } else { Fact::Other });
            }
            return;
        }
        let (input, output) = (number(line, "prompt_eval_count"), number(line, "eval_count"));
        if input.is_some() || output.is_some() {
            facts(Fact::Usage(Usage::new(input, output)));
        }
        facts(match text(line, "done_reason") {
            // The request only loaded or unloaded the model.
            Some("stop" | "load" | "unload") => Fact::Ended(End::Whole),
            Some("length") => Fact::Ended(End::Limit),
            // The connection to the process that runs the model was lost.
            Some("") => Fact::Failed(Fault::of_code("runner_connection_closed")),
            Some(_) => Fact::Ended(End::Unknown),
            // Old versions; also new ones after losing the runner, since they omit empty members.
            None => Fact::Marker,
        });
    }
}

impl Dialect for Ollama {
    fn event(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        match json::parse(event.data) {
            Some(Value::Object(line)) => self.read(event, &line, facts),
            _ => facts(Fact::Unreadable),
        }
    }

    fn answer(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        self.event(event, facts);
    }

    fn end(&mut self, _: &mut Facts<'_>) {}
}
