//! Finds the ways in which servers read a path.
//!
//! Routes are chosen by prefixes of paths, and upstreams disagree on how to read a path: some merge slashes, resolve
//! `.` and `..`, decode first, cut parameters off, or ignore case. The gateway forwards the bytes unchanged. It
//! refuses a call whose readings belong to different routes.

use tower_buttress::Model;

/// A longer path is not read in all ways, which would cost more than the request.
const LONGEST: usize = 2 * 1024;

/// One way to read a path.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// How often `%2e` is decoded: some servers decode again behind a proxy that has decoded.
    decodes: u8,
    /// A backslash is a slash, as on Windows.
    turns_backslashes: bool,
    /// `;` ends a segment before decoding, as in Tomcat.
    cuts_first: bool,
    /// `;` or a zero byte ends a segment after decoding, as in other servlet containers.
    cuts_parameters: bool,
    merges_slashes: bool,
    takes_steps: bool,
}

/// Whether some reading of `path` begins with one of `prefixes` and another reading does not.
pub(crate) fn is_ambiguous<'a>(path: &str, prefixes: &(impl Iterator<Item = &'a str> + Clone)) -> bool {
    let begins = |path: &[u8], prefix: &str| path.get(..prefix.len()).is_some_and(|start| start == prefix.as_bytes());
    let folded = |path: &[u8], prefix: &str| {
        path.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    let literal = path.as_bytes();
    if prefixes.clone().any(|prefix| begins(literal, prefix) != folded(literal, prefix)) {
        return true;
    }
    if !is_read_differently(path) {
        return false;
    }
    // Every reading gives the same result as the literal text.
    let agrees = |read: &[u8]| prefixes.clone().all(|prefix| begins(literal, prefix) == folded(read, prefix));
    prefixes.clone().any(|prefix| prefix.len() > 1)
        && (path.len() > LONGEST || !manners().all(|manner| agrees(&manner.read(literal))))
}

/// The model that a path names, percent-decoded.
pub(crate) fn model(path: &str) -> Option<String> {
    Some(plain(Model::in_path(path)?))
}

/// Whether some reading of `path` names another model than the literal text, or one where the literal text names none.
pub(crate) fn has_unclear_model(path: &str) -> bool {
    let model = model(path);
    let agrees = |read: &[u8]| Model::in_path(&String::from_utf8_lossy(read)).map(plain) == model;
    is_read_differently(path)
        && (path.len() > LONGEST || !manners().all(|manner| agrees(&manner.read(path.as_bytes()))))
}

/// Decodes as often as any server does.
fn plain(name: &str) -> String {
    String::from_utf8_lossy(&decoded(&decoded(name.as_bytes()))).into_owned()
}

/// Whether servers may read the path in different ways.
fn is_read_differently(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.iter().any(|byte| matches!(byte, b'%' | b'\\' | b';'))
        || bytes.windows(2).any(|pair| matches!(pair, b"//" | b"/."))
}

/// Whether the path is one of the gateway's own, `/-/..`, or a spelling that an upstream could read as one. For a path
/// too long for all readings, one segment `-` is enough.
pub(crate) fn is_own(path: &str) -> bool {
    // Each reading ends with a slash: `/-` belongs to the upstream.
    let is_below = |read: &[u8]| read.len() > 3 && read.starts_with(b"/-/");
    path.starts_with("/-/")
        || is_read_differently(path)
            && has_own_segment(path.as_bytes())
            && (path.len() > LONGEST || manners().any(|manner| is_below(&manner.read(path.as_bytes()))))
}

/// Whether `-` is a segment in any reading, as in every path of the gateway's own.
fn has_own_segment(path: &[u8]) -> bool {
    let has_one =
        |path: &[u8]| path.split(|byte| matches!(byte, b'/' | b'\\' | b';' | 0)).any(|segment| segment == b"-");
    let once = decoded(path);
    has_one(path) || has_one(&once) || has_one(&decoded(&once))
}

fn manners() -> impl Iterator<Item = Manner> {
    (0..3).flat_map(|decodes| {
        (0..32_u8).map(move |bits| Manner {
            decodes,
            turns_backslashes: bits & 1 != 0,
            cuts_parameters: bits & 2 != 0,
            merges_slashes: bits & 4 != 0,
            takes_steps: bits & 8 != 0,
            cuts_first: bits & 16 != 0,
        })
    })
}

// === impl Manner ===

impl Manner {
    fn read(self, path: &[u8]) -> Vec<u8> {
        let path = if self.cuts_first { without_parameters(path) } else { path.to_vec() };
        let mut path = (0..self.decodes).fold(path, |path, _| decoded(&path));
        if self.turns_backslashes {
            path.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
        }
        let mut segments = Vec::<&[u8]>::new();
        for segment in path.split(|&byte| byte == b'/').skip(1) {
            let cut = segment.iter().position(|&byte| self.cuts_parameters && matches!(byte, b';' | 0));
            match &segment[..cut.unwrap_or(segment.len())] {
                b"" if self.merges_slashes => {}
                b"." if self.takes_steps => {}
                b".." if self.takes_steps => drop(segments.pop()),
                segment => segments.push(segment),
            }
        }
        let mut read = Vec::with_capacity(path.len());
        for segment in segments {
            read.push(b'/');
            read.extend_from_slice(segment);
        }
        // A path that ends in `.` or `..` is a folder, and a prefix may end with its slash.
        read.push(b'/');
        read
    }
}

/// Removes everything from a `;` to the end of its segment.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let mut is_cut = false;
    let stays = |byte: &&u8| {
        is_cut = **byte != b'/' && (is_cut || **byte == b';');
        !is_cut
    };
    path.iter().filter(stays).copied().collect()
}

