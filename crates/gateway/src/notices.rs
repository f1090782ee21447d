//! The texts of notices to callers that wait.

use http::HeaderMap;
use tower_buttress::Notice;

use super::args::NoticesArg;

/// The text of a notice; `None` for callers that do not want notices.
pub(crate) fn text(notices: NoticesArg, notice: &Notice, headers: &HeaderMap) -> Option<String> {
    let wanted = match notices {
        NoticesArg::Off => false,
        NoticesArg::On => true,
        NoticesArg::Header => headers.get("x-notices").is_some_and(|value| value == "on"),
    };
    let text = match notice {
        Notice::Queue { expected: Some(wait), .. } if wait.as_secs() > 0 => {
            return wanted.then(|| format!("Waiting for a free place, about {} s.", wait.as_secs()));
        }
        Notice::Queue { .. } => "Waiting for a free place.",
        Notice::Pace { expected: Some(wait), .. } if wait.as_secs() > 0 => {
            return wanted.then(|| format!("Waiting for the rate limit, about {} s.", wait.as_secs()));
        }
        Notice::Pace { .. } => "Waiting for the rate limit.",
        Notice::Retry { .. } => "This takes longer. Trying again.",
        Notice::Fallback { .. } => "This takes longer. Trying another upstream.",
        Notice::Resume { .. } => "The connection broke. Requesting the rest.",
        _ => return None,
    };
    wanted.then(|| text.to_owned())
}
