//! The cursors of streams, and the requests for their rest.

mod by;
mod identity;
mod splice;
mod target;

pub use self::by::ResumeBy;
pub(crate) use self::by::{Cursor, Mark, Recognised};
pub(crate) use self::identity::{Identity, in_background};
pub(crate) use self::splice::{cut_text, structure_of, with_id};
pub(crate) use self::target::{Rest, rest_of};
