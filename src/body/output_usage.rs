//! The token usage of an answer, including the calls whose answers it replaces.

use http::Extensions;

use super::ending::Ending;
use crate::proto::dialect::Usage;

/// The token usage of an answer with all calls that were made for it, in a response's extensions.
///
/// [`StructuredOutputLayer`](crate::StructuredOutputLayer) sets it. If a [`FallbackLayer`](crate::FallbackLayer) asked a
/// backup because of the answer's form, it includes the calls of both upstreams, whichever answer is returned.
///
/// ```
/// use http::Response;
/// use tower_buttress::OutputUsage;
///
/// # fn bill(response: &Response<()>) {
/// if let Some(OutputUsage { calls, usage, .. }) = response.extensions().get() {
///     println!("{calls} calls, {} tokens of answers", usage.output.unwrap_or(0));
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputUsage {
    /// The calls that were answered.
    pub calls: u32,
    /// The reported tokens of all of them.
    pub usage: Usage,
}

// === impl OutputUsage ===

impl OutputUsage {
    pub(crate) fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }

    /// Adds an answered call.
    pub(crate) fn add(&mut self, usage: Option<Usage>) {
        self.calls = self.calls.saturating_add(1);
        self.usage = self.usage.plus(usage.unwrap_or_default());
    }

    /// Adds this usage, of an answer that is not returned, to the usage of the answer with these extensions.
    pub(crate) fn carry_to(mut self, answer: &mut Extensions) {
        match Self::of(answer) {
            Some(other) => {
                self.calls = self.calls.saturating_add(other.calls);
                self.usage = self.usage.plus(other.usage);
            }
            // No layer has counted it; a layer that reads it may know.
            None => self.add(answer.get().and_then(Ending::total_usage)),
        }
        answer.insert(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(calls: u32, input: u64) -> OutputUsage {
        OutputUsage { calls, usage: Usage::new(Some(input), None) }
    }

    #[test]
    fn what_another_answer_has_cost_is_added() {
        let mut answer = Extensions::new();
        answer.insert(spent(2, 20));
        spent(3, 30).carry_to(&mut answer);
        assert_eq!(OutputUsage::of(&answer), Some(spent(5, 50)));
    }

    #[test]
    fn an_uncounted_answer_is_one_call_with_the_usage_it_reported() {
        let mut answer = Extensions::new();
        spent(3, 30).carry_to(&mut answer);
        assert_eq!(OutputUsage::of(&answer), Some(spent(4, 30)));

        let mut answer = Extensions::new();
        let ending = Ending::new();
        ending.note_usage(Usage::new(Some(7), Some(1)));
        answer.insert(ending);
        spent(3, 30).carry_to(&mut answer);
        let usage = Usage::new(Some(37), Some(1));
        assert_eq!(OutputUsage::of(&answer), Some(OutputUsage { calls: 4, usage }));
    }
}
