use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

/// The head of a request, kept for another attempt.
///
/// A list of fields, and not a map: most calls need no other attempt, and copying a list takes half of what copying a
/// map takes. The map is made again when it is needed.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    uri: Uri,
    version: Version,
    fields: Vec<(HeaderName, HeaderValue)>,
    pub(crate) extensions: Extensions,
}

// === impl Head ===

impl Head {
    pub(crate) fn of(head: &Parts) -> Self {
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            fields: fields(&head.headers),
            extensions: head.extensions.clone(),
        }
    }

    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        self.fields.iter().any(|(field, _)| field == name)
    }

    /// The head, as it was.
    pub(crate) fn restore(&self) -> Parts {
        let mut head = Request::new(()).into_parts().0;
        head.method = self.method.clone();
        head.uri = self.uri.clone();
        head.version = self.version;
        for (name, value) in &self.fields {
            head.headers.append(name, value.clone());
        }
        head.extensions = self.extensions.clone();
        head
    }
}

fn fields(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = Vec::with_capacity(headers.len());
    fields.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    fields
}

#[cfg(test)]
mod tests {
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
            .extension(7_u8)
            .body(())
            .unwrap()
            .into_parts();
        let kept = Head::of(&head);
        assert!(kept.has(&HeaderName::from_static("x-one")));
        assert!(!kept.has(&HeaderName::from_static("x-two")));
        let restored = kept.restore();
        assert_eq!(restored.method, head.method);
        assert_eq!(restored.uri, head.uri);
        assert_eq!(restored.version, head.version);
        assert_eq!(restored.headers, head.headers);
        assert!(restored.headers["authorization"].is_sensitive());
        assert_eq!(restored.extensions.get(), Some(&7_u8));
    }
}
