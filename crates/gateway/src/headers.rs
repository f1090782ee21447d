//! Rewrites header fields as a gateway must (RFC 9110, section 7.6).

use std::net::IpAddr;

use http::header::{
    CONNECTION, COOKIE, Entry, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version};
use http_body::Body;
use tower_buttress::proto::list::members;

use super::ids::X_REQUEST_ID;

/// Hop-by-hop whether or not `Connection` names them (RFC 9110, 7.6.1; for the last two 11.7). `Trailer` is not in the
/// list: it accompanies the trailers, which are forwarded.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
];

/// Header in which callers and providers send a key, beside `Authorization`.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Most fields in which proxies tell the address of a client begin or end like this.
const ORIGIN_PREFIX: &str = "x-forwarded";
const ORIGIN_ENDS: [&str; 2] = ["forwarded-for", "remote-addr"];
const ADDRESS_WORDS: [&str; 5] = ["ip", "ipv4", "ipv6", "clientip", "socketip"];
/// Other fields in which proxies tell of a request as they got it.
const ORIGIN_NAMES: [&str; 11] = [
    "forwarded",
    "x-envoy-external-address",
    "cloudfront-viewer-address",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
    "x-host",
    "x-http-host-override",
    "x-scheme",
    "front-end-https",
];

/// The gateway's name in `Via`, and how many of them a request may have.
const OWN_NAME: &[u8] = b"tower-buttress";
const MAX_GATEWAYS: usize = 10;

/// The peer of a client's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// Whether its forwarding headers are believed.
    pub(crate) is_trusted_proxy: bool,
    pub(crate) has_tls: bool,
}

