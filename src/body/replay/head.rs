use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

/// The head of a request, kept for another attempt.
///
/// All fields in one piece of memory, and not a map: most calls need no other attempt, and a copy of a map shares each
/// name and value for itself, which costs two atomic operations a piece. The map is made again when it is needed.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    uri: Uri,
    version: Version,
    /// Of each field: a [`Lengths`], the name, the value.
    fields: Vec<u8>,
    pub(crate) extensions: Extensions,
}

/// The length of a name, the length of a value, and whether it is sensitive: in one word.
#[derive(Clone, Copy)]
struct Lengths(u64);

const WORD: usize = size_of::<u64>();
/// Names, values and lengths of most heads fit in so much a field.
const TYPICAL: usize = 64;

// === impl Head ===

impl Head {
    pub(crate) fn of(head: &Parts) -> Self {
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            fields: pack(&head.headers),
            extensions: head.extensions.clone(),
        }
    }

    /// Whether it says something under this name.
    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        self.fields().any(|(field, value, _)| field == name.as_str().as_bytes() && !value.is_empty())
    }

    /// The head, as it was.
    pub(crate) fn restore(&self) -> Parts {
        let mut head = Request::new(()).into_parts().0;
        head.method = self.method.clone();
        head.uri = self.uri.clone();
        head.version = self.version;
        head.extensions = self.extensions.clone();
        for (name, value, is_sensitive) in self.fields() {
            // What was a name and a value is one still.
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(&name), HeaderValue::from_maybe_shared(value)) {
                value.set_sensitive(is_sensitive);
                head.headers.append(name, value);
            }
        }
        head
    }

    fn fields(&self) -> impl Iterator<Item = (Bytes, Bytes, bool)> + use<> {
        let mut left = Bytes::copy_from_slice(&self.fields);
        std::iter::from_fn(move || {
            let lengths = Lengths(u64::from_le_bytes(*left.first_chunk()?));
            let _ = left.split_to(WORD);
            let name = left.split_to(lengths.name().min(left.len()));
            let value = left.split_to(lengths.value().min(left.len()));
            Some((name, value, lengths.is_sensitive()))
        })
    }
}

fn pack(headers: &HeaderMap) -> Vec<u8> {
    let mut fields = Vec::with_capacity(TYPICAL * headers.len());
    for (name, value) in headers {
        let name = name.as_str().as_bytes();
        fields.extend_from_slice(&Lengths::of(name, value).0.to_le_bytes());
        fields.extend_from_slice(name);
        fields.extend_from_slice(value.as_bytes());
    }
    fields
}

// === impl Lengths ===

impl Lengths {
    /// Names are shorter than 64 KiB, which `http` holds.
    fn of(name: &[u8], value: &HeaderValue) -> Self {
        Self((value.len() as u64) << 17 | (name.len() as u64) << 1 | u64::from(value.is_sensitive()))
    }

    fn name(self) -> usize {
        usize::try_from(self.0 >> 1 & 0xffff).unwrap_or_default()
    }

    fn value(self) -> usize {
        usize::try_from(self.0 >> 17).unwrap_or_default()
    }

    const fn is_sensitive(self) -> bool {
        self.0 & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn a_head_is_restored_as_it_was() {
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        let (head, ()) = Request::put("http://upstream:8080/v1?q=1")
            .version(Version::HTTP_2)
            .header("x-one", "1")
            .header("accept", "text/plain")
            .header("accept", "text/event-stream")
            .header("authorization", secret)
            .header("x-one", "2")
            .header("x-empty", "")
            .extension(7_u8)
            .body(())
            .unwrap()
            .into_parts();
        let kept = Head::of(&head);
        assert!(kept.has(&HeaderName::from_static("x-one")));
        assert!(!kept.has(&HeaderName::from_static("x-two")));
        assert!(!kept.has(&HeaderName::from_static("x-empty")));
        for _ in 0..2 {
            let restored = kept.restore();
            assert_eq!(restored.method, head.method);
            assert_eq!(restored.uri, head.uri);
            assert_eq!(restored.version, head.version);
            assert_eq!(restored.headers, head.headers);
            assert!(restored.headers["authorization"].is_sensitive());
            assert!(!restored.headers["accept"].is_sensitive());
            assert_eq!(restored.extensions.get(), Some(&7_u8));
        }
    }

    proptest! {
        #[test]
        fn every_field_is_restored(
            fields in proptest::collection::vec(
                ("[a-z0-9-]{1,20}", proptest::collection::vec(32..=255_u8, 0..50), any::<bool>()), 0..30,
            ),
        ) {
            let mut head = Request::new(()).into_parts().0;
            for (name, value, is_sensitive) in fields {
                if let Ok(mut value) = HeaderValue::from_bytes(&value) {
                    value.set_sensitive(is_sensitive);
                    head.headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
                }
            }
            let restored = Head::of(&head).restore();
            prop_assert_eq!(&restored.headers, &head.headers);
            for (restored, value) in restored.headers.values().zip(head.headers.values()) {
                prop_assert_eq!(restored.is_sensitive(), value.is_sensitive());
            }
        }
    }
}
