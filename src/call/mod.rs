//! Facts about a call, in the extensions of its request or response.

mod attempt;
mod caller;
mod info;
mod invalid_output;
mod memory;
mod model;
mod notice;
mod options;
mod origin;
mod report;
mod stale;

pub use self::attempt::{Attempt, Attempts};
pub use self::caller::TenantHash;
pub use self::caller::{Authenticated, Tenant};
pub use self::info::CallInfo;
pub(crate) use self::info::EnteredCall;
pub use self::invalid_output::{InvalidOutput, OutputFault};
pub use self::memory::{Memory, Reservation};
pub use self::model::Model;
pub use self::notice::Notice;
pub(crate) use self::notice::Notices;
#[cfg(feature = "llm")]
pub(crate) use self::options::AsksForRest;
pub use self::options::{NoFallback, NoRetry, NoStore};
pub use self::origin::{PinTo, ServedBy};
pub use self::report::RetryReport;
pub use self::stale::{Stale, StaleKind};
