//! Kept answers of any process.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tower_buttress::store::{Fingerprint, Lease, MemoryLease, Recorder, Retention};

use super::feed::{Fed, Feed};
use super::settling::Undecided;
use super::wire::{Decoder, LogRecord};
use crate::backend::{Backend, BackendError, Flight};

/// A kept answer, as far as it was read.
#[derive(Debug)]
pub(super) struct Replayed {
    flight: Flight,
    payload: Fingerprint,
    first: Bytes,
    is_all: bool,
}

/// The read size. A shorter answer is read whole before the claim returns, a longer one at least to the end of its head.
const CHUNK: usize = 256 * 1024;

// === impl Replayed ===

impl Replayed {
    /// Reads the first part; `None`: it is gone, or does not belong to this request.
    pub(super) async fn read<B: Backend>(
        backend: &B,
        flight: Flight,
        payload: Fingerprint,
    ) -> Result<Option<Self>, BackendError> {
        let mut decoder = Decoder::new(flight.key, payload);
        let mut first = Bytes::new();
        loop {
            let bytes = backend.read(flight, first.len() as u64, CHUNK).await?;
            let is_all = bytes.len() < CHUNK;
            decoder.push(&bytes);
            first = if first.is_empty() { bytes } else { [first, bytes].concat().into() };
            match begin(&mut decoder) {
                ReadSoFar::Answer => return Ok(Some(Self { flight, payload, first, is_all })),
                ReadSoFar::Head if !is_all => return Ok(Some(Self { flight, payload, first, is_all })),
                ReadSoFar::Nothing if !is_all => {}
                ReadSoFar::Head | ReadSoFar::Nothing | ReadSoFar::Damaged => return Ok(None),
            }
        }
    }

    /// Feeds a log with it. If the whole answer was read, it is also kept here, and `undecided` lives until then.
    #[allow(clippy::too_many_arguments, reason = "each is another thing, and this is the only caller's call")]
    pub(super) fn feed<B: Backend>(
        self,
        backend: B,
        recorder: Recorder,
        memory: MemoryLease,
        undecided: Undecided,
        age: Duration,
        ttl: Duration,
        tenant: Fingerprint,
    ) {
        let now = Instant::now();
        // This process does not keep a longer answer; its next claim asks Redis again.
        let (memory, undecided) = if self.is_all { (Some(memory), Some(undecided)) } else { (None, None) };
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
                        let _ = backend.discard(self.flight, tenant).await;
                        return feed.recorder.fail("the kept answer is incomplete");
                    }
                    Ok(Fed::More) => {}
                }
                bytes = match backend.read(self.flight, feed.read, CHUNK).await {
                    Ok(bytes) if !bytes.is_empty() => bytes,
                    Ok(_) => {
                        let _ = backend.discard(self.flight, tenant).await;
                        return feed.recorder.fail("the kept answer is gone");
                    }
                    Err(_) => return feed.recorder.fail("the kept answer is gone"),
                };
            }
        });
    }
}

/// What the bytes read so far are.
enum ReadSoFar {
    /// The whole answer.
    Answer,
    /// The head of an answer, and perhaps a part of its body.
    Head,
    /// Less than that.
    Nothing,
    /// No answer to this request.
    Damaged,
}

fn begin(decoder: &mut Decoder) -> ReadSoFar {
    let mut has_head = false;
    loop {
        match decoder.next() {
            Ok(Some(LogRecord::End)) => return ReadSoFar::Answer,
            Ok(Some(LogRecord::Fail)) | Err(_) => return ReadSoFar::Damaged,
            Ok(Some(_)) => has_head = true,
            Ok(None) if has_head => return ReadSoFar::Head,
            Ok(None) => return ReadSoFar::Nothing,
        }
    }
}
