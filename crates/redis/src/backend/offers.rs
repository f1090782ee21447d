//! The places of resumable answers.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tower_buttress::store::{Fingerprint, OfferedAnswer};

use super::{Flight, Process, Token};

/// An answer that callers come back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The call.
    pub flight: Flight,
    /// The digest of its request.
    pub payload: Fingerprint,
    /// The process that made the call and has the answer.
    pub owner: Process,
    /// What other processes must know of the answer.
    pub answer: OfferedAnswer,
    /// How long ago the call was claimed.
    pub age: Duration,
    /// Whether the answer has ended.
    pub has_ended: bool,
}

/// A request to the process that has an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ask {
    /// A caller came back: share the answer, or [forsake](super::Backend::forsake) it if it is gone.
    Return(Flight),
    /// A caller stops the call.
    Stop(Flight),
}

const RETURN: u8 = b'r';
const STOP: u8 = b's';

const HAS_IDS: u8 = 1;
const HAS_ENDED: u8 = 2;

// === impl Offered ===

impl Offered {
    /// Encodes everything but the age.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(137);
        bytes.put_slice(self.flight.key.as_bytes());
        bytes.put_slice(self.flight.token.as_bytes());
        bytes.put_slice(self.payload.as_bytes());
        bytes.put_slice(self.owner.as_bytes());
        bytes.put_slice(self.answer.tenant.as_bytes());
        bytes.put_u64_le(self.answer.number);
        let (ids, end) = (u8::from(self.answer.bears_ids) * HAS_IDS, u8::from(self.has_ended) * HAS_ENDED);
        bytes.put_u8(ids | end);
        bytes
    }

    pub(crate) fn decode(mut bytes: &[u8], age: Duration) -> Option<Self> {
        let key = fingerprint(&mut bytes)?;
        let token = Token::from_slice(take(&mut bytes, 16)?)?;
        let payload = fingerprint(&mut bytes)?;
        let owner = Process::from_slice(take(&mut bytes, 16)?)?;
        let tenant = fingerprint(&mut bytes)?;
        let number = bytes.try_get_u64_le().ok()?;
        let flags = bytes.try_get_u8().ok()?;
        let (bears_ids, has_ended) = (flags & HAS_IDS != 0, flags & HAS_ENDED != 0);
        let answer = OfferedAnswer::new(number, tenant, bears_ids);
        let flight = Flight { key, token };
        bytes.is_empty().then_some(Self { flight, payload, owner, answer, age, has_ended })
    }
}

// === impl Ask ===

impl Ask {
    /// Parses a message; `None`: it is not one of these.
    #[must_use]
    pub fn decode(mut message: &[u8]) -> Option<Self> {
        let key = fingerprint(&mut message)?;
        let flight = Flight { key, token: Token::from_slice(take(&mut message, 16)?)? };
        match message {
            [RETURN] => Some(Self::Return(flight)),
            [STOP] => Some(Self::Stop(flight)),
            _ => None,
        }
    }

    pub(crate) fn encode(self) -> Bytes {
        let (flight, kind) = match self {
            Self::Return(flight) => (flight, RETURN),
            Self::Stop(flight) => (flight, STOP),
        };
        [&flight.key.as_bytes()[..], flight.token.as_bytes(), &[kind]].concat().into()
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn fingerprint(bytes: &mut &[u8]) -> Option<Fingerprint> {
    take(bytes, 32)?.try_into().ok().map(Fingerprint::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let fingerprint = |byte| Fingerprint::from_bytes([byte; 32]);
        let flight = Flight { key: fingerprint(1), token: Token::random() };
        for bears_ids in [true, false] {
            let answer = OfferedAnswer::new(u64::MAX - 1, fingerprint(3), bears_ids);
            let (payload, owner, age) = (fingerprint(2), Process::random(), Duration::from_millis(7));
            let offered = Offered { flight, payload, owner, answer, age, has_ended: !bears_ids };
            let mut bytes = offered.encode();
            assert_eq!(Offered::decode(&bytes, age), Some(offered));
            assert_eq!(Offered::decode(&bytes[1..], age), None);
            bytes.push(0);
            assert_eq!(Offered::decode(&bytes, age), None);
        }
        for ask in [Ask::Return(flight), Ask::Stop(flight)] {
            assert_eq!(Ask::decode(&ask.encode()), Some(ask));
            assert_eq!(super::super::Want::decode(&ask.encode()), None);
        }
    }
}
