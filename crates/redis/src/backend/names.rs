//! What the keys and channels in Redis are called.

use bytes::Bytes;
use tower_buttress::store::Fingerprint;

use super::circuits::{CircuitGroup, CircuitId};
use super::{Flight, Process, Token};
use crate::ids::hex;

/// What a process is asked for: to share this flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want(pub Flight);

/// The version of keys and values. Processes with another share nothing with this one.
const VERSION: &str = "1";

/// The names of what Redis holds. The braces put a key and its flights into one slot of a cluster.
pub(super) struct Names<'a> {
    pub(super) prefix: &'a str,
}

// === impl Want ===

impl Want {
    /// Reads what was sent. `None`: it is no such message.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        let (key, token) = message.split_first_chunk::<32>()?;
        Some(Self(Flight { key: Fingerprint::from_bytes(*key), token: Token::from_slice(token)? }))
    }
}

pub(crate) fn encode_want(want: Want) -> Bytes {
    [&want.0.key.as_bytes()[..], want.0.token.as_bytes()].concat().into()
}

/// The log of a flight, by the name of its [`meta`](Names::meta).
pub(super) fn log_of(meta: &[u8], token: Token) -> Option<Vec<u8>> {
    let flight = meta.strip_suffix(b"m")?;
    Some([flight, b"r:", hex(token.as_bytes()).as_bytes()].concat())
}

// === impl Names ===

impl Names<'_> {
    /// Who has the key, and what became of it.
    pub(super) fn meta(&self, key: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{key}}}:m", self.prefix).into()
    }

    /// The log of a flight.
    pub(super) fn log(&self, flight: &Flight) -> Vec<u8> {
        format!("{}:{VERSION}:{{{}}}:r:{}", self.prefix, flight.key, hex(flight.token.as_bytes())).into()
    }

    /// Where the answer is that a caller was given this token for.
    pub(super) fn offer(&self, token: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{token}}}:h", self.prefix).into()
    }

    /// A last good answer.
    pub(super) fn last_good(&self, exact: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{exact}}}:g", self.prefix).into()
    }

    /// Of which request the last good answer of a normal form is.
    pub(super) fn last_normal(&self, normal: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{normal}}}:n", self.prefix).into()
    }

    /// How many bytes of last good answers a tenant has, by when they expire.
    pub(super) fn last_good_of(&self, tenant: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{tenant}}}:y", self.prefix).into()
    }

    /// What is kept of callers: answers, last good ones, and where those are that callers come back to. As a pattern.
    pub(super) fn kept(&self) -> String {
        let mut prefix = String::new();
        for letter in self.prefix.chars() {
            if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^') {
                prefix.push('\\');
            }
            prefix.push(letter);
        }
        format!("{prefix}:{VERSION}:{{*}}:[mgh]")
    }

    /// The channel on which processes are told to forget.
    pub(super) fn forgotten(&self) -> Vec<u8> {
        format!("{}:{VERSION}:f", self.prefix).into()
    }

    /// How many bytes of kept answers a tenant has, by when they expire.
    pub(super) fn tenant(&self, tenant: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{tenant}}}:u", self.prefix).into()
    }

    /// The channel of a flight.
    pub(super) fn channel(&self, flight: &Flight) -> Vec<u8> {
        format!("{}:{VERSION}:{{{}}}:c:{}", self.prefix, flight.key, hex(flight.token.as_bytes())).into()
    }

    /// What the fleet says of a circuit: `v` votes, `a` processes that have it, `b` its state, `l` the lease of the probe, `o`
    /// an operator's order.
    pub(super) fn circuit(&self, circuit: CircuitId, what: char) -> Vec<u8> {
        format!("{}:{VERSION}:{{{}}}:{what}", self.prefix, circuit.hex()).into()
    }

    /// The channel of all circuits of a name.
    pub(super) fn group(&self, group: CircuitGroup) -> Vec<u8> {
        format!("{}:{VERSION}:b:{}", self.prefix, group.hex()).into()
    }

    /// That the calls of a limit are paused.
    pub(super) fn pause(&self, limit: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{limit}}}:w", self.prefix).into()
    }

    /// What is taken of a rate.
    pub(super) fn rate(&self, limit: &Fingerprint, name: &str) -> Vec<u8> {
        format!("{}:{VERSION}:{{{limit}}}:t:{name}", self.prefix).into()
    }

    /// That a request to take or give back was done.
    pub(super) fn request(&self, limit: &Fingerprint, request: Token) -> Vec<u8> {
        format!("{}:{VERSION}:{{{limit}}}:d:{}", self.prefix, hex(request.as_bytes())).into()
    }

    /// The processes that there are.
    pub(super) fn processes(&self) -> Vec<u8> {
        format!("{}:{VERSION}:n", self.prefix).into()
    }

    /// Of a conversation: `i` its newest message, `s` those that were superseded.
    pub(super) fn conversation(&self, conversation: &Fingerprint, what: char) -> Vec<u8> {
        format!("{}:{VERSION}:{{{conversation}}}:{what}", self.prefix).into()
    }

    /// The channel of all conversations.
    pub(super) fn conversations(&self) -> Vec<u8> {
        format!("{}:{VERSION}:s", self.prefix).into()
    }

    /// The channel of all pauses.
    pub(super) fn pauses(&self) -> Vec<u8> {
        format!("{}:{VERSION}:w", self.prefix).into()
    }

    /// The channel of a process.
    pub(super) fn inbox(&self, process: &Process) -> Vec<u8> {
        format!("{}:{VERSION}:p:{}", self.prefix, hex(process.as_bytes())).into()
    }
}
