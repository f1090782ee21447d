use crate::body::either::EitherBody;
use crate::body::response::ResponseBody;

/// The response body of [`Fallback`](crate::fallback::Fallback): the primary's, or the backup's.
pub type FallbackBody<A, B> = EitherBody<A, ResponseBody<B>>;
