//! Reads the log of a call that another process makes.

use std::time::Duration;

use tokio::time::Instant;
use tower_buttress::store::{BodyPart, Head, Lease, MemoryLease, Recorder};

use super::wire::{Damaged, Decoder, HeadRecord, LogRecord};

/// The local log, and the position in the remote one.
pub(super) struct Feed {
    pub(super) recorder: Recorder,
    pub(super) memory: Option<MemoryLease>,
    pub(super) decoder: Decoder,
    /// How much of the remote log was read.
    pub(super) read: u64,
    pub(super) has_head: bool,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// More will come.
    More,
    /// The answer is whole.
    Whole,
    /// The call failed.
    Failed,
}

// === impl Feed ===

impl Feed {
    pub(super) fn new(recorder: Recorder, memory: Option<MemoryLease>, decoder: Decoder) -> Self {
        Self { recorder, memory, decoder, read: 0, has_head: false }
    }

    /// Decodes bytes into the local log, as fast as it is read. `age`: the flight's age, and when it had that age.
    pub(super) async fn take(&mut self, bytes: &[u8], age: (Duration, Instant)) -> Result<Fed, Damaged> {
        self.read += bytes.len() as u64;
        self.decoder.push(bytes);
        while let Some(record) = self.decoder.next()? {
            match record {
                LogRecord::Head(head) => {
                    self.has_head = true;
                    self.recorder.head(head_of(head, age));
                }
                LogRecord::Part(part) => self.part(part).await,
                LogRecord::End => return Ok(Fed::Whole),
                LogRecord::Fail => return Ok(Fed::Failed),
            }
        }
        Ok(Fed::More)
    }

    async fn part(&mut self, part: BodyPart) {
        self.recorder.ready().await;
        self.recorder.part(part);
        let held = self.recorder.held_bytes();
        if self.memory.as_mut().is_some_and(|memory| !memory.resize(held)) {
            self.recorder.stop_recording();
        }
    }
}

fn head_of(head: HeadRecord, (age, found): (Duration, Instant)) -> Head {
    let now = Instant::now();
    let age = (age + now.saturating_duration_since(found)).saturating_sub(head.after);
    let HeadRecord { status, version, headers, served_by, attempts, invalid, .. } = head;
    let head = Head::new(status, version, headers, now.into_std()).with_age(age).with_attempts(attempts);
    let head = served_by.into_iter().fold(head, Head::with_served_by);
    invalid.into_iter().fold(head, Head::with_invalid_output)
}
