//! The names of keys and channels in Redis.

use bytes::Bytes;
use tower_buttress::store::Fingerprint;

use super::circuits::{CircuitGroup, CircuitId};
use super::{Flight, Process, Token};
use crate::ids::hex;

/// A request to a process to share this flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want(pub Flight);

/// The version of keys and values. Processes with different versions share nothing.
const VERSION: &str = "1";

/// Builds names. The braces put a key and its flights into one cluster slot.
pub(super) struct Names<'a> {
    pub(super) prefix: &'a str,
}

// === impl Want ===

impl Want {
    /// Parses a message; `None`: it is not one of these.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        let (key, token) = message.split_first_chunk::<32>()?;
        Some(Self(Flight { key: Fingerprint::from_bytes(*key), token: Token::from_slice(token)? }))
    }
}

pub(crate) fn encode_want(want: Want) -> Bytes {
    [&want.0.key.as_bytes()[..], want.0.token.as_bytes()].concat().into()
}

/// The log of a flight, from the name of its [`meta`](Names::meta).
pub(super) fn log_of(meta: &[u8], token: Token) -> Option<Vec<u8>> {
    let flight = meta.strip_suffix(b"m")?;
    Some([flight, b"r:", hex(token.as_bytes()).as_bytes()].concat())
}

// === impl Names ===

impl Names<'_> {
    /// The holder of a key, and its state.
    pub(super) fn meta(&self, key: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{key}}}:m", self.prefix).into()
    }

    /// The log of a flight.
    pub(super) fn log(&self, flight: &Flight) -> Vec<u8> {
        format!("{}:{VERSION}:{{{}}}:r:{}", self.prefix, flight.key, hex(flight.token.as_bytes())).into()
    }

    /// The place of a token's answer.
    pub(super) fn offer(&self, token: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{token}}}:h", self.prefix).into()
    }

    /// A last good answer.
    pub(super) fn last_good(&self, exact: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{exact}}}:g", self.prefix).into()
    }

    /// The request of the latest last good answer of a normal form.
    pub(super) fn last_normal(&self, normal: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{normal}}}:n", self.prefix).into()
    }

    /// The bytes of a tenant's last good answers, by expiry.
    pub(super) fn last_good_of(&self, tenant: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{tenant}}}:y", self.prefix).into()
    }

    /// The pattern of all data of callers: answers, last good answers, and places of resumable answers.
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

    /// The channel on which processes learn what to forget.
    pub(super) fn forgotten(&self) -> Vec<u8> {
        format!("{}:{VERSION}:f", self.prefix).into()
    }

    /// The bytes of a tenant's kept answers, by expiry.
    pub(super) fn tenant(&self, tenant: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{tenant}}}:u", self.prefix).into()
    }

    /// Where the answer with this name counts: kept answers and last good ones have a quota.
    pub(super) fn quota_of(&self, answer: &[u8], tenant: &Fingerprint) -> Option<Vec<u8>> {
        match answer.last()? {
            b'm' => Some(self.tenant(tenant)),
            b'g' => Some(self.last_good_of(tenant)),
            _ => None,
        }
    }

    /// A tenant's logs in flight, by expiry.
    pub(super) fn logs(&self, tenant: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{tenant}}}:q", self.prefix).into()
    }

    /// The bytes of a tenant's logs in flight.
    pub(super) fn log_bytes(&self, tenant: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{tenant}}}:z", self.prefix).into()
    }

    /// The channel of a flight.
    pub(super) fn channel(&self, flight: &Flight) -> Vec<u8> {
        format!("{}:{VERSION}:{{{}}}:c:{}", self.prefix, flight.key, hex(flight.token.as_bytes())).into()
    }

    /// The state of a circuit: `v` votes, `a` processes that use it, `b` its state, `l` the lease of the probe, `o` an
    /// operator's order.
    pub(super) fn circuit(&self, circuit: CircuitId, what: char) -> Vec<u8> {
        format!("{}:{VERSION}:{{{}}}:{what}", self.prefix, circuit.hex()).into()
    }

    /// The channel of all circuits with a name.
    pub(super) fn group(&self, group: CircuitGroup) -> Vec<u8> {
        format!("{}:{VERSION}:b:{}", self.prefix, group.hex()).into()
    }

    /// The pause of a limit.
    pub(super) fn pause(&self, limit: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{limit}}}:w", self.prefix).into()
    }

    /// The used part of a rate.
    pub(super) fn rate(&self, limit: &Fingerprint, name: &str) -> Vec<u8> {
        format!("{}:{VERSION}:{{{limit}}}:t:{name}", self.prefix).into()
    }

    /// The record that a request to take or return was done.
    pub(super) fn request(&self, limit: &Fingerprint, request: Token) -> Vec<u8> {
        format!("{}:{VERSION}:{{{limit}}}:d:{}", self.prefix, hex(request.as_bytes())).into()
    }

    /// The processes that share rates.
    pub(super) fn processes(&self) -> Vec<u8> {
        format!("{}:{VERSION}:n", self.prefix).into()
    }

    /// A conversation: `i` its newest message, `s` the superseded ones.
    pub(super) fn conversation(&self, conversation: &Fingerprint, what: char) -> Vec<u8> {
        format!("{}:{VERSION}:{{{conversation}}}:{what}", self.prefix).into()
    }

    /// A tenant's conversations, by expiry.
    pub(super) fn conversations_of(&self, tenant: &Fingerprint) -> Vec<u8> {
        format!("{}:{VERSION}:{{{tenant}}}:k", self.prefix).into()
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
