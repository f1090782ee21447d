//! Trailers for callers over HTTP/1.1.
//!
//! hyper writes only trailers that the answer's head announces in `Trailer`. HTTP/2 upstreams, and careless ones, announce none,
//! so the gateway announces common names, and names that its upstreams have sent before.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, Version};
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use super::answer_body::AnswerBody;
use super::headers::accepts_trailers;

/// Names of gRPC, RFC 9530, RFC 9421, W3C's Server-Timing and the providers' SDKs.
const COMMON: &str = "grpc-status, grpc-message, grpc-status-details-bin, content-digest, repr-digest, digest, content-md5, etag, signature, \
     signature-input, server-timing, x-request-id, x-checksum, x-amz-checksum-crc32, x-amz-checksum-crc32c, \
     x-amz-checksum-crc64nvme, x-amz-checksum-sha1, x-amz-checksum-sha256, x-amz-trailer-signature";

/// Limit of learned names, for upstreams that invent a name per answer.
const MAX_LEARNED: usize = 32;

/// Limit of a learned name's length: every answer to such a caller carries all names in its head.
const MAX_NAME: usize = 64;

/// The trailer names announced to HTTP/1.1 callers.
#[derive(Clone, Debug)]
pub(crate) struct TrailerNames(Arc<RwLock<Announcement>>);

#[derive(Debug)]
struct Announcement {
    learned: Vec<HeaderName>,
    /// The value of the `Trailer` field.
    value: HeaderValue,
}

/// Whether this client reads trailers, and gets only announced ones.
pub(crate) fn needs_announcement(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11 && accepts_trailers(headers)
}

// === impl TrailerNames ===

impl TrailerNames {
    /// Announces trailers in addition to those that the upstream announced, and learns the names that arrive.
    pub(crate) fn announce(&self, mut response: Response<AnswerBody>) -> Response<AnswerBody> {
        // A response with a length cannot have trailers.
        if response.headers().contains_key(CONTENT_LENGTH) || response.body().size_hint().exact().is_some() {
            return response;
        }
        let mut announced: Vec<HeaderName> = names(response.headers()).collect();
        let announcement = self.0.read().unwrap_or_else(PoisonError::into_inner).value.clone();
        response.headers_mut().append(TRAILER, announcement);
        let names = self.clone();
        response.map(|body| {
            body.map_frame(move |frame: Frame<Bytes>| {
                if let Some(trailers) = frame.trailers_ref() {
                    names.learn(trailers, &std::mem::take(&mut announced));
                }
                frame
            })
            .boxed_unsync()
        })
    }

    fn learn(&self, trailers: &HeaderMap, announced: &[HeaderName]) {
        let common: HeaderMap = HeaderMap::from_iter([(TRAILER, HeaderValue::from_static(COMMON))]);
        let is_unknown = |name: &&HeaderName| {
            !announced.contains(name) && name.as_str().len() <= MAX_NAME && !names(&common).any(|known| known == **name)
        };
        for name in trailers.keys().filter(is_unknown) {
            self.0.write().unwrap_or_else(PoisonError::into_inner).add(name);
        }
    }
}

impl Default for TrailerNames {
    fn default() -> Self {
        let announcement = Announcement { learned: Vec::new(), value: HeaderValue::from_static(COMMON) };
        Self(Arc::new(RwLock::new(announcement)))
    }
}

// === impl Announcement ===

impl Announcement {
    fn add(&mut self, name: &HeaderName) {
        if self.learned.len() >= MAX_LEARNED || self.learned.contains(name) {
            return;
        }
        let Ok(value) = HeaderValue::try_from([self.value.as_bytes(), b", ", name.as_str().as_bytes()].concat()) else {
            return;
        };
        tracing::warn!(
            trailer = name.as_str(),
            "a trailer that the upstream did not announce was lost for an HTTP/1.1 caller; later answers announce it"
        );
        self.value = value;
        self.learned.push(name.clone());
    }
}

/// The names in `Trailer`.
fn names(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    super::headers::members(headers, &TRAILER).filter_map(|name| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trailers(count: usize) -> HeaderMap {
        let name = |n| HeaderName::try_from(format!("x-{n}")).unwrap();
        (0..count).map(|n| (name(n), HeaderValue::from_static("1"))).collect()
    }

    #[test]
    fn what_was_announced_or_is_common_is_not_learned() {
        let names = TrailerNames::default();
        let sent =
            HeaderMap::from_iter(["etag", "x-sum", "x-new"].map(|name| (name.parse().unwrap(), "1".parse().unwrap())));
        names.learn(&sent, &["x-sum".parse().unwrap()]);
        assert_eq!(names.0.read().unwrap().learned, ["x-new"]);
        assert_eq!(names.0.read().unwrap().value, format!("{COMMON}, x-new"));
    }

    #[test]
    fn an_upstream_that_invents_names_is_followed_for_a_few() {
        let names = TrailerNames::default();
        names.learn(&trailers(1000), &[]);
        names.learn(&HeaderMap::from_iter([("x".repeat(65).parse().unwrap(), "1".parse().unwrap())]), &[]);
        assert_eq!(names.0.read().unwrap().learned.len(), MAX_LEARNED);
    }
}
