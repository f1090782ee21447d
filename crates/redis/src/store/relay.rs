//! Writes the answer to a call of this process into its log in Redis: live while another process reads it, or at its
//! end.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;
use tower_buttress::store::{Fingerprint, LogReader, ResponseLog};

use super::inner::StoreSettings;
use super::wire::Encoder;
use crate::backend::{Appended, Backend, BackendError, Flight, LogShare};

pub(super) struct Relay {
    flight: Flight,
    payload: Fingerprint,
    tenant: Fingerprint,
    log: ResponseLog,
    settings: StoreSettings,
    claimed: Instant,
    /// How much Redis has.
    written: u64,
    /// How often Redis had less than that.
    restarts: u32,
    /// A follower waits for the message that it has read everything recorded when it asked.
    owes_mark: bool,
    state: State,
}

enum State {
    /// No other process reads it.
    Idle,
    Writing(Box<Writing>),
    /// All of it is written.
    Written,
    /// It can no longer be shared.
    Outgrown,
}

struct Writing {
    reader: LogReader,
    encoder: Encoder,
    /// The bytes to send next.
    out: BytesMut,
    /// The bytes of `out`, and of what follows, that Redis already has.
    skip: u64,
    has_head: bool,
    /// Everything recorded is in `out`.
    is_at_tip: bool,
    /// The last record of the answer is in `out`.
    has_ended: bool,
    is_too_long: bool,
    /// Since when Redis has not answered. The next tick sends `out` again.
    waiting: Option<Instant>,
    /// Consecutive messages without a receiver.
    unheard: u32,
    sent: Instant,
}

/// The result of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendResult {
    On,
    /// The answer is too long to be shared, or its followers were too slow.
    Outgrown,
    /// Redis has no room for more.
    Refused,
}

/// Limit of one command, which must be answered within the backend's patience.
const CHUNK: usize = 64 * 1024;

/// Followers get a sign of life after this long without other messages.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// The relay ends after this number of messages without a subscriber.
const UNHEARD: u32 = 2;

/// The relay ends after this long without an answer of Redis: its followers have given up by then.
const UNREACHABLE: Duration = Duration::from_secs(12);

/// Limit of losses in Redis; then the relay ends.
const MAX_RESTARTS: u32 = 8;

// === impl Relay ===

impl Relay {
    pub(super) fn new(
        flight: Flight,
        payload: Fingerprint,
        tenant: Fingerprint,
        log: ResponseLog,
        settings: StoreSettings,
    ) -> Self {
        Self {
            flight,
            payload,
            tenant,
            log,
            settings,
            claimed: Instant::now(),
            written: 0,
            restarts: 0,
            owes_mark: false,
            state: State::Idle,
        }
    }

    pub(super) fn is_sharing(&self) -> bool {
        match self.state {
            State::Writing(_) => true,
            // Redis may have lost it meanwhile.
            State::Written => self.owes_mark,
            State::Idle | State::Outgrown => false,
        }
    }

    /// From now on the log counts as this tenant's.
    pub(super) fn set_tenant(&mut self, tenant: Fingerprint) {
        self.tenant = tenant;
    }

    /// One answer of any length always has room.
    fn share(&self) -> LogShare {
        LogShare { tenant: self.tenant, bytes: self.settings.tenant_bytes.max(self.settings.max_log) }
    }

    /// Another process follows the call. Returns whether the answer can still be shared.
    pub(super) fn begin(&mut self) -> bool {
        self.owes_mark = true;
        match &mut self.state {
            State::Writing(writing) => writing.unheard = 0,
            State::Written => {}
            State::Outgrown => return false,
            State::Idle => {
                self.restarts = 0;
                self.open(true);
            }
        }
        !matches!(self.state, State::Outgrown)
    }

    /// Redis lost the log: write all of it again.
    pub(super) fn restart(&mut self) {
        self.written = 0;
        self.state = State::Idle;
    }

    fn open(&mut self, listening: bool) {
        self.state = match self.log.observer() {
            Some(mut reader) => {
                if listening && !reader.listen(true) {
                    State::Outgrown
                } else {
                    State::Writing(Box::new(Writing::new(reader, self.flight.key, self.payload, self.written)))
                }
            }
            None => State::Outgrown,
        };
    }

