//! Makes a call, checks its answer, and asks again if the answer is invalid.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::StructuredOutputBody;
use super::config::Config;
use super::examined::{AnswerForm, Check, Disposition, Examined};
use super::request::{CheckedRequest, correct_headers, kind_of};
use crate::body::collect::{Collected, collect};
use crate::body::ending::Ending;
use crate::body::erased::ErasedBody;
use crate::body::output_usage::OutputUsage;
use crate::body::request::{CallBody, RequestRead, RequestReading, share_of};
use crate::body::response::LayerBody;
use crate::call::{InvalidOutput, NoRetry, OutputFault};
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::structured::Complaint;
use crate::proto::digests;
use crate::rt::clock;
use crate::rt::deadline::Deadline;

/// An answer that was read.
struct CollectedAnswer {
    head: Parts,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

/// An invalid answer.
struct InvalidAnswer {
    answer: CollectedAnswer,
    fault: OutputFault,
}

/// The result of reading an answer.
enum AnswerRead<B> {
    Answer(CollectedAnswer, AnswerForm),
    /// Forward it unchecked. If it is incomplete it broke off, and fails in the same place.
    Unread {
        response: Response<StructuredOutputBody<B>>,
        is_whole: bool,
    },
}

/// Reads the request, makes the call, and asks again if the answer is invalid.
pub(super) async fn run<S, B>(
    mut service: S,
    request: Request<CallBody>,
    config: Arc<Config>,
) -> Result<Response<StructuredOutputBody<B>>, S::Error>
where
    S: Service<Request<CallBody>, Response = Response<B>>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let asked = match read_request(request, &config).await {
        Ok(asked) => asked,
        Err(request) => return Ok(send(&mut service, request).await?.map(StructuredOutputBody::inner)),
    };
    config.budget.deposit(clock::now);
    let mut total = OutputUsage::default();
    let mut request = asked.first();
    let mut best: Option<InvalidAnswer> = None;
    let mut reasks = 0;
    loop {
        let started = clock::now();
        let response = match send(&mut service, request).await {
            Ok(response) => response,
            Err(err) => return best.map(|best| best.respond(total)).ok_or(err),
        };
        let (answer, form) = match read_answer(response, &asked, &config).await {
            AnswerRead::Answer(answer, form) => (answer, form),
            AnswerRead::Unread { response, is_whole } => {
                // The repeated call failed, or its answer is unreadable: the earlier answer counts.
                let Some(best) = best else { return Ok(response) };
                if is_whole && response.status().is_success() {
                    total.add(Ending::of(&response).and_then(Ending::total_usage));
                }
                return Ok(best.respond(total));
            }
        };
        let Examined { usage, disposition } = look(Check::new(&asked, form, config.extract), &answer.data).await;
        total.add(usage);
        let (text, complaint) = match disposition {
            Disposition::Invalid(text, complaint) => (text, complaint),
            Disposition::Return => return Ok(answer.respond(total)),
            Disposition::Replace(data) => return Ok(answer.replaced(data).respond(total)),
            Disposition::Unfinished => {
                return Ok(match best {
                    Some(best) => best.respond(total),
                    None => answer.respond(total),
                });
            }
        };
        let again = next(&asked, &config, reasks, started, &text, &complaint);
        config.emitter.emit(&Event::OutputInvalid { fault: complaint.fault, asked_again: again.is_some() });
        let invalid = InvalidAnswer { answer, fault: complaint.fault }.or_better(best);
        let Some(again) = again else { return Ok(invalid.respond(total)) };
        (request, reasks, best) = (again, reasks + 1, Some(invalid));
    }
}

/// Returns the request that asks again, if that is worthwhile.
fn next(
    asked: &CheckedRequest,
    config: &Config,
    reasks: u32,
    started: Instant,
    text: &str,
    complaint: &Complaint,
) -> Option<Request<CallBody>> {
    let max = match complaint.fault {
        _ if asked.head.extensions.get::<NoRetry>().is_some() => 0,
        // A second empty answer adds nothing.
        OutputFault::Empty => config.max_reasks.min(1),
        _ => config.max_reasks,
    };
    let now = clock::now();
    let took = now.saturating_duration_since(started);
    let in_time = Deadline::remaining_for_attempt(&asked.head.extensions, now).is_none_or(|left| left > took);
    if reasks >= max || !in_time {
        return None;
    }
    let request = asked.again(text, complaint, &config.keys)?;
    config.budget.withdraw(now).then_some(request)
}