/// Turns a client's request into the gateway's own.
pub(crate) fn forward_request(parts: &mut Parts, peer: Peer) {
    let headers = &mut parts.headers;
    let trailers = accepts_trailers(headers);
    remove_hop_by_hop(headers, is_ours);
    if trailers {
        // The gateway forwards trailers, so the upstream may send them.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if parts.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    // The client writes the `Host` of the upstream. Without it, layers see equal requests under every name of the
    // gateway as equal.
    let host = headers.remove(HOST);
    // The authority wins over `Host` (RFC 9112, 3.2.2); in HTTP/2 it is all there is.
    let host = match parts.uri.authority() {
        // Without user information, which is no part of a host (RFC 9110, 4.2.4).
        Some(authority) => authority.as_str().rsplit('@').next().and_then(|host| HeaderValue::from_str(host).ok()),
        None => host,
    };
    if let Some(path) = parts.uri.path_and_query().filter(|_| parts.uri.authority().is_some()) {
        parts.uri = Uri::from(path.clone());
    }
    forward_address(headers, peer, host);
    via(headers, parts.version);
    parts.version = Version::HTTP_11;
}

/// Marks the headers with these names as credentials: they go to no upstream but the caller's own.
pub(crate) fn mark_credentials(headers: &mut HeaderMap, names: &[HeaderName]) {
    let is_one = |name: &HeaderName| names.iter().any(|known| is_spelling(name.as_str(), known.as_str()));
    headers.iter_mut().filter(|(name, _)| is_one(name)).for_each(|(_, value)| value.set_sensitive(true));
}

/// Fields that `Connection` may not remove: the call's id, and what trusted proxies say of its origin.
fn is_ours(name: &HeaderName) -> bool {
    *name == X_REQUEST_ID || names_origin(name)
}

/// Fields that proxies add to a request.
pub(crate) fn is_of_proxies(name: &HeaderName) -> bool {
    *name == VIA || names_origin(name)
}

/// Whether a field tells of the client, or of the request, as a proxy in front saw them.
fn names_origin(name: &HeaderName) -> bool {
    let name = name.as_str();
    let last_word = name.rsplit(['-', '_']).next().unwrap_or_default();
    let ends_like = |end: &&str| {
        let tail = name.len().checked_sub(end.len()).and_then(|start| name.get(start..));
        tail.is_some_and(|tail| is_spelling(tail, end))
    };
    ADDRESS_WORDS.contains(&last_word)
        || ORIGIN_ENDS.iter().any(ends_like)
        || name.get(..ORIGIN_PREFIX.len()).is_some_and(|start| is_spelling(start, ORIGIN_PREFIX))
        || ORIGIN_NAMES.iter().any(|known| is_spelling(name, known))
}

/// Whether upstreams may read `name` as `known`: CGI, WSGI and PHP turn both `-` and `_` into `_`.
fn is_spelling(name: &str, known: &str) -> bool {
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
    name.len() == known.len() && name.bytes().map(dashed).eq(known.bytes().map(dashed))
}

/// Adds the forwarding fields. Keeps existing ones only from trusted proxies.
fn forward_address(headers: &mut HeaderMap, peer: Peer, host: Option<HeaderValue>) {
    if !peer.is_trusted_proxy {
        let claims: Vec<HeaderName> = headers.keys().filter(|name| names_origin(name)).cloned().collect();
        for name in claims {
            headers.remove(name);
        }
    }
    let address = peer.address.to_canonical();
    if let Some(address) = text(address) {
        append(headers, X_FORWARDED_FOR, address);
    }
    if headers.contains_key(FORWARDED) {
        let node = if address.is_ipv6() { format!("for=\"[{address}]\"") } else { format!("for={address}") };
        if let Ok(node) = HeaderValue::try_from(node) {
            append(headers, FORWARDED, node);
        }
    }
    // A balancer in front knows these better.
    if let (Some(host), Entry::Vacant(vacant)) = (host, headers.entry(X_FORWARDED_HOST)) {
        vacant.insert(host);
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(if peer.has_tls { "https" } else { "http" }));
}

/// Turns an upstream's response into the gateway's own.
pub(crate) fn forward_response(parts: &mut http::response::Parts) {
    remove_hop_by_hop(&mut parts.headers, |_| false);
    parts.version = Version::HTTP_11;
}

/// Removes hop-by-hop fields, except those `kept` although `Connection` names them.
fn remove_hop_by_hop(headers: &mut HeaderMap, kept: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> =
        members(headers, &CONNECTION).filter_map(|option| HeaderName::from_bytes(option).ok()).collect();
    // Few messages have any of these: names are compared faster than they are looked up.
    let known: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in named.iter().filter(|name| !kept(name)).chain(&known) {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    let is_other_spelling = || HOP_BY_HOP.iter().any(|known| is_spelling(name.as_str(), known.as_str()));
    HOP_BY_HOP.contains(name) || name.as_str().contains('_') && is_other_spelling()
}

/// Whether the list in `name` has the member `option`.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, option: &str) -> bool {
    members(headers, name).any(|member| member.eq_ignore_ascii_case(option.as_bytes()))
}

/// Whether `Host` is as RFC 9112, 3.2 asks of HTTP/1.1: there, and once.
pub(crate) fn has_host<B>(request: &Request<B>) -> bool {
    request.version() != Version::HTTP_11 || request.headers().get_all(HOST).iter().count() == 1
}

/// Whether the body has a transfer coding other than `chunked`, which is all that is decoded. The upstream would get what it
/// encodes without its name.
pub(crate) fn has_unknown_coding(request: &Request<impl Body>) -> bool {
    if request.body().is_end_stream() {
        return false;
    }
    let mut codings = members(request.headers(), &TRANSFER_ENCODING);
    let first = codings.next();
    codings.next().is_some() || first.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked"))
}

/// Whether the sender of this request reads trailers.
pub(crate) fn accepts_trailers(headers: &HeaderMap) -> bool {
    lists(headers, &TE, "trailers")
}

/// Joins cookie fields: HTTP/2 may split them, HTTP/1.1 may not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut whole = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(mut whole) = HeaderValue::from_bytes(&whole) {
        whole.set_sensitive(true);
        headers.insert(COOKIE, whole);
    }
}

/// Whether the request has passed so many gateways that they must be forwarding it in a loop.
pub(crate) fn is_loop(headers: &HeaderMap) -> bool {
    let is_own = |hop: &&[u8]| hop.split(|&byte| byte == b' ').nth(1) == Some(OWN_NAME);
    members(headers, &VIA).filter(is_own).count() >= MAX_GATEWAYS
}

fn via(headers: &mut HeaderMap, version: Version) {
    // With `OWN_NAME`.
    let via = HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 tower-buttress",
        Version::HTTP_2 => "2.0 tower-buttress",
        _ => "1.1 tower-buttress",
    });
    append(headers, VIA, via);
}

