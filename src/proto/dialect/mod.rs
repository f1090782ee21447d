//! The wire formats ("dialects") of LLM APIs.
//!
//! [`Kind`] names the dialects that this crate knows, and recognises one by the path of a request. Each has its own form of
//! an error inside a stream ([`StreamError`]) and of a heartbeat ([`KeepAlive`]).
//!
//! ```
//! use tower_buttress::proto::dialect::{KeepAlive, Kind, StreamError};
//! use tower_buttress::proto::sse::Ending;
//!
//! let kind = Kind::of_path("/v1beta/models/gemini-3-pro:streamGenerateContent");
//! assert_eq!(kind, Some(Kind::Gemini));
//! assert_eq!(Kind::Gemini.keep_alive(), KeepAlive::BareNewline);
//!
//! let frame = StreamError::of_status(503).message("The upstream is overloaded.").frame(kind, Ending::Lf);
//! assert_eq!(
//!     frame,
//!     "data: {\"error\":{\"code\":503,\"message\":\"The upstream is overloaded.\",\"status\":\"UNAVAILABLE\"}}\n\n",
//! );
//! ```

mod end;
mod kind;
mod stream_error;

pub use self::end::End;
pub use self::kind::{KeepAlive, Kind};
pub use self::stream_error::StreamError;
