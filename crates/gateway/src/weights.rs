//! Chooses the first fallback of a call by weight.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::Service;

/// Services, of which each call uses one, chosen by weight.
#[derive(Clone, Debug)]
pub(crate) struct Weighted<S> {
    /// Each with the sum of all weights up to its own.
    choices: Arc<[(u64, S)]>,
    last: S,
    chosen: Option<S>,
}

// === impl Weighted ===

impl<S: Clone> Weighted<S> {
    /// `last` takes the remaining weight.
    pub(crate) fn new(choices: impl IntoIterator<Item = (NonZeroU32, S)>, last: (NonZeroU32, S)) -> Self {
        let mut sum = 0;
        let choices = choices.into_iter().chain([(last.0, last.1.clone())]).map(|(weight, service)| {
            sum += u64::from(weight.get());
            (sum, service)
        });
        Self { choices: choices.collect(), last: last.1, chosen: None }
    }

    fn choose(&self) -> S {
        let all = self.choices.last().map_or(1, |(sum, _)| *sum);
        self.at(fastrand::u64(..all)).clone()
    }

    fn at(&self, place: u64) -> &S {
        self.choices.iter().find(|(end, _)| place < *end).map_or(&self.last, |(_, service)| service)
    }
}

impl<S: Service<R> + Clone, R> Service<R> for Weighted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let chosen = self.chosen.take().unwrap_or_else(|| self.choose());
        self.chosen.insert(chosen).poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        // Calls the clone that was polled ready.
        self.chosen.take().unwrap_or_else(|| self.choose()).call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_chosen_as_often_as_its_weight_says() {
        let weight = |weight| NonZeroU32::new(weight).unwrap();
        let weighted = Weighted::new([(weight(1), 'a'), (weight(3), 'b')], (weight(2), 'c'));
        assert_eq!((0..6).map(|place| *weighted.at(place)).collect::<String>(), "abbbcc");
    }
}
