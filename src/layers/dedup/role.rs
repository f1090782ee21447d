/// How [`Dedup`](crate::dedup::Dedup) answered a request. In the response's extensions, unless the layer passed or
/// refused the request.
///
/// ```
/// use http::Response;
/// use tower_buttress::DedupRole;
///
/// let mut response = Response::new(());
/// response.extensions_mut().insert(DedupRole::Joined);
/// assert_eq!(response.extensions().get(), Some(&DedupRole::Joined));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DedupRole {
    /// With an upstream call that this request made, and others may have joined.
    Leader,
    /// With a call in flight that another request had made.
    Joined,
    /// With a stored answer.
    Replayed,
    /// With an answer to which its caller came back, at its URL.
    Resumed,
}
