use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use tower_buttress::error::BoxError;

/// The body of every answer: an upstream's, or one that the gateway makes.
pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;
