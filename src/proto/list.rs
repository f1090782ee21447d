//! Lists in headers: members separated by commas, on any number of lines (RFC 9110, 5.6.1).

use http::{HeaderMap, HeaderName, HeaderValue};

/// Returns the members of all lines of `name`, without the space around them. Empty members are skipped, as the RFC says.
/// For headers without quoted commas.
///
/// ```
/// use http::header::{HeaderMap, HeaderValue, VIA};
/// use tower_buttress::proto::list;
///
/// let headers = HeaderMap::from_iter([(VIA, HeaderValue::from_static("1.1 one, ,2.0 two"))]);
/// assert!(list::members(&headers, &VIA).eq([b"1.1 one", b"2.0 two"]));
/// ```
pub fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().flat_map(members_of)
}

/// The same of one line.
pub(crate) fn members_of(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// The parts of a member: its name, then its parameters.
pub(crate) fn parts(member: &[u8]) -> impl Iterator<Item = &[u8]> {
    member.split(|&byte| byte == b';').map(<[u8]>::trim_ascii)
}

/// Whether a member's name is `token`, in any case, with any parameters.
pub(crate) fn names(member: &[u8], token: &str) -> bool {
    parts(member).next().is_some_and(|name| name.eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use http::header::CACHE_CONTROL;

    use super::*;

    #[test]
    fn lines_and_commas_are_the_same() {
        let mut headers = HeaderMap::new();
        for line in ["no-cache, ,", " No-Store ; x=1,max-age=5"] {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
        }
        let found: Vec<&[u8]> = members(&headers, &CACHE_CONTROL).collect();
        assert_eq!(found, [&b"no-cache"[..], b"No-Store ; x=1", b"max-age=5"]);
        assert!(names(found[1], "no-store") && !names(found[2], "max-age"));
        assert_eq!(parts(found[1]).collect::<Vec<_>>(), [&b"No-Store"[..], b"x=1"]);
    }
}
