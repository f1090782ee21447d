//! How an answer ended, for layers outside of the one that reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use http::Response;

use crate::proto::dialect::End;

/// In the extensions of a response whose body [`StreamGuardLayer`](crate::StreamGuardLayer) reads: how the answer ended, once
/// that is known. Of a stream it is known when its body has come to its end.
///
/// ```
/// use http::Response;
/// use tower_buttress::Ending;
///
/// # fn after_reading(response: &Response<()>) {
/// if let Some(ending) = Ending::of(response) {
///     println!("{:?}", ending.get());
/// }
/// # }
/// # after_reading(&Response::new(()));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<AtomicU8>);

const ENDS: [End; 6] = [End::Whole, End::Paused, End::Limit, End::Refused, End::Filtered, End::Unknown];

// === impl Ending ===

impl Ending {
    /// An ending that is not known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The ending of this response, known or not: `None` where nothing reads its body.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Option<&Self> {
        response.extensions().get()
    }

    /// Sets it.
    pub fn set(&self, end: End) {
        let index = ENDS.iter().position(|known| *known == end).and_then(|index| u8::try_from(index + 1).ok());
        self.0.store(index.unwrap_or(0), Ordering::Release);
    }

    /// How the answer ended: `None` if it has not ended, or broke off.
    #[must_use]
    pub fn get(&self) -> Option<End> {
        let index = usize::from(self.0.load(Ordering::Acquire)).checked_sub(1)?;
        ENDS.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_it_was_set_to_for_all_clones() {
        let ending = Ending::new();
        assert_eq!(ending.get(), None);
        for end in ENDS {
            ending.clone().set(end);
            assert_eq!(ending.get(), Some(end));
        }
    }
}
