//! Every order in which a place is given back, waited for, and no longer wanted.
//!
//! ```sh
//! cargo test --release -p tower-buttress-loom --lib loom_
//! ```

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use loom::future::block_on;
use loom::thread;

use super::super::config::Concurrency;
use super::*;
use crate::rt::clock;

const PATIENCE: Duration = Duration::from_secs(60);

fn queue() -> Arc<Shared> {
    Arc::new(Shared::new(Config::new(Concurrency::Fixed(1))))
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(check);
}

/// Comes, waits if it must, and holds the place for a moment.
fn call(shared: &Shared, tenant: u64) {
    let place = match shared.arrive(tenant, || (clock::now(), PATIENCE)) {
        Arrived::Place(place) => place,
        Arrived::Waits(ticket) => block_on(poll_fn(|cx| match shared.ask(ticket, cx.waker()) {
            WaitState::Place(place) => Poll::Ready(place),
            WaitState::Wait(_) => Poll::Pending,
            WaitState::Full => panic!("there is room in the line"),
        })),
        Arrived::Full { .. } => panic!("there is room in the line"),
    };
    shared.leave(&place, Load::Served, clock::now);
}

/// Comes, and goes away if there is no place, whatever happens meanwhile.
fn glance(shared: &Shared, tenant: u64) {
    match shared.arrive(tenant, || (clock::now(), PATIENCE)) {
        Arrived::Place(place) => shared.leave(&place, Load::Unknown, clock::now),
        Arrived::Waits(ticket) => shared.forget(ticket),
        Arrived::Full { .. } => panic!("there is room in the line"),
    }
}

fn is_empty(shared: &Shared) {
    let stats = shared.stats();
    assert_eq!((stats.in_flight, stats.waiting, shared.is_full()), (0, 0, false));
}

#[test]
fn loom_a_place_that_is_given_back_is_never_lost() {
    model(|| {
        let shared = queue();
        let threads = [1, 2].map(|tenant| {
            let shared = shared.clone();
            thread::spawn(move || call(&shared, tenant))
        });
        call(&shared, 1);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        is_empty(&shared);
    });
}

#[test]
fn loom_one_that_goes_away_takes_no_place_along() {
    model(|| {
        let shared = queue();
        let other = {
            let shared = shared.clone();
            thread::spawn(move || glance(&shared, 2))
        };
        let waiting = {
            let shared = shared.clone();
            thread::spawn(move || call(&shared, 3))
        };
        call(&shared, 1);
        other.join().unwrap();
        waiting.join().unwrap();
        is_empty(&shared);
    });
}