    /// Waits until there is something to send.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub(super) async fn gather(&mut self) {
        let (claimed, log) = (self.claimed, &self.log);
        match &mut self.state {
            State::Written if self.owes_mark => {}
            State::Writing(writing) if writing.waiting.is_none() && self.owes_mark => {
                poll_fn(|cx| {
                    let _ = writing.poll_gather(cx, claimed, log);
                    Poll::Ready(())
                })
                .await;
            }
            State::Writing(writing) if writing.waiting.is_none() => {
                poll_fn(|cx| writing.poll_gather(cx, claimed, log)).await;
            }
            _ => std::future::pending().await,
        }
    }

    /// Sends the gathered bytes, or a sign of life.
    pub(super) async fn send<B: Backend>(&mut self, backend: &B) -> SendResult {
        if matches!(self.state, State::Written) && self.owes_mark {
            self.look_again(backend).await;
        }
        let owes_mark = self.owes_mark;
        let writing = match &mut self.state {
            State::Writing(writing) => writing,
            // The bytes to write again are no longer recorded.
            State::Outgrown => return SendResult::Outgrown,
            State::Idle | State::Written => return SendResult::On,
        };
        if writing.is_too_long || self.written + writing.out.len() as u64 > self.settings.max_log {
            self.state = State::Outgrown;
            return SendResult::Outgrown;
        }
        // Before a mark an empty piece is sent, to check that Redis still has everything before it.
        if writing.out.is_empty() && !writing.has_ended && !owes_mark && writing.sent.elapsed() < SIGN_OF_LIFE {
            return SendResult::On;
        }
        match self.append(backend).await {
            Ok(()) => {
                let is_at_tip = match &self.state {
                    State::Writing(writing) => writing.is_at_tip && writing.out.is_empty(),
                    State::Written => true,
                    State::Idle | State::Outgrown => false,
                };
                if self.owes_mark && is_at_tip {
                    self.mark(backend).await;
                }
            }
            Err(BackendError::Unreachable) => {
                if let State::Writing(writing) = &mut self.state {
                    let since = *writing.waiting.get_or_insert_with(Instant::now);
                    if since.elapsed() >= UNREACHABLE {
                        self.state = State::Idle;
                        return SendResult::On;
                    }
                    // Callers of this process do not wait for Redis.
                    if self.log.listeners() > 1 {
                        writing.reader.listen(false);
                    }
                }
            }
            Err(BackendError::Refused(_)) => {
                self.state = State::Outgrown;
                return SendResult::Refused;
            }
        }
        if matches!(self.state, State::Outgrown) { SendResult::Outgrown } else { SendResult::On }
    }

    /// Tells followers that later messages are new.
    async fn mark<B: Backend>(&mut self, backend: &B) {
        // If the message is lost, they ask again.
        self.owes_mark = false;
        let _ = backend.mark(self.flight, self.written).await;
    }

    /// Everything was written, perhaps long ago. Checks whether Redis still has it.
    async fn look_again<B: Backend>(&mut self, backend: &B) {
        match backend.append(self.flight, self.written, Bytes::new(), self.settings.lease * 3, self.share()).await {
            Ok(Appended::Rewind { length }) => {
                (self.written, self.restarts) = (length, 0);
                self.open(true);
            }
            Ok(Appended::Written { .. }) => self.mark(backend).await,
            Ok(Appended::NoRoom) | Err(_) => self.owes_mark = false,
        }
    }

    async fn append<B: Backend>(&mut self, backend: &B) -> Result<(), BackendError> {
        let share = self.share();
        let State::Writing(writing) = &mut self.state else { return Ok(()) };
        let bytes = Bytes::copy_from_slice(&writing.out[..writing.out.len().min(CHUNK)]);
        let bytes_sent = bytes.len();
        match backend.append(self.flight, self.written, bytes, self.settings.lease * 3, share).await? {
            Appended::Written { receivers } => {
                self.written += bytes_sent as u64;
                writing.out.advance(bytes_sent);
                writing.sent = Instant::now();
                writing.unheard = if receivers == 0 { writing.unheard + 1 } else { 0 };
                let is_lost = writing.waiting.take().is_some() && !writing.reader.listen(true);
                if writing.has_ended && writing.out.is_empty() {
                    self.state = State::Written;
                } else if writing.unheard >= UNHEARD {
                    self.state = State::Idle;
                } else if is_lost {
                    self.state = State::Outgrown;
                }
            }
            Appended::NoRoom => {
                return Err(BackendError::Refused("the tenant's answers in flight have used its quota".into()));
            }
            // Redis lost some of it; write it again from the local record.
            Appended::Rewind { length } => {
                self.restarts += 1;
                if self.restarts > MAX_RESTARTS {
                    return Err(BackendError::Refused("the backend keeps losing the answer".into()));
                }
                self.written = length;
                self.open(true);
            }
        }
        Ok(())
    }

    /// Writes all of it, and returns its length.
    pub(super) async fn finish<B: Backend>(&mut self, backend: &B) -> Result<u64, BackendError> {
        loop {
            match &mut self.state {
                State::Written => return Ok(self.written),
                State::Idle | State::Outgrown => {
                    self.open(false);
                    if !self.is_sharing() {
                        return Err(BackendError::Refused("the answer is no longer recorded".into()));
                    }
                }
                State::Writing(writing) => {
                    let (claimed, log) = (self.claimed, &self.log);
                    poll_fn(|cx| writing.poll_gather(cx, claimed, log)).await;
                    if writing.is_too_long || self.written + writing.out.len() as u64 > self.settings.max_log {
                        return Err(BackendError::Refused("the answer is too long".into()));
                    }
                    // It is written to be kept, with or without receivers.
                    writing.unheard = 0;
                    self.append(backend).await?;
                }
            }
        }
    }
}

