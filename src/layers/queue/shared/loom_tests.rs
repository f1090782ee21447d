//! Every order in which a place is given back, waited for, and no longer wanted.
//!
//! ```sh
//! cargo test --release -p tower-buttress-loom --lib loom_
//! ```

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use loom::future::block_on;
use loom::sync::atomic::AtomicU32 as Count;
use loom::thread;

use super::super::config::Concurrency;
use super::*;
use crate::rt::clock;

const PATIENCE: Duration = Duration::from_secs(60);

fn queue(places: u32) -> Arc<Shared> {
    Arc::new(Shared::new(Config::new(Concurrency::Fixed(places))))
}

fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(check);
}

/// Comes, waits if it must, and holds the place for a moment.
fn call(shared: &Shared, tenant: u64) {
    let place = wait(shared, tenant);
    shared.leave(&place, Load::Served);
}

fn wait(shared: &Shared, tenant: u64) -> HeldPlace {
    match shared.arrive(tenant, || (clock::now(), PATIENCE)) {
        PlaceResult::Place(place) => place,
        PlaceResult::Waits(ticket) => block_on(poll_fn(|cx| match shared.ask(ticket, cx.waker(), Micros::MAX) {
            WaitState::Place(place) => Poll::Ready(place),
            WaitState::Wait(_) => Poll::Pending,
            WaitState::Full => panic!("there is room in the line"),
        })),
        PlaceResult::Full { .. } => panic!("there is room in the line"),
    }
}

/// Comes, and goes away if there is no place, whatever happens meanwhile.
fn glance(shared: &Shared, tenant: u64) {
    match shared.arrive(tenant, || (clock::now(), PATIENCE)) {
        PlaceResult::Place(place) => shared.leave(&place, Load::Unknown),
        PlaceResult::Waits(ticket) => shared.forget(ticket),
        PlaceResult::Full { .. } => panic!("there is room in the line"),
    }
}

fn is_empty(shared: &Shared) {
    let stats = shared.stats();
    assert_eq!((stats.in_flight, stats.waiting, shared.is_full()), (0, 0, false));
}

#[test]
fn loom_a_place_that_is_given_back_is_never_lost() {
    model(3, || {
        let shared = queue(1);
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
    model(3, || {
        let shared = queue(1);
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

/// Two places, so that a call that finds none counts one while the other is given back.
#[test]
fn loom_of_two_places_no_more_than_two_are_held_and_none_is_lost() {
    model(2, || {
        let (shared, under_way) = (queue(2), Arc::new(Count::new(0)));
        let threads = [1, 2].map(|tenant| {
            let (shared, under_way) = (shared.clone(), under_way.clone());
            thread::spawn(move || counted(&shared, tenant, &under_way))
        });
        counted(&shared, 1, &under_way);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        is_empty(&shared);
    });
}

#[test]
fn loom_one_of_two_places_goes_to_another_where_its_waiter_goes_away() {
    model(2, || {
        let shared = queue(2);
        let held = wait(&shared, 1);
        let other = {
            let shared = shared.clone();
            thread::spawn(move || glance(&shared, 2))
        };
        let waiting = {
            let shared = shared.clone();
            thread::spawn(move || call(&shared, 3))
        };
        shared.leave(&held, Load::Served);
        call(&shared, 1);
        other.join().unwrap();
        waiting.join().unwrap();
        is_empty(&shared);
    });
}

fn counted(shared: &Shared, tenant: u64, under_way: &Count) {
    let place = wait(shared, tenant);
    assert!(under_way.fetch_add(1, Ordering::Relaxed) < 2);
    under_way.fetch_sub(1, Ordering::Relaxed);
    shared.leave(&place, Load::Served);
}
