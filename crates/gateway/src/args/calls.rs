//! Selects the calls of a route, and the options that a route may set.

use clap::Arg;

use super::headings::{ATTEMPTS, BREAKER, CONVERSATIONS, LAST_GOOD, LOAD, STREAMS, STRUCTURED, TIME, TRUST};

/// Selects the calls of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallFilter {
    /// The prefix of their paths.
    pub(crate) path: String,
    /// A pattern for the name of their model, where `*` is any characters. Ignores case, because some servers do. `None`: any call.
    pub(crate) model: Option<String>,
}

/// Headings of the options that a route may set.
const OF_ROUTES: [&str; 9] = [TRUST, TIME, ATTEMPTS, STREAMS, CONVERSATIONS, STRUCTURED, LAST_GOOD, BREAKER, LOAD];

/// Exceptions: options read before the route is known, or shared by all routes.
const OF_ALL: [&str; 3] = ["upstream_ca", "deadline_header", "deadline_reserve"];

/// Whether a route may set this option.
pub(super) fn is_of_routes(arg: &Arg) -> bool {
    arg.get_help_heading().is_some_and(|heading| OF_ROUTES.contains(&heading))
        && !OF_ALL.contains(&arg.get_id().as_str())
}

// === impl Calls ===

impl CallFilter {
    /// Whether the route serves this call.
    pub(crate) fn have(&self, path: &str, model: Option<&str>) -> bool {
        let has_model = |pattern: &String| {
            model.is_some_and(|model| is_like(&pattern.to_ascii_lowercase(), &model.to_ascii_lowercase()))
        };
        path.starts_with(&self.path) && self.model.as_ref().is_none_or(has_model)
    }
}

/// Whether `text` matches `pattern`, where `*` is any characters.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The first match leaves the most text for the parts that follow.
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_characters() {
        for (pattern, text) in [
            ("gpt-4", "gpt-4"),
            ("gpt-*", "gpt-4o"),
            ("gpt-*", "gpt-"),
            ("*", ""),
            ("*-mini", "gpt-4-mini"),
            ("a*b*c", "abbc"),
            ("a**c", "abc"),
        ] {
            assert!(is_like(pattern, text), "{pattern}: {text}");
        }
        for (pattern, text) in
            [("gpt-4", "gpt-4o"), ("gpt-*", "xgpt-4"), ("*-mini", "mini"), ("a*a", "a"), ("a*b*c", "acb")]
        {
            assert!(!is_like(pattern, text), "{pattern}: {text}");
        }
    }

    #[test]
    fn a_call_is_known_by_path_and_model() {
        let calls =
            |path: &str, model: Option<&str>| CallFilter { path: path.to_owned(), model: model.map(str::to_owned) };
        assert!(calls("/v1/", None).have("/v1/chat", None));
        assert!(!calls("/v1/", None).have("/v2/chat", Some("m")));
        assert!(calls("/", Some("m*")).have("/v1/chat", Some("mini")));
        assert!(calls("/", Some("Deep-*")).have("/v1/chat", Some("DEEP-1")));
        assert!(!calls("/", Some("m*")).have("/v1/chat", None));
    }
}
