use super::shared_body::SharedBody;
use crate::body::either::EitherBody;

/// The response body of [`Dedup`](crate::dedup::Dedup): of a request that passed or was refused, or of a shared call.
pub type DedupBody<B> = EitherBody<B, SharedBody>;
