//! An earlier answer when the upstreams give none: see [`LastGoodLayer`].

mod body;
mod config;
mod embeddings;
mod future;
mod key;
mod layer;
mod reading;
mod recorder;
mod search;
mod service;
mod similar;
mod stand_in;
mod stored;

pub use self::body::LastGoodBody;
pub use self::config::{Embedder, Embedding, Similar};
pub use self::embeddings::OpenAiEmbeddings;
pub use self::future::LastGoodFuture;
pub use self::layer::LastGoodLayer;
pub use self::service::LastGood;
pub use crate::policy::last_good::template::UnansweredRequest;
