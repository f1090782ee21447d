//! Every order in which a call is cancelled and looks whether it was.
//!
//! ```sh
//! cargo test --release -p tower-buttress-loom --lib loom_
//! ```

use std::future::poll_fn;

use loom::future::block_on;
use loom::thread;

use super::*;

#[test]
fn loom_every_waiter_is_woken_by_it() {
    loom::model(|| {
        let call = Cancellation::new();
        let ends = call.clone();
        let ended = thread::spawn(move || ends.cancel());
        block_on(poll_fn(|cx| call.poll(cx)));
        assert!(call.is_cancelled());
        ended.join().unwrap();
    });
}

#[test]
fn loom_a_waiter_is_woken_by_it_after_the_call_was_polled() {
    loom::model(|| {
        let call = Cancellation::new();
        let ends = call.clone();
        let ended = thread::spawn(move || ends.cancel());
        let mut no_waker = Context::from_waker(Waker::noop());
        let _ = call.poll(&mut no_waker);
        block_on(poll_fn(|cx| call.poll(cx)));
        ended.join().unwrap();
    });
}
