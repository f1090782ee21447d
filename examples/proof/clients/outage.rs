//! The contestants in an outage of provider and backup, with and without stored answers.

use std::net::SocketAddr;

use tower_buttress::error::BoxError;
use tower_buttress::{DedupLayer, LastGoodLayer, ResumeLayer};

use super::{Client, bare, buttress, resilience};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    Bare,
    Resilience,
    Buttress,
    /// With `LastGoodLayer`.
    Remembering,
}

// === impl Contestant ===

impl Contestant {
    pub(crate) const ALL: [Self; 4] = [Self::Bare, Self::Resilience, Self::Buttress, Self::Remembering];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare hyper",
            Self::Resilience => "tower-resilience",
            Self::Buttress => "tower-buttress",
            Self::Remembering => "ours, remembering",
        }
    }

    pub(crate) fn client(self, primary: SocketAddr, backup: SocketAddr) -> Result<Client, BoxError> {
        let last_good = match self {
            Self::Bare => return Ok(bare::client(primary)),
            Self::Resilience => return resilience::client(primary, backup),
            Self::Buttress => LastGoodLayer::disabled(),
            Self::Remembering => LastGoodLayer::new(),
        };
        // Otherwise dedup would replay the answers of the last minute.
        let dedup = DedupLayer::new().fingerprints(false);
        buttress::client(primary, backup, dedup, ResumeLayer::new(), last_good)
    }
}