/// Without percent-encoding.
pub(crate) fn decoded(path: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut decoded, mut rest) = (Vec::with_capacity(path.len()), path);
    while let [first, after @ ..] = rest {
        match (first, digit(after.first()), digit(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_gateways_own_is_known_in_every_spelling() {
        for path in [
            "/-/",
            "/-/metrics",
            "//-/metrics",
            "/%2d/metrics",
            "/%252D/metrics",
            "/-%2Fmetrics",
            "/x/../-/metrics",
            "/./-/metrics",
            "/-;v=1/metrics",
            "\\-\\metrics",
            "/%5c-%5Cmetrics",
            "/-%00/metrics",
            "/;x/-/metrics",
            // Decoded once, it is still a spelling of the path.
            "/%%32d/metrics",
            "/%2%64/metrics",
            "/%25%32%64/metrics",
        ] {
            assert!(is_own(path), "{path}");
            // No length hides it.
            assert!(is_own(&format!("{}{path}", "/x/..".repeat(LONGEST / 5 + 1))), "{path}, behind many steps");
        }
        for path in ["/", "/-", "/-x", "/x/-/y", "/v1/a-b", "/v1/a%20b", "//v1/-/x", "/-%20/x"] {
            assert!(!is_own(path), "{path}");
        }
    }

    #[test]
    fn no_reading_is_of_a_path_of_the_gateways_own_without_such_a_segment() {
        // All paths of up to five pieces. Paths that are too long are recognised by the segment alone.
        let pieces = ["/", "-", "..", ";", "\\", "%2f", "%2", "d", "%25", "%00"];
        let mut paths = vec![String::from("/")];
        for _ in 0..4 {
            paths = paths.iter().flat_map(|path| pieces.iter().map(move |piece| format!("{path}{piece}"))).collect();
            for path in &paths {
                let is_read_so = manners().any(|manner| manner.read(path.as_bytes()).starts_with(b"/-/"));
                assert!(!is_read_so || has_own_segment(path.as_bytes()), "{path}");
            }
        }
    }

    #[test]
    fn a_path_in_which_servers_find_different_models_is_found() {
        for path in [
            "/v1beta/models%2Fdeep:generateContent",
            "/v1beta/models/deep%3AgenerateContent",
            "/v1beta/models/x/../deep:generateContent",
            "/v1beta/models/deep;x:generateContent",
            "/v1beta/models\\deep:generateContent",
            "/openai/deployments//deep/chat/completions",
            "/openai/deployments/./deep/chat/completions",
            "/openai/deployments/sim/../deep/chat/completions",
            "/openai/deployments/%2e%2e/deployments/deep/chat",
            "/openai/%64eployments/deep/chat/completions",
            &format!("/model/{}/converse", "%20".repeat(1_000)),
        ] {
            assert!(has_unclear_model(path), "{path}");
        }
        for (path, name) in [
            ("/v1/chat/completions", None),
            ("/v1//chat/./completions", None),
            ("/v1/models/org%2Fmodel", None),
            ("/v1beta/models/deep:generateContent", Some("deep")),
            ("/v1beta/models/d%65ep:generateContent", Some("deep")),
            ("/v1beta//models/deep:generateContent", Some("deep")),
            ("/model/nova-v1%3A0/converse", Some("nova-v1:0")),
        ] {
            assert_eq!((has_unclear_model(path), model(path).as_deref()), (false, name), "{path}");
        }
    }

    fn ambiguous(path: &str, prefixes: &[&str]) -> bool {
        is_ambiguous(path, &prefixes.iter().copied())
    }

    #[test]
    fn a_path_that_some_servers_read_as_another_routes_is_found() {
        for path in [
            "//v1/chat",
            "/./v1/chat",
            "/x/../v1/chat",
            "/x/%2e%2E/v1/chat",
            "/x%2f..%2Fv1/chat",
            "/x/..;a=b/v1/chat",
            "/;x/v1/chat",
            "/x/..%00/v1/chat",
            "/x\\..\\v1/chat",
            "/%76%31/chat",
            "/%2576%2531/chat",
            "/%252e/v1/chat",
            "/x/..//v1/chat",
            "/x//../v1/chat",
            "/V1/chat",
            "/%561/chat",
            "/v1;x/chat",
            "/v1/../chat",
            "/v1/..%2f..%2f/x",
            "/v1//../../x",
            // Tomcat cuts the part after `;` and decodes the rest.
            "/;%2f..%2fx/%76%31/chat",
            "/x/%2e%2e;%2fy/v1/chat",
            "/v1/%2e%2e;%2fv1/x",
        ] {
            assert!(ambiguous(path, &["/v1/"]), "{path}");
        }
        assert!(ambiguous(&format!("/v1/{}", "%41".repeat(2_000)), &["/v1/"]), "too long to be read in every way");
        assert!(ambiguous("/a/../b/x", &["/a/", "/b/"]));
    }

    #[test]
    fn what_all_servers_read_as_one_routes_is_not() {
        for path in [
            "/v1/chat",
            "/v2/chat",
            "/",
            "*",
            "",
            "/v1/models/org%2Fmodel",
            "/v1/models/a;b",
            "/v1/x/../chat",
            "/v1/x//y",
            "/v1/./x",
            "/x//y",
            "/models/a%20b",
            "/v1/%2525",
            "/v1/100%",
            "/x/..v1/",
        ] {
            assert!(!ambiguous(path, &["/v1/"]), "{path}");
        }
        // If all paths belong to one route, no reading leads to another.
        for path in ["//v1/../x", "/%2e%2e/x", "/V1"] {
            assert!(!ambiguous(path, &["/"]) && !ambiguous(path, &["", "/"]), "{path}");
        }
    }

    #[test]
    fn whatever_is_read_one_after_the_other_is_found_too() {
        // All paths of up to five pieces: a path is ambiguous if one reading begins with the prefix and the literal
        // text does not, or the other way round.
        let pieces = ["/", "v1", "..", ".", ";", "%2f", "%2e", "x"];
        let mut paths = vec![String::from("/")];
        for _ in 0..4 {
            paths = paths.iter().flat_map(|path| pieces.iter().map(move |piece| format!("{path}{piece}"))).collect();
            for path in &paths {
                let literal = path.starts_with("/v1/");
                for read in [usual(path), tomcat(path)] {
                    assert!(literal == read.starts_with("/v1/") || ambiguous(path, &["/v1/"]), "{path}");
                }
            }
        }
    }

    /// Tomcat's reading with `%2f` allowed: parameters cut, then the same.
    fn tomcat(path: &str) -> String {
        let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
        usual(&segments.collect::<Vec<_>>().join("/"))
    }

    /// nginx's reading: decoded, slashes merged, `.` and `..` resolved.
    fn usual(path: &str) -> String {
        let mut segments = Vec::new();
        let decoded = path.replace("%2f", "/").replace("%2e", ".");
        for segment in decoded.split('/') {
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                segment => segments.push(segment),
            }
        }
        let end = if ["/", "/.", "/.."].iter().any(|end| decoded.ends_with(end)) { "/" } else { "" };
        format!("/{}{end}", segments.join("/"))
    }
}
