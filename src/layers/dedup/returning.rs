//! A caller that came back to an answer: skips the part that it has, and forwards the rest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_LOCATION};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};

use super::body::DedupBody;
use super::call_limit::{CallLimit, LimitReached};
use super::config::Config;
use super::offer::{self, Later};
use super::resumed::Resumed;
use super::role::DedupRole;
use crate::body::response::LayerBody;
use crate::call::Reservation;
use crate::error::{self, BoxError, LeaderGone};
use crate::event::Event;
use crate::proto::digests;
use crate::proto::prefer::Preferences;
use crate::proto::sse::{EventId, EventIds};
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;
use crate::store::answers;
use crate::store::{BodyPart, Head, LogReader, OfferedAnswer, ResponseLog, Stopped};

/// A caller that came back, until it has its head.
pub(super) struct Returning {
    log: ResponseLog,
    reader: Option<LogReader>,
    number: u64,
    bears_ids: bool,
    /// The caller wants only the head.
    is_head: bool,
    head: Option<Arc<Head>>,
    /// The last event that it has; `None`: it reads from the beginning.
    after: Option<EventId>,
    ids: Option<EventIds>,
    skipped: Skipped,
    /// Counts the data after the skipped part; `None`: the log holds it anyway.
    rest_charge: Option<Reservation>,
    /// The limit of the call for this caller.
    limit: Option<CallLimit>,
    later: Option<(Later, HeaderValue)>,
    format: RejectionFormat,
    config: Arc<Config>,
}

/// The skipped part.
#[derive(Default)]
struct Skipped {
    is_done: bool,
    /// The data after it.
    rest: VecDeque<BodyPart>,
    /// Searches it for an event, if the answer has ended, or may have.
    probe: Option<EventIds>,
}

/// The most bytes skipped in one poll.
const BYTES_PER_POLL: usize = 256 * 1024;

/// When to retry if it is unknown whether the answer exists, or there is no room for another caller.
const SOON: Duration = Duration::from_secs(1);

/// Adds a `Retry-After` if the answer may be available a moment later.
pub(super) fn rejection(kind: RejectionKind) -> Rejection {
    let rejection = Rejection::new(kind);
    match kind {
        RejectionKind::AnswerGone | RejectionKind::EventIdUnknown => rejection,
        _ => rejection.with_retry_after(SOON),
    }
}

/// Why an answer that was stopped, or that another process has, is not available; `None`: its call has failed.
fn not_had(why: &BoxError) -> Option<RejectionKind> {
    if error::find::<Stopped>(why).is_some() {
        return Some(RejectionKind::AnswerGone);
    }
    error::find::<LeaderGone>(why).map(|gone| match gone.is_unreachable {
        true => RejectionKind::SharedCallFailed,
        false => RejectionKind::AnswerGone,
    })
}

