//! Rate limits shared by processes.

mod pauses;
mod rates;

pub use self::pauses::FleetPauses;
pub use self::rates::FleetPace;
