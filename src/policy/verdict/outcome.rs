//! The outcome of an attempt.

use std::error::Error;
use std::fmt;

use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, Uri};

use crate::error;
use crate::rejection::Rejection;

/// The outcome of an attempt: the head of an answer, an error, or the end of a body; with the request, if the classifier
/// [needs](super::Classify::needs_request) it.
#[derive(Clone, Copy)]
pub struct Outcome<'a> {
    part: OutcomePart<'a>,
    request: Option<RequestView<'a>>,
}

#[derive(Clone, Copy)]
enum OutcomePart<'a> {
    Head {
        status: StatusCode,
        headers: &'a HeaderMap,
        extensions: &'a Extensions,
    },
    Error(&'a (dyn Error + 'static)),
    /// `None`: trailers were expected, and did not come.
    End(Option<&'a HeaderMap>),
}

/// The kept parts of the request that an [`Outcome`] answers.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RequestView<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its URI, as the layer saw it.
    pub uri: &'a Uri,
    /// Its extensions.
    pub extensions: &'a Extensions,
}

/// The same, kept until the call has ended.
#[derive(Clone)]
pub(crate) struct KeptRequest {
    method: Method,
    uri: Uri,
    extensions: Extensions,
}

/// In the extensions of a response whose body began with its trailers: they have the outcome, and nothing was forwarded
/// to the caller yet.
#[derive(Clone, Debug)]
pub(crate) struct EarlyTrailers(pub(crate) HeaderMap);

// === impl Outcome ===

impl<'a> Outcome<'a> {
    /// Returns the outcome of a service call.
    #[inline]
    pub fn of<B, E: Error + 'static>(result: &'a Result<Response<B>, E>) -> Self {
        match result {
            Ok(response) => Self::head(response),
            Err(err) => Self::failure(err),
        }
    }

    /// The head of an answer, or of a refusal of this crate's layers.
    #[inline]
    #[must_use]
    pub fn head<B>(response: &'a Response<B>) -> Self {
        let (status, headers, extensions) = (response.status(), response.headers(), response.extensions());
        Self::new(OutcomePart::Head { status, headers, extensions })
    }

    /// No answer came, or its body broke off.
    #[must_use]
    pub const fn failure(err: &'a (dyn Error + 'static)) -> Self {
        Self::new(OutcomePart::Error(err))
    }

    /// The body of an answer ended with these trailers.
    #[must_use]
    pub const fn end(trailers: &'a HeaderMap) -> Self {
        Self::new(OutcomePart::End(Some(trailers)))
    }

    /// The body of an answer ended without the expected trailers: a gRPC stream without a status.
    #[must_use]
    pub const fn end_without_trailers() -> Self {
        Self::new(OutcomePart::End(None))
    }

    const fn new(part: OutcomePart<'a>) -> Self {
        Self { part, request: None }
    }

    /// Adds the request.
    #[must_use]
    pub const fn with_request(mut self, request: RequestView<'a>) -> Self {
        self.request = Some(request);
        self
    }

    /// The request, which the layers pass to classifiers that [need](super::Classify::needs_request) it.
    #[must_use]
    pub const fn request(&self) -> Option<RequestView<'a>> {
        self.request
    }

    /// The status, if there is a head.
    #[must_use]
    pub const fn status(&self) -> Option<StatusCode> {
        match self.part {
            OutcomePart::Head { status, .. } => Some(status),
            _ => None,
        }
    }

    /// The headers, if there is a head.
    #[must_use]
    pub const fn headers(&self) -> Option<&'a HeaderMap> {
        match self.part {
            OutcomePart::Head { headers, .. } => Some(headers),
            _ => None,
        }
    }

    /// The response's extensions, if there is a head.
    #[must_use]
    pub const fn extensions(&self) -> Option<&'a Extensions> {
        match self.part {
            OutcomePart::Head { extensions, .. } => Some(extensions),
            _ => None,
        }
    }

    /// The trailers, at the end of a body, or with the head if the body began with them
    /// ([`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer) sees that).
    #[must_use]
    pub fn trailers(&self) -> Option<&'a HeaderMap> {
        match self.part {
            OutcomePart::Head { extensions, .. } => extensions.get().map(|EarlyTrailers(trailers)| trailers),
            OutcomePart::End(trailers) => trailers,
            OutcomePart::Error(_) => None,
        }
    }

    /// Whether this is the end of a body, with or without the expected trailers.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self.part, OutcomePart::End(_))
    }

    /// The refusal of a layer of this crate, as a response or as an error.
    #[inline]
    #[must_use]
    pub fn rejection(&self) -> Option<&'a Rejection> {
        match self.part {
            OutcomePart::Head { extensions, .. } => extensions.get(),
            OutcomePart::Error(err) => error::find(err),
            OutcomePart::End(_) => None,
        }
    }

    /// The error, if no answer came or its body broke off.
    #[must_use]
    pub const fn cause(&self) -> Option<&'a (dyn Error + 'static)> {
        match self.part {
            OutcomePart::Error(err) => Some(err),
            _ => None,
        }
    }

    /// Returns the first error of type `E` among the error and its sources.
    #[must_use]
    pub fn error<E: Error + 'static>(&self) -> Option<&'a E> {
        self.cause().and_then(error::find)
    }
}

/// Without headers, which hold credentials.
impl fmt::Debug for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part: &dyn fmt::Debug = match &self.part {
            OutcomePart::Head { status, .. } => status,
            OutcomePart::Error(err) => err,
            OutcomePart::End(Some(_)) => &"trailers",
            OutcomePart::End(None) => &"end without trailers",
        };
        f.debug_struct("Outcome").field("part", part).field("request", &self.request).finish()
    }
}

// === impl RequestView ===

impl<'a> RequestView<'a> {
    /// The view of a request.
    #[must_use]
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self::new(request.method(), request.uri(), request.extensions())
    }

    /// The view of a request in parts.
    #[must_use]
    pub const fn new(method: &'a Method, uri: &'a Uri, extensions: &'a Extensions) -> Self {
        Self { method, uri, extensions }
    }
}

// === impl KeptRequest ===

impl KeptRequest {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self { method: request.method().clone(), uri: request.uri().clone(), extensions: request.extensions().clone() }
    }

    pub(crate) const fn view(&self) -> RequestView<'_> {
        RequestView::new(&self.method, &self.uri, &self.extensions)
    }
}

/// Without the query, which may hold a key.
impl fmt::Debug for RequestView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestView")
            .field("method", self.method)
            .field("path", &self.uri.path())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_credential() {
        let request =
            Request::post("http://me:secret@a/v1?key=secret").header("authorization", "secret").body(()).unwrap();
        let response = Response::builder().header("set-cookie", "secret").body(()).unwrap();
        let shown = format!("{:?}", Outcome::head(&response).with_request(RequestView::of(&request)));
        assert!(!shown.contains("secret") && shown.contains("/v1"), "{shown}");
    }

    #[test]
    fn debug_says_what_it_is() {
        let err = std::io::Error::other("broken");
        assert!(format!("{:?}", Outcome::failure(&err)).contains("broken"));
        assert!(format!("{:?}", Outcome::end(&HeaderMap::new())).contains("\"trailers\""));
        assert!(format!("{:?}", Outcome::end_without_trailers()).contains("end without trailers"));
        let request = Request::post("http://a/v1").body(()).unwrap();
        let view = format!("{:?}", RequestView::of(&request));
        assert!(view.contains("POST") && view.contains("/v1"), "{view}");
    }
}