/// `Err`: the request passes.
async fn read_request(request: Request<CallBody>, config: &Config) -> Result<CheckedRequest, Request<CallBody>> {
    let Some(kind) = kind_of(&request) else { return Err(request) };
    let (head, body) = request.into_parts();
    let (bytes, limit) = (config.max_body_bytes, config.read_timeout);
    let mut reading = RequestReading::new(body, bytes, limit, &config.memory, &head);
    let body = match poll_fn(|cx| reading.poll(cx, |_| {})).await {
        RequestRead::Whole { data, trailers: None } => {
            return match CheckedRequest::new(kind, head, data, config) {
                Ok(asked) => Ok(asked.compiled(config).await),
                Err(passed) => {
                    let (head, data) = *passed;
                    Err(Request::from_parts(head, data.into()))
                }
            };
        }
        RequestRead::Whole { data, trailers } => CallBody::whole(data, trailers),
        RequestRead::Unread(body, why) => {
            config.bypassed(why.reason());
            body
        }
        RequestRead::Failed(body) => body,
    };
    Err(Request::from_parts(head, body))
}

async fn send<S: Service<Request<CallBody>>>(
    service: &mut S,
    request: Request<CallBody>,
) -> Result<S::Response, S::Error> {
    poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(request).await
}

async fn read_answer<B>(response: Response<B>, asked: &CheckedRequest, config: &Config) -> AnswerRead<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let Some(form) = AnswerForm::of(&response, asked) else {
        return AnswerRead::Unread { response: response.map(StructuredOutputBody::inner), is_whole: true };
    };
    let (head, body) = response.into_parts();
    let max =
        if form == AnswerForm::Json { config.max_answer } else { config.hold_streams.unwrap_or(config.max_answer) };
    let reservation = share_of(&config.memory, &asked.head.headers, &asked.head.extensions);
    let (body, is_whole) = match collect(ErasedBody::new(body), max, reservation).await {
        Ok(Collected::Whole { data, trailers }) => {
            return AnswerRead::Answer(CollectedAnswer { head, data, trailers }, form);
        }
        Ok(Collected::TooLarge(body)) => {
            config.bypassed("an answer that is too long to check");
            (CallBody::new(body), true)
        }
        Err(why) => (CallBody::failed(why), false),
    };
    AnswerRead::Unread { response: Response::from_parts(head, StructuredOutputBody::other(body)), is_whole }
}

/// Checks an answer; an expensive check runs on a thread for blocking work.
async fn look(check: Check, data: &Bytes) -> Examined {
    if check.is_quick(data.len()) {
        return check.run(data);
    }
    let (apart, there) = (check.clone(), data.clone());
    match tokio::task::spawn_blocking(move || apart.run(&there)).await {
        Ok(examined) => examined,
        // The runtime is shutting down.
        Err(_) => check.run(data),
    }
}

// === impl CollectedAnswer ===

impl CollectedAnswer {
    fn replaced(mut self, data: Vec<u8>) -> Self {
        correct_headers(&mut self.head, data.len());
        self.trailers.iter_mut().for_each(digests::remove);
        self.data = data.into();
        self
    }

    fn respond<B>(mut self, total: OutputUsage) -> Response<StructuredOutputBody<B>> {
        self.head.extensions.insert(total);
        Response::from_parts(self.head, StructuredOutputBody::other(CallBody::whole(self.data, self.trailers)))
    }
}

// === impl InvalidAnswer ===

impl InvalidAnswer {
    /// Returns the better of both answers; of equals this one.
    fn or_better(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(earlier) if earlier.nearness() > self.nearness() => earlier,
            _ => self,
        }
    }

    const fn nearness(&self) -> u8 {
        match self.fault {
            OutputFault::Empty => 0,
            OutputFault::Syntax => 1,
            OutputFault::Schema => 2,
        }
    }

    /// Returns the answer unchanged, marked as invalid.
    fn respond<B>(self, total: OutputUsage) -> Response<StructuredOutputBody<B>> {
        let mut response = self.answer.respond(total);
        response.extensions_mut().insert(InvalidOutput::new(self.fault));
        response
    }
}