// === impl Writing ===

impl Writing {
    fn new(reader: LogReader, key: Fingerprint, payload: Fingerprint, skip: u64) -> Self {
        let mut out = BytesMut::new();
        let encoder = Encoder::begin(&key, &payload, &mut out);
        let mut this = Self {
            reader,
            encoder,
            out,
            skip,
            has_head: false,
            is_at_tip: false,
            has_ended: false,
            is_too_long: false,
            waiting: None,
            unheard: 0,
            sent: Instant::now(),
        };
        this.skip_written();
        this
    }

    fn skip_written(&mut self) {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(self.out.len());
        self.skip -= skipped as u64;
        drop(self.out.split_to(skipped));
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>, claimed: Instant, log: &ResponseLog) -> Poll<()> {
        self.is_at_tip = self.has_ended;
        while self.out.len() < CHUNK && !self.has_ended && !self.is_too_long {
            let read = self.poll_record(cx, claimed, log);
            self.skip_written();
            self.is_at_tip = read.is_pending() || self.has_ended;
            if read.is_pending() {
                // With nothing to send, do not wake.
                return if self.out.is_empty() { Poll::Pending } else { Poll::Ready(()) };
            }
        }
        Poll::Ready(())
    }

    fn poll_record(&mut self, cx: &mut Context<'_>, claimed: Instant, log: &ResponseLog) -> Poll<()> {
        let next = if self.has_head {
            ready!(self.reader.poll_part(cx)).map(|part| part.map(|part| self.encoder.part(&part, &mut self.out)))
        } else {
            Some(ready!(self.reader.poll_head(cx)).map(|head| {
                self.has_head = true;
                let now = Instant::now();
                let after = now.saturating_duration_since(claimed).saturating_sub(head.age(now.into_std()));
                self.encoder.head(&head, after, &mut self.out)
            }))
        };
        match next {
            Some(Ok(is_short)) => self.is_too_long = !is_short,
            None => {
                self.encoder.end(&mut self.out);
                self.has_ended = true;
            }
            Some(Err(_)) if log.has_failed() => {
                self.encoder.fail(&mut self.out);
                self.has_ended = true;
            }
            // The answer continues, but this reader was too slow and missed a part.
            Some(Err(_)) => self.is_too_long = true,
        }
        Poll::Ready(())
    }
}
