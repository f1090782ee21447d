//! One upstream call for several requests that ask the same: see [`DedupLayer`].

// In the order in which they import each other, the outermost first:
//
// - `layer`: the settings, `service`: what passes and what is read, `future`: from reading to the answer.
// - `reading`: a request whose body is being read, `key`: by what it is recognised.
// - `request`: what becomes of a request, by what the store says; `answer`: how it gets its answer then.
// - `driver`: the call that several requests share, and who polls it; `grace`: the task that polls it when all have left;
//   `recorder`: what is recorded of its answer, and whether that is kept.
// - `returning`: a caller that comes back to an answer, `offer`: where it was told that the answer is, `answers`: what can be
//   come back to, `held`: until when, `sweeper`: the task that drops what has expired.
// - `body`: the response body. `config` and `resumable`: the settings as values. `role`: how a response came about.

mod answer;
mod answers;
mod body;
mod call_limit;
mod config;
mod driver;
mod future;
mod grace;
mod held;
mod key;
mod layer;
mod offer;
mod reading;
mod recorder;
mod request;
mod resumable;
mod returning;
mod role;
mod service;
mod sweeper;

pub use self::body::DedupBody;
pub use self::config::InFlightPolicy;
pub use self::future::DedupFuture;
pub use self::layer::DedupLayer;
pub use self::resumable::Resumable;
pub use self::role::DedupRole;
pub use self::service::Dedup;
