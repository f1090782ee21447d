//! The facts about an answer before it arrives, and the plan for it.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;

use super::body::StreamGuardBody;
use super::config::{Chosen, Config, NAME};
use super::prelude::WithheldPrelude;
use super::promise::Promise;
use super::refusal;
use super::state::StreamState;
use super::watch::{BodyWatch, ContentLimit, StreamWatch};
use crate::body::ending::Ending;
use crate::body::monitored::MonitoredBody;
use crate::body::prefixed::ReadAhead;
use crate::body::request::share_of;
use crate::body::response::LayerBody;
use crate::call::{AsksForRest, Reservation};
use crate::event::Event;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::proto::dialect::Framing;
use crate::proto::{bodiless, event_stream};
use crate::rejection::Rejection;
use crate::rt::clock;

/// The facts about an answer before it arrives.
#[derive(Debug)]
pub(super) struct Expected {
    config: Arc<Config>,
    /// Its dialect, if set or known by the path.
    dialect: Option<Chosen>,
    /// Whether the request asks for a generation: other answers are not judged.
    generates: bool,
    /// Whether it asks for the rest of an answer: its content, and its end, may have come before.
    asks_for_rest: bool,
    host: u64,
    /// For the part of its answer that is withheld.
    held: Reservation,
    /// The request's own limit for the first data.
    first_byte: Option<Duration>,
}

/// The plan for a response.
pub(super) enum Plan<B> {
    /// Read a part of its body first.
    Withhold(WithheldPrelude<B>),
    Forward(Response<StreamGuardBody<B>>),
}

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

// === impl Expected ===

impl Expected {
    /// `None`: the layer is off, or does not judge the answer.
    pub(super) fn of<B>(request: &mut Request<B>, config: &Arc<Config>) -> Option<Self> {
        if !config.enabled || bodiless::to_method(request.method()) {
            return None;
        }
        let posted = request.method() == Method::POST;
        let dialect = config.dialect.clone().or_else(|| posted.then(|| config.expect(request.uri().path())).flatten());
        // A compressed answer cannot be read.
        if posted && dialect.is_some() || event_stream::is_accepted(request.headers()) {
            request.headers_mut().insert(ACCEPT_ENCODING, IDENTITY);
        }
        let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        let host = authority.or_else(|| request.headers().get(HOST).map(HeaderValue::as_bytes)).unwrap_or_default();
        Some(Self {
            host: config.reasons.host(host),
            first_byte: request.extensions().get().map(|profile: &TimeoutProfile| profile.first_byte),
            generates: posted,
            asks_for_rest: request.extensions().get::<AsksForRest>().is_some(),
            held: share_of(&config.memory, request.headers(), request.extensions()),
            dialect,
            config: Arc::clone(config),
        })
    }

    /// Withholds a response, or forwards it.
    pub(super) fn plan<B: Body>(self, mut response: Response<B>) -> Plan<B> {
        if Rejection::of(&response).is_none() {
            refusal::note_limits(&mut response, &self.config);
        }
        let framing = match Promise::of(&response, self.generates, self.dialect.as_ref()) {
            Promise::Nothing => return Plan::Forward(response.map(StreamGuardBody::inner)),
            Promise::Unreadable(reason) => {
                self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
                return Plan::Forward(response.map(StreamGuardBody::inner));
            }
            Promise::Error => {
                return Plan::Withhold(WithheldPrelude::error(self.config, self.held, response));
            }
            Promise::Answer => None,
            Promise::Stream(framing) => Some(framing),
        };
        let ending = Ending::new().following_ids();
        response.extensions_mut().insert(ending.clone());
        let Self { config, dialect, generates, asks_for_rest, host, held, first_byte } = self;
        let first_content = config.first_content.map(|limit| limit.max(first_byte.unwrap_or_default()));
        match (framing, dialect) {
            (None, Some(dialect)) => {
                Plan::Withhold(WithheldPrelude::answer(config, held, response, dialect, host, first_content))
            }
            (framing, dialect) => {
                let framing = framing.unwrap_or(Framing::EventStream);
                let dialect = dialect.filter(|dialect| !dialect.is_other_in(framing));
                let reader = Chosen::reader(dialect.as_ref(), framing);
                let state = StreamState::new(Arc::clone(&config), reader, framing, host, ending);
                let limit = ContentLimit::new(first_content, clock::now());
                // The rest of an answer may be nothing but its end.
                if generates && dialect.is_some() && !asks_for_rest {
                    let state = state.withholding_markers();
                    return Plan::Withhold(WithheldPrelude::stream(config, held, response, state, limit));
                }
                let watch = BodyWatch::Stream(Box::new(StreamWatch { state, limit: ContentLimit::none() }));
                response.headers_mut().remove(CONTENT_LENGTH);
                Plan::Forward(response.map(|body| ReadAhead::default().before(MonitoredBody::new(body, Some(watch)))))
            }
        }
    }
}
