//! Kept answers of any process.

use std::time::Duration;

use tokio::time::Instant;
use tower_buttress::store::{Fingerprint, Lease, MemoryLease, Recorder, Retention};

use super::feed::{Fed, Feed};
use super::settling::Undecided;
use super::wire::{Decoder, Record};
use crate::backend::{Backend, BackendError, Flight};

/// A kept answer, as far as it was read.
#[derive(Debug)]
pub(super) struct Replayed {
    flight: Flight,
    payload: Fingerprint,
    first: bytes::Bytes,
}

/// The read size. A shorter answer is read whole before the claim returns.
const CHUNK: usize = 256 * 1024;

// === impl Replayed ===

impl Replayed {
    /// Reads the first part; `None`: it is gone, or does not belong to this request.
    pub(super) async fn read<B: Backend>(
        backend: &B,
        flight: Flight,
        payload: Fingerprint,
    ) -> Result<Option<Self>, BackendError> {
        let first = backend.read(flight, 0, CHUNK).await?;
        let mut decoder = Decoder::new(flight.key, payload);
        decoder.push(&first);
        Ok(is_sound(decoder, first.len() < CHUNK).then_some(Self { flight, payload, first }))
    }

    /// Feeds a log with it. If the whole answer was read, it is also kept here, and `undecided` lives until then.
    pub(super) fn feed<B: Backend>(
        self,
        backend: B,
        recorder: Recorder,
        memory: MemoryLease,
        undecided: Undecided,
        age: Duration,
        ttl: Duration,
    ) {
        let now = Instant::now();
        let is_all = self.first.len() < CHUNK;
        // This process does not keep a longer answer; its next claim asks Redis again.
        let (memory, undecided) = if is_all { (Some(memory), Some(undecided)) } else { (None, None) };
        let mut feed = Feed::new(recorder, memory, Decoder::new(self.flight.key, self.payload));
        tokio::spawn(async move {
            let _undecided = undecided;
            let mut bytes = self.first;
            loop {
                match feed.take(&bytes, (age, now)).await {
                    Ok(Fed::Whole) => {
                        if let Some(memory) = feed.memory.take() {
                            memory.keep(Retention::new(now.into_std(), ttl));
                        }
                        return feed.recorder.finish();
                    }
                    Ok(Fed::Failed) | Err(_) => {
                        // The next claim makes the call.
                        let _ = backend.discard(self.flight).await;
                        return feed.recorder.fail("the kept answer is incomplete");
                    }
                    Ok(Fed::More) => {}
                }
                bytes = match backend.read(self.flight, feed.read, CHUNK).await {
                    Ok(bytes) if !bytes.is_empty() => bytes,
                    Ok(_) => {
                        let _ = backend.discard(self.flight).await;
                        return feed.recorder.fail("the kept answer is gone");
                    }
                    Err(_) => return feed.recorder.fail("the kept answer is gone"),
                };
            }
        });
    }
}

/// Whether these bytes begin an answer, and are a valid one if they are all of it.
fn is_sound(mut decoder: Decoder, is_all: bool) -> bool {
    let mut has_head = false;
    loop {
        match decoder.next() {
            Ok(Some(Record::End)) => return true,
            Ok(Some(Record::Fail)) | Err(_) => return false,
            Ok(Some(_)) => has_head = true,
            Ok(None) => return has_head && !is_all,
        }
    }
}
