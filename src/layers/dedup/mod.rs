//! One upstream call for several identical requests: see [`DedupLayer`].

// The modules, in the order in which they import each other, the outermost first:
//
// - `layer`: the settings, `service`: the layer around a service, `future`: from reading to the answer.
// - `reading`: what becomes of a request, and one whose body is being read; `key`: its key.
// - `claiming`: asks the store; `request`: what happens to a request, by the store's result; `answer`: how it then gets
//   its answer.
// - `driver`: which caller polls a shared call, `upstream_call`: the call itself; `grace`: the task that polls it after
//   all have left; `recorder`: records its answer, and decides whether it is stored; `failure`: its end without a head.
// - `come_back`: a request at the URL of an answer, `returning`: its caller until it has its head; `offer`: tells a
//   caller the URL. The answers to come back to, and until when, are in `store::answers`.
// - `body`: the response body, `resumed`: what one caller of a shared call has of its own. `config`: the settings as
//   values. `role`: how a response came about.

mod answer;
mod body;
mod call_limit;
mod claiming;
mod come_back;
mod config;
mod driver;
mod failure;
mod future;
mod grace;
mod key;
mod layer;
mod offer;
mod reading;
mod recorder;
mod request;
mod resumed;
mod returning;
mod role;
mod service;
mod upstream_call;

pub use self::body::DedupBody;
pub use self::config::InFlightPolicy;
pub use self::future::DedupFuture;
pub use self::layer::DedupLayer;
pub use self::role::DedupRole;
pub use self::service::Dedup;
pub use crate::store::answers::Resumable;
