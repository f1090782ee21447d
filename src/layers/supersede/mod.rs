//! The newest message of a conversation replaces the earlier ones: see [`SupersedeLayer`].

// The modules, in the order in which they import each other, the outermost first:
//
// - `layer`: the settings; `handle`: ends calls from outside; `service`: which requests are messages; `future`: from
//   reading a message to its answer.
// - `reading`: what becomes of a request, a message that is being read; `entered`: a message in its conversation;
//   `waiting`: its wait for its turn; `body`: the response body, `cancel_watch`: how it ends early.
// - `shared`: the state that all calls share; `key`: the conversation of a request. `config`: the settings as values;
//   `peers`: other processes.

mod body;
mod cancel_watch;
mod config;
mod entered;
mod future;
mod handle;
mod key;
mod layer;
mod reading;
mod service;
mod shared;
mod waiting;

pub use self::body::SupersedeBody;
pub use self::future::SupersedeFuture;
pub use self::handle::SupersedeHandle;
pub use self::layer::SupersedeLayer;
pub use self::service::Supersede;
pub use self::shared::SupersedeStats;
pub use crate::store::supersede::{PeerMessage, SupersedePeers};
