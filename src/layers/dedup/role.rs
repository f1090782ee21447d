/// How a response of [`Dedup`](crate::dedup::Dedup) came about. In the response's extensions, unless the layer let the request
/// pass or refused it.
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
    /// By a call to the upstream that this request made, and others may have joined.
    Leader,
    /// By a call that another request had made, and that was in flight.
    Joined,
    /// By an answer that was kept.
    Replayed,
    /// By an answer to which its caller came back, at the URL that it was given.
    Resumed,
}
