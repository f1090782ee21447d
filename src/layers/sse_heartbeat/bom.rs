//! The byte order mark that comes behind a heartbeat.

use bytes::{Buf, Bytes};

use crate::proto::sse::Scanner;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// How much of a mark is held back, while it is not known whether it is one. What is held is the mark's own beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BomStripper {
    held: u8,
}

// === impl BomStripper ===

impl BomStripper {
    /// Shows `scanner` the upstream's bytes, and makes of them what may be forwarded. Nothing is held any more once
    /// `scanner` knows that no mark can come.
    pub(super) fn strip(&mut self, scanner: &mut Scanner, data: &mut Bytes) {
        scanner.scan(data);
        let rest = &BOM[usize::from(self.held)..];
        if scanner.bom_is_possible() {
            // All of it is a beginning of `rest`, which is at most three bytes long.
            self.held += u8::try_from(data.len()).unwrap_or(0);
            data.clear();
        } else if data.starts_with(rest) {
            data.advance(rest.len());
            self.held = 0;
        } else if self.held > 0 {
            *data = [&self.release(), &data[..]].concat().into();
        }
    }

    /// What was held, and is no mark.
    pub(super) fn release(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        Bytes::from_static(&BOM[..usize::from(held)])
    }

    pub(super) fn is_empty(self) -> bool {
        self.held == 0
    }
}
