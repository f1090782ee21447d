use std::sync::Arc;
use std::task::{Wake, Waker};

use http::Request;
use http_body::Body;

use super::shared::Shared;
use super::state::HeldPlace;
use crate::body::request::CallBody;
use crate::policy::queue::Load;
use crate::rt::per_thread::ThreadArc;
use crate::rt::sync::{Mutex, lock};

/// A call whose request is still on its way: it has one of the places for those, until the upstream has the whole request, or
/// there is an answer, or none will come.
#[derive(Debug)]
pub(super) struct Uploading {
    /// The places for such calls.
    places: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// It waits for a place.
    Waiting,
    Begun {
        place: HeldPlace,
        /// The queue in which it has a place, and that place.
        queue: Option<(ThreadArc<Shared>, u32)>,
    },
    Over,
}

// === impl Uploading ===

impl Uploading {
    /// `None`: the request is here, or of a kind that is not watched.
    #[inline]
    pub(super) fn of<B: Body + 'static>(request: &mut Request<B>, places: Option<&Arc<Shared>>) -> Option<Arc<Self>> {
        let body = CallBody::arriving(request.body_mut())?;
        let uploading = Arc::new(Self { places: places?.clone(), state: Mutex::new(State::Waiting) });
        body.wake_when_sent(Waker::from(uploading.clone()));
        Some(uploading)
    }

    pub(super) fn places(&self) -> &Arc<Shared> {
        &self.places
    }

    pub(super) fn begin(&self, place: HeldPlace) {
        let mut state = lock(&self.state);
        if let State::Waiting = &*state {
            *state = State::Begun { place, queue: None };
        } else {
            drop(state);
            self.leave(&place);
        }
    }

    /// Its call has a place in the queue. Until the request is here, it waits for its caller.
    pub(super) fn holds(&self, shared: &ThreadArc<Shared>, slot: u32) {
        if let State::Begun { queue, .. } = &mut *lock(&self.state) {
            shared.set_uploading(slot, true);
            *queue = Some((shared.clone(), slot));
        }
    }

    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        // Before another thread can return the place.
        if let State::Begun { queue: Some((shared, slot)), .. } = &*state {
            shared.set_uploading(*slot, false);
        }
        let before = std::mem::replace(&mut *state, State::Over);
        drop(state);
        if let State::Begun { place, .. } = before {
            self.leave(&place);
        }
    }

    fn leave(&self, place: &HeldPlace) {
        self.places.leave(place, Load::Unknown);
    }
}

impl Wake for Uploading {
    fn wake(self: Arc<Self>) {
        self.end();
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.end();
    }
}
