//! A byte order mark that arrives after a heartbeat, where a reader would take it for content.

use bytes::{Buf, Bytes};

use crate::proto::sse::Scanner;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Removes a byte order mark. Counts the bytes that are held until it is known whether they are one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BomStripper {
    held: u8,
}

// === impl BomStripper ===

impl BomStripper {
    /// Scans the upstream's bytes, and reduces them to those that may be forwarded. Holds no bytes once `scanner` knows
    /// that no mark can come.
    pub(super) fn strip(&mut self, scanner: &mut Scanner, data: &mut Bytes) {
        scanner.scan(data);
        let rest = &BOM[usize::from(self.held)..];
        if scanner.bom_is_possible() {
            // `data` is a prefix of `rest`, which is at most three bytes long.
            self.held += u8::try_from(data.len()).unwrap_or(0);
            data.clear();
        } else if data.starts_with(rest) {
            data.advance(rest.len());
            self.held = 0;
        } else if self.held > 0 {
            *data = [&self.release(), &data[..]].concat().into();
        }
    }

    /// Returns the held bytes, if they are not a mark.
    pub(super) fn release(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        Bytes::from_static(&BOM[..usize::from(held)])
    }

    pub(super) fn is_empty(self) -> bool {
        self.held == 0
    }
}
