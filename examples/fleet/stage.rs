//! The provider, with its faults.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::{self, Next};
use tower_buttress_gateway::Provider;

/// The provider of a fleet, with one address for all gateways.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    mood: Mood,
    arrivals: u32,
    /// The end of the current rate limit.
    limited_until: Option<Instant>,
    refusals: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Every call gets a 500.
    Dead,
    /// Every call gets a 429 with a wait of [`LIMIT`], from the first one until the wait is over.
    Limited,
}

pub(crate) const LIMIT: Duration = Duration::from_secs(2);

// === impl Stage ===

impl Stage {
    pub(crate) async fn start() -> io::Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let before = state.clone();
        let provider = Provider::start_behind(|app| {
            app.layer(middleware::from_fn(move |mut request: Request, next: Next| {
                if let Some(fault) = lock(&before).arrive(Instant::now()) {
                    request.headers_mut().insert("x-fault", HeaderValue::from_static(fault));
                }
                next.run(request)
            }))
        });
        Ok(Self { addr: provider.await?.addr(), state })
    }

    pub(crate) fn set(&self, mood: Mood) {
        let mut state = lock(&self.state);
        *state = State { mood, ..State::default() };
    }

    /// Calls since the last change.
    pub(crate) fn arrivals(&self) -> u32 {
        lock(&self.state).arrivals
    }

    /// 429s since the last change.
    pub(crate) fn refusals(&self) -> u32 {
        lock(&self.state).refusals
    }
}

// === impl State ===

impl State {
    fn arrive(&mut self, now: Instant) -> Option<&'static str> {
        self.arrivals += 1;
        match self.mood {
            Mood::Well => None,
            Mood::Dead => Some("status=500"),
            Mood::Limited if now >= *self.limited_until.get_or_insert(now + LIMIT) => None,
            Mood::Limited => {
                self.refusals += 1;
                Some("status=429; retry-after=2")
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
