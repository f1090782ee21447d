//! The only module that reads clocks.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::{Instant, SystemTime};

thread_local! {
    static READING: Cell<Reading> = const { Cell::new(Reading::Repeated) };
}

/// What [`now`] returns on this thread.
#[derive(Clone, Copy)]
enum Reading {
    /// The clock.
    Repeated,
    /// The clock, which is then not read again.
    First,
    Known(Instant),
}

/// While it lives, [`now`] reads the clock once. See [`read_once`].
#[must_use]
pub(crate) struct ReadOnce {
    is_nested: bool,
    /// It belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

/// Tokio's clock, so that a test with paused time controls every layer.
#[inline]
pub(crate) fn now() -> Instant {
    match READING.get() {
        Reading::Repeated => read(),
        Reading::Known(now) => now,
        Reading::First => {
            let now = read();
            READING.set(Reading::Known(now));
            now
        }
    }
}

/// The wall clock, for dates that a peer sent. Tests cannot control it.
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// For one poll of a stack: each of its layers asks for the time, and one reading serves them all. Until the guard is
/// dropped, or a timer [fires](renew), [`now`] returns the first reading.
///
/// Without it, the four readings for each event of `llm_gateway` take a tenth of what its layers add.
#[inline]
pub(crate) fn read_once() -> ReadOnce {
    let is_nested = !matches!(READING.replace(Reading::First), Reading::Repeated);
    ReadOnce { is_nested, _not_send: PhantomData }
}

/// A timer has fired: an earlier reading may lie before its instant, and its owner would wait for that again.
#[inline]
pub(crate) fn renew() {
    if let Reading::Known(_) = READING.get() {
        READING.set(Reading::First);
    }
}

#[inline]
fn read() -> Instant {
    tokio::time::Instant::now().into_std()
}

// === impl ReadOnce ===

impl Drop for ReadOnce {
    #[inline]
    fn drop(&mut self) {
        // Time has passed for a stack around this one.
        READING.set(if self.is_nested { Reading::First } else { Reading::Repeated });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_reading_lasts_as_long_as_the_guard() {
        let start = now();
        let once = read_once();
        pass(S).await;
        assert_eq!(now() - start, S, "it is not taken before it is asked for");
        pass(S).await;
        assert_eq!(now() - start, S);
        drop(once);
        assert_eq!(now() - start, 2 * S);
        pass(S).await;
        assert_eq!(now() - start, 3 * S);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_fires_ends_a_reading() {
        let start = now();
        let _once = read_once();
        assert_eq!(now(), start);
        pass(S).await;
        renew();
        assert_eq!(now() - start, S);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stack_inside_another_reads_for_itself() {
        let start = now();
        let outer = read_once();
        assert_eq!(now(), start);
        pass(S).await;
        let inner = read_once();
        assert_eq!(now() - start, S);
        pass(S).await;
        drop(inner);
        assert_eq!(now() - start, 2 * S, "and what it took counts for the outer");
        pass(S).await;
        assert_eq!(now() - start, 2 * S);
        drop(outer);
        renew();
        assert_eq!(now() - start, 3 * S);
    }
}