pub(super) fn status(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

// === impl Returning ===

impl Returning {
    /// `None`: the answer can no longer be read.
    pub(super) fn new(
        parts: &Parts,
        answer: OfferedAnswer,
        (log, cancellation): (ResponseLog, Option<Cancellation>),
        rest_charge: Option<Reservation>,
        after: Option<EventId>,
        config: &Arc<Config>,
    ) -> Option<Self> {
        let reader = log.return_reader()?.cancelled_by(cancellation.clone());
        let limit = CallLimit::of(&log, cancellation);
        config.emitter.emit(&Event::FlightResumed);
        let preferences = Preferences::of(&parts.headers);
        let respond_async = config.answers.as_ref().is_some_and(|answers| answers.settings().respond_async);
        let may_wait = respond_async && preferences.respond_async;
        let location = HeaderValue::from_str(parts.uri.path()).ok().filter(|_| may_wait).map(|mut location| {
            location.set_sensitive(true);
            location
        });
        Some(Self {
            log,
            reader: Some(reader),
            number: answer.number,
            bears_ids: answer.bears_ids,
            is_head: parts.method == Method::HEAD,
            head: None,
            after: after.filter(|id| id.offset > 0),
            ids: None,
            skipped: Skipped::default(),
            rest_charge,
            limit,
            later: location.map(|location| (Later::new(offer::wait(preferences.wait)), location)),
            format: RejectionFormat::of(&parts.headers),
            config: config.clone(),
        })
    }

    pub(super) fn poll<B>(&mut self, cx: &mut Context<'_>) -> Poll<Response<DedupBody<B>>> {
        let Some(reader) = &mut self.reader else { return Poll::Pending };
        let head = match &self.head {
            Some(head) => head.clone(),
            None => match reader.poll_head(cx) {
                Poll::Ready(Ok(head)) => {
                    let has_ids = self.bears_ids && answers::is_offered(head.status(), head.headers());
                    self.ids = has_ids.then(|| EventIds::new(self.number));
                    self.head.insert(head).clone()
                }
                Poll::Ready(Err(why)) => {
                    let rejection = match not_had(&why) {
                        Some(kind) => rejection(kind),
                        None => Rejection::new(RejectionKind::SharedCallFailed).with_source(why),
                    };
                    return Poll::Ready(self.refuse(rejection));
                }
                Poll::Pending => return self.poll_wait(cx),
            },
        };
        if let Some(after) = self.after {
            match ready!(self.poll_skip(after, cx)) {
                Ok(true) => {}
                Ok(false) if self.log.has_failed() => {
                    return Poll::Ready(self.refuse(rejection(RejectionKind::AnswerGone)));
                }
                // Everything was read: an `EventSource` stops on this status.
                Ok(false) => {
                    self.reader = None;
                    return Poll::Ready(status(StatusCode::NO_CONTENT).map(|()| DedupBody::over()));
                }
                Err(kind) => return Poll::Ready(self.refuse(rejection(kind))),
            }
        }
        let Some(reader) = self.reader.take() else { return Poll::Pending };
        let now = clock::now();
        let mut response = if self.log.has_ended() { head.to_replay((), now) } else { head.to_returning(()) };
        let headers = response.headers_mut();
        // The upstream's value is for its own URL. A cache would return the same part again, even after a `DELETE`.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let ids = self.ids.take();
        if ids.is_some() {
            headers.remove(CONTENT_LENGTH);
            // The upstream's URL for it: here it is at the caller's URL.
            headers.remove(CONTENT_LOCATION);
            digests::remove(headers);
        }
        response.extensions_mut().insert(DedupRole::Resumed);
        if self.is_head {
            return Poll::Ready(response.map(|()| DedupBody::over()));
        }
        let rest = std::mem::take(&mut self.skipped.rest);
        if let Some(charge) = self.rest_charge.take().filter(|_| !rest.is_empty()) {
            self.log.add_charge(charge);
        }
        let limit = self.limit.take();
        Poll::Ready(response.map(|()| DedupBody::other(Resumed::body(reader, &head, ids, rest, limit))))
    }

    /// There is no head yet.
    fn poll_wait<B>(&mut self, cx: &mut Context<'_>) -> Poll<Response<DedupBody<B>>> {
        if let Some((later, location)) = &mut self.later {
            if let Poll::Ready(wait) = later.poll(cx) {
                let response = offer::accepted(location.clone(), wait);
                self.reader = None;
                return Poll::Ready(response.map(|()| DedupBody::over()));
            }
        }
        let Some(limit) = &mut self.limit else { return Poll::Pending };
        let kind = match ready!(limit.poll(cx)) {
            LimitReached::Late(_) => RejectionKind::DeadlineExceeded,
            LimitReached::Superseded => RejectionKind::Superseded,
        };
        Poll::Ready(self.refuse(Rejection::new(kind)))
    }

    /// Skips the part that the caller has. Returns whether there is, or may be, more.
    fn poll_skip(&mut self, after: EventId, cx: &mut Context<'_>) -> Poll<Result<bool, RejectionKind>> {
        let Self { reader: Some(reader), ids: Some(ids), skipped, rest_charge, .. } = self else {
            return Poll::Ready(Err(RejectionKind::EventIdUnknown));
        };
        let mut read = 0;
        while read < BYTES_PER_POLL {
            if skipped.is_done && skipped.probe.is_none() {
                return Poll::Ready(Ok(true));
            }
            // Before reading: data that arrives and ends meanwhile was not read.
            let (mut has_ended, is_behind) = (self.log.has_ended(), self.log.is_behind());
            let part = match reader.next_recorded() {
                // The part that another process has recorded is still in transit.
                None if is_behind => {
                    let part = ready!(reader.poll_part(cx)).transpose();
                    if let Some(kind) = part.as_ref().err().and_then(not_had) {
                        return Poll::Ready(Err(kind));
                    }
                    has_ended = self.log.has_ended();
                    part.ok().flatten()
                }
                part => part,
            };
            match part {
                Some(BodyPart::Data(data)) => {
                    read += data.len().max(64);
                    if let Some(probe) = &mut skipped.probe {
                        probe.pass(&data);
                        skipped.hold(data, rest_charge)?;
                    } else if let Some(rest) = ids.skip(&data, after.offset) {
                        if !ids.is_at_border() {
                            return Poll::Ready(Err(RejectionKind::EventIdUnknown));
                        }
                        skipped.is_done = true;
                        if self.log.has_ended() || self.log.is_behind() {
                            let mut probe = ids.clone();
                            probe.pass(&rest);
                            skipped.probe = Some(probe);
                        }
                        if !rest.is_empty() {
                            skipped.hold(rest, rest_charge)?;
                        }
                    }
                    if skipped.probe.as_ref().is_some_and(|probe| probe.last_border() > after.offset) {
                        return Poll::Ready(Ok(true));
                    }
                }
                Some(trailers) if skipped.is_done => skipped.rest.push_back(trailers),
                // The id is beyond the end of the answer.
                Some(_) | None if !skipped.is_done => return Poll::Ready(Err(RejectionKind::EventIdUnknown)),
                // It has ended without another event, or continues.
                _ => return Poll::Ready(Ok(!has_ended)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn refuse<B>(&mut self, rejection: Rejection) -> Response<DedupBody<B>> {
        self.reader = None;
        self.config.emitter.emit(&Event::Refused { kind: rejection.kind() });
        DedupBody::refuse(rejection, self.format)
    }
}

// === impl Skipped ===

impl Skipped {
    fn hold(&mut self, data: Bytes, charge: &mut Option<Reservation>) -> Result<(), RejectionKind> {
        if charge.as_mut().is_some_and(|charge| !charge.grow(data.len())) {
            return Err(RejectionKind::DedupStoreFull);
        }
        self.rest.push_back(BodyPart::Data(data));
        Ok(())
    }
}
