//! Serves answers to callers that come back, at `/-/answers/<token>`.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tower_buttress::Resumable;

use super::args::{LayerArgs, Switch};
use super::headers::X_API_KEY;
use super::load::Loads;
use super::paths;

const PREFIX: &str = "/-/answers";
/// Limit per tenant of calls that continue without a caller.
const PER_TENANT: u32 = 8;
/// Limit over all tenants, where no upstream has a limit of concurrent calls.
const UNLIMITED: u32 = 256;
const TOKEN_LENGTH: usize = 32;

/// The settings of resumable answers; `None` without `--resumable on`.
pub(crate) fn resumable(args: &LayerArgs, loads: &Loads) -> Option<Resumable> {
    let loads = loads.clone();
    let resumable = Resumable::at(PREFIX)
        .window(args.resume_window)
        .respond_async(args.respond_async == Switch::On)
        .unattended(PER_TENANT, UNLIMITED)
        // Calls without callers must not keep other calls waiting.
        .unattended_total(move || loads.quarter().unwrap_or(UNLIMITED));
    (args.resumable == Switch::On).then_some(resumable)
}

/// Whether this is the path of a kept answer.
pub(crate) fn is_one(path: &str) -> bool {
    let token = path.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('/'));
    token.is_some_and(|token| {
        token.len() == TOKEN_LENGTH && token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Whether the token alone authorizes the request: an `EventSource` cannot send a key. A key that is sent must be
/// valid.
pub(crate) fn needs_no_key(path: &str, headers: &HeaderMap) -> bool {
    is_one(path) && ![AUTHORIZATION, X_API_KEY].iter().any(|name| headers.contains_key(name))
}

/// The path for logs, without the token, which grants access. Also hides tokens in misspelled paths, which match no
/// answer.
pub(crate) fn logged(path: &str) -> String {
    let is_below = path.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with('/'));
    if is_below {
        return format!("{PREFIX}/..");
    }
    let has_room = path.bytes().filter(u8::is_ascii_hexdigit).count() >= TOKEN_LENGTH;
    if has_room && paths::is_own(path) { "/-/..".to_owned() } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_token_is_one_and_it_is_not_logged() {
        let path = "/-/answers/0123456789abcdef0123456789abcdef";
        assert!(is_one(path));
        assert_eq!(logged(path), "/-/answers/..");
        // Dedup accepts no token with capital letters: it would go upstream, without a key of this gateway.
        for (other, shown) in [
            ("/-/answers", "/-/answers"),
            ("/-/answers/x", "/-/answers/.."),
            ("/-/answers/0123456789ABCDEF0123456789ABCDEF", "/-/answers/.."),
            ("/-/answers/%30123456789abcdef0123456789abcdef", "/-/answers/.."),
            ("/-/answers/0123456789abcdef0123456789abcdef/x", "/-/answers/.."),
            ("/-/answers0123456789abcdef0123456789abcdef", "/-/.."),
            ("//-/answers/0123456789abcdef0123456789abcdef", "/-/.."),
            ("/%2D/answers/0123456789abcdef0123456789abcdef", "/-/.."),
            ("/-%2Fanswers%2F0123456789abcdef0123456789abcdef", "/-/.."),
            ("/x/../-/answers/0123456789abcdef0123456789abcdef", "/-/.."),
            ("/v1/batches/0123456789abcdef0123456789abcdef", "/v1/batches/0123456789abcdef0123456789abcdef"),
            ("/v1", "/v1"),
        ] {
            assert!(!is_one(other));
            assert_eq!(logged(other), shown);
        }
    }
}
