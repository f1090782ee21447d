use super::recorder::AnswerRecorder;
use crate::body::observed::Observed;
use crate::body::response::ResponseBody;

/// The response body of [`LastGood`](crate::last_good::LastGood): the upstream's, or that of an earlier answer.
pub type LastGoodBody<B> = Observed<ResponseBody<B>, Box<AnswerRecorder>>;
