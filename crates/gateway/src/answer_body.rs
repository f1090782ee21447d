use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use tower_buttress::error::BoxError;

/// The body of whatever is answered.
pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;
