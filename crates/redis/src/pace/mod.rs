//! The limits of a fleet.

mod pauses;
mod rates;

pub use self::pauses::FleetPauses;
pub use self::rates::FleetPace;
