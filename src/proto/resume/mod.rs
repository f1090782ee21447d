//! Where servers say how far a stream has come, and how they are asked for the rest of it.

mod by;
mod identity;
mod splice;
mod target;

pub use self::by::ResumeBy;
pub(crate) use self::by::{Cursor, Mark, Recognised};
pub(crate) use self::identity::{Identity, in_background};
pub(crate) use self::splice::{cut_text, structure_of, with_id};
pub(crate) use self::target::{Rest, rest_of};
