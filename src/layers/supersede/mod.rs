//! The newest message of a conversation takes the place of those before it: see [`SupersedeLayer`].

// In the order in which they import each other, the outermost first:
//
// - `layer`: the settings; `handle`: ends calls from outside; `service`: what is a message; `future`: from reading it to its
//   answer.
// - `reading`: a message that is being read; `waiting`: one that waits for its turn; `body`: the response body.
// - `shared`: what all calls share; `key`: to which conversation a request belongs. `config`: the settings as values;
//   `peers`: what other processes know of it.

mod body;
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
