use crate::body::either::EitherBody;
use crate::body::request::CallBody;

/// The response body of [`StructuredOutput`](crate::structured_output::StructuredOutput): the upstream's, or the collected one.
pub type StructuredOutputBody<B> = EitherBody<B, CallBody>;
