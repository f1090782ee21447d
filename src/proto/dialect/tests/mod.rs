//! What streams of LLM APIs say, wherever they are cut.

use crate::proto::dialect::{Channel, Dialect, End, Fact, Framing, Kind, StreamReader};

mod cuts;
mod foreign;
mod golden;
mod traps;

/// What a stream in these chunks says that ends behind them.
struct Read {
    facts: Vec<String>,
    text: String,
    ended: Option<End>,
    closed: bool,
}

fn read<'a>(mut reader: StreamReader, chunks: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut facts = Vec::new();
    let mut said = String::new();
    let mut note = |fact: Fact<'_>| {
        facts.push(match &fact {
            Fact::Delta { choice, channel, text, .. } => {
                if *channel == Channel::Text {
                    said += &text.decode();
                }
                format!("{choice} {channel:?} {:?}", text.decode())
            }
            Fact::Failed(fault) => format!("{fault:?} {:?}", fault.message()),
            other => format!("{other:?}"),
        });
    };
    for chunk in chunks {
        reader.read(chunk, |fact, _| note(fact));
    }
    reader.end(|fact, _| note(fact));
    Read { facts, text: said, ended: reader.ended(), closed: reader.is_closed() }
}

fn at_once(kind: Kind, framing: Framing, stream: &str) -> Read {
    read(StreamReader::new(Some(kind), framing), [stream.as_bytes()])
}

/// A dialect whose events are all parsed: none is recognised by its likeness to another.
#[derive(Debug)]
struct Parsed(Box<dyn Dialect>);

impl Dialect for Parsed {
    fn event(&mut self, event: &crate::proto::dialect::StreamEvent<'_>, facts: &mut dyn FnMut(Fact<'_>)) {
        // Of a known dialect, the reader knows these before it asks the dialect.
        if event.is_sign_of_life() {
            return facts(Fact::KeepAlive);
        }
        self.0.event(event, facts);
    }

    fn end(&mut self, facts: &mut dyn FnMut(Fact<'_>)) {
        self.0.end(facts);
    }
}