/// Appends a member to a list and joins the list into one line.
fn append(headers: &mut HeaderMap, name: HeaderName, member: HeaderValue) {
    let mut list = Vec::new();
    for value in headers.get_all(&name) {
        // A value that is not text counts as empty.
        if let Ok(value) = value.to_str() {
            list.extend_from_slice(value.as_bytes());
            list.extend_from_slice(b", ");
        }
    }
    if list.is_empty() {
        headers.insert(name, member);
        return;
    }
    list.extend_from_slice(member.as_bytes());
    if let Ok(value) = HeaderValue::try_from(list) {
        headers.insert(name, value);
    }
}

/// An address as a field has it. The usual kind is written without the formatter: there is one in each request.
fn text(address: IpAddr) -> Option<HeaderValue> {
    let IpAddr::V4(address) = address else { return HeaderValue::try_from(address.to_string()).ok() };
    let mut text = Vec::with_capacity("255.255.255.255".len());
    for (nth, octet) in address.octets().into_iter().enumerate() {
        if nth > 0 {
            text.push(b'.');
        }
        if octet >= 100 {
            text.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            text.push(b'0' + octet / 10 % 10);
        }
        text.push(b'0' + octet % 10);
    }
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn peer(address: &str, is_trusted_proxy: bool) -> Peer {
        Peer { address: address.parse().unwrap(), is_trusted_proxy, has_tls: false }
    }

    fn forwarded(request: http::request::Builder) -> HeaderMap {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        forward_request(&mut parts, peer("192.0.2.7", true));
        assert_eq!(parts.version, Version::HTTP_11);
        parts.headers
    }

    #[test]
    fn fields_named_by_connection_go_and_the_rest_stays() {
        let headers = forwarded(
            Request::builder()
                .header("connection", "close, X-Private")
                .header("connection", "keep-alive,x-other, ,")
                .header("x-private", "1")
                .header("x-other", "1")
                .header("keep-alive", "timeout=5")
                .header("proxy-connection", "keep-alive")
                .header("proxy-authorization", "Basic eA==")
                .header("transfer-encoding", "chunked")
                .header("upgrade", "h2c")
                .header("http2-settings", "x")
                .header("te", "gzip")
                .header("trailer", "x-sum")
                .header("authorization", "Bearer x"),
        );
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "trailer", "via", "x-forwarded-for", "x-forwarded-proto"]);
    }

    #[test]
    fn trailers_stay_welcome() {
        let headers = forwarded(Request::builder().header("te", "deflate;q=0.5, Trailers"));
        assert_eq!((&headers["te"], &headers["connection"]), (&"trailers".parse().unwrap(), &"te".parse().unwrap()));
        assert!(!forwarded(Request::builder().header("te", "trailers-not")).contains_key("te"));
    }

    #[test]
    fn who_asked_and_for_what_is_handed_on() {
        let headers = forwarded(
            Request::builder()
                .uri("http://name:password@shop.example:81/")
                .header("host", "other.example")
                .header("x-forwarded-for", "198.51.100.1")
                .header("x-forwarded-for", "198.51.100.2")
                .header("x-forwarded-proto", "https")
                .header("via", "1.0 fred"),
        );
        assert!(!headers.contains_key("host"));
        assert_eq!(headers["x-forwarded-host"], "shop.example:81");
        assert_eq!(headers["x-forwarded-for"], "198.51.100.1, 198.51.100.2, 192.0.2.7");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["via"], "1.0 fred, 1.1 tower-buttress");
    }

    #[test]
    fn what_a_stranger_says_of_others_is_replaced() {
        let claims = [
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "bank.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-prefix", "/admin"),
            ("x-real-ip", "10.0.0.1"),
            // CGI, WSGI and PHP read `_` as `-`.
            ("x_forwarded_for", "10.0.0.1"),
            ("x-forwarded_host", "bank.example"),
            ("x_real_ip", "10.0.0.1"),
            ("x-client-ip", "10.0.0.1"),
            ("true-client-ip", "10.0.0.1"),
            ("cf-connecting-ip", "10.0.0.1"),
            ("cf-connecting-ipv6", "2001:db8::1"),
            ("x-cluster-client-ip", "10.0.0.1"),
            ("fastly-client-ip", "10.0.0.1"),
            ("true_client_ip", "10.0.0.1"),
            ("client-ip", "10.0.0.1"),
            ("x-azure-clientip", "10.0.0.1"),
            ("x-original-forwarded-for", "10.0.0.1"),
            ("x-original-host", "bank.example"),
            ("x-original-url", "/admin"),
            ("x_rewrite_url", "/admin"),
            ("x-envoy-external-address", "10.0.0.1"),
            ("forwarded-for", "10.0.0.1"),
            ("x-vercel-forwarded-for", "10.0.0.1"),
            ("x-appengine_remote_addr", "10.0.0.1"),
        ];
        let request = || {
            claims.iter().fold(Request::get("/").header("host", "shop.example"), |request, (name, value)| {
                request.header(*name, *value)
            })
        };
        let (mut parts, ()) = request().body(()).unwrap().into_parts();
        forward_request(&mut parts, peer("2001:db8::7", false));
        parts.headers.remove(VIA);
        let mut left: Vec<_> =
            parts.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        let own =
            [("x-forwarded-for", "2001:db8::7"), ("x-forwarded-host", "shop.example"), ("x-forwarded-proto", "http")];
        assert_eq!(left, own);

        let (mut parts, ()) = request().body(()).unwrap().into_parts();
        forward_request(&mut parts, peer("2001:db8::7", true));
        for (name, value) in claims {
            let appended = match name {
                "forwarded" => r#", for="[2001:db8::7]""#,
                "x-forwarded-for" => ", 2001:db8::7",
                _ => "",
            };
            assert_eq!(parts.headers[name], format!("{value}{appended}"), "{name}");
        }
    }

    #[test]
    fn fields_that_only_resemble_those_of_proxies_pass() {
        let names =
            ["session_id", "x-ip-version", "x-skip", "x-original-model", "x-forward", "description", "ship", "x-tip"];
        let request = names.iter().fold(Request::get("/"), |request, name| request.header(*name, "1"));
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        forward_request(&mut parts, peer("192.0.2.7", false));
        assert_eq!(names.iter().find(|name| !parts.headers.contains_key(**name)), None);
    }

    #[test]
    fn a_connection_field_is_removed_in_each_spelling() {
        let headers = forwarded(
            Request::builder()
                .header("proxy_authorization", "Basic eA==")
                .header("transfer_encoding", "chunked")
                .header("keep_alive", "timeout=5"),
        );
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["via", "x-forwarded-for", "x-forwarded-proto"]);
    }

    #[test]
    fn the_operators_credential_names_are_marked_in_each_spelling() {
        let (mut parts, ()) = Request::get("/")
            .header("x-team", "a")
            .header("x_team", "b")
            .header("x-other", "c")
            .body(())
            .unwrap()
            .into_parts();
        mark_credentials(&mut parts.headers, &[HeaderName::from_static("x-team")]);
        let is_marked = |name: &str| parts.headers[name].is_sensitive();
        assert_eq!(["x-team", "x_team", "x-other"].map(is_marked), [true, true, false]);
    }

    #[test]
    fn connection_cannot_take_our_own_fields_away() {
        let headers = forwarded(Request::builder().header("connection", "x-forwarded-for, via"));
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["via"], "1.1 tower-buttress");
        let request = Request::builder().header("connection", "x-request-id, x-forwarded-for, x-other");
        let request =
            request.header("x-request-id", "a").header("x-forwarded-for", "203.0.113.9").header("x-other", "b");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        forward_request(&mut parts, peer("192.0.2.7", true));
        assert_eq!(parts.headers["x-request-id"], "a");
        assert_eq!(parts.headers["x-forwarded-for"], "203.0.113.9, 192.0.2.7");
        assert!(!parts.headers.contains_key("x-other"));
    }

    #[test]
    fn cookies_are_one_line_in_http_1() {
        let request = Request::builder().version(Version::HTTP_2).header("cookie", "a=1").header("cookie", "b=2");
        let headers = forwarded(request);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn an_address_is_written_as_everywhere() {
        for address in ["0.0.0.0", "1.20.99.100", "109.200.255.10", "2001:db8::7"] {
            assert_eq!(text(address.parse().unwrap()).unwrap(), address);
        }
    }

    #[test]
    fn a_mapped_address_is_written_as_what_it_is() {
        let (mut parts, ()) = Request::new(()).into_parts();
        forward_request(&mut parts, peer("::ffff:192.0.2.7", false));
        assert_eq!(parts.headers["x-forwarded-for"], "192.0.2.7");
    }
}
