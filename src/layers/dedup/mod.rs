//! One upstream call for several identical requests: see [`DedupLayer`].

// In the order in which they import each other, the outermost first:
//
// - `layer`: the settings, `service`: what passes and what is read, `future`: from reading to the answer.
// - `reading`: a request whose body is being read, `key`: by what it is recognised.
// - `request`: what becomes of a request, by what the store says; `answer`: how it gets its answer then.
// - `driver`: who polls the call that several requests share, `upstream_call`: the call itself; `grace`: the task that polls it
//   when all have left; `recorder`: what is recorded of its answer, and whether that is kept.
// - `come_back`: a request at the URL of an answer, `returning`: its caller until it has its head; `offer`: where it was told that
//   the answer is, `answers`: what can be come back to, `held`: until when, `sweeper`: the task that drops what has expired.
// - `body`: the response body. `config` and `resumable`: the settings as values. `role`: how a response came about.

mod answer;
mod answers;
mod body;
mod call_limit;
mod come_back;
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
mod upstream_call;

pub use self::body::DedupBody;
pub use self::config::InFlightPolicy;
pub use self::future::DedupFuture;
pub use self::layer::DedupLayer;
pub use self::resumable::Resumable;
pub use self::role::DedupRole;
pub use self::service::Dedup;
