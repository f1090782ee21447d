//! Identifiers of leases and processes.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// Identifies a lease: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; 16]);

/// Identifies a process: 16 random bytes, drawn at its start.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process([u8; 16]);

// === impl Token ===

impl Token {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// An identifier that was received.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Token {
    // Hidden: it lets its holder write to a flight.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

// === impl Process ===

impl Process {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// An identifier that was received.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({})", hex(&self.0))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two hashes with keys from the operating system.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    for half in bytes.chunks_exact_mut(8) {
        half.copy_from_slice(&RandomState::new().hash_one(0).to_le_bytes());
    }
    bytes
}
