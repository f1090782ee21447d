//! Disturbs the gateways and their Redis.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::gateways::Gateways;
use super::report::{Count, Totals};
use super::server::Server;

const BETWEEN_RELOADS: Duration = Duration::from_secs(7);
const BETWEEN_OUTAGES: Duration = Duration::from_secs(25);
const OUTAGE: Duration = Duration::from_secs(4);

/// Reloads the configuration repeatedly, sometimes from a truncated file.
pub(crate) async fn reloads(gateways: Arc<Gateways>, totals: Arc<Totals>) -> io::Result<()> {
    for version in 1.. {
        sleep(BETWEEN_RELOADS).await;
        if version % 4 == 0 {
            gateways.reload(version, true)?;
            sleep(BETWEEN_RELOADS).await;
        }
        gateways.reload(version, false)?;
        totals.add(Count::Reloads);
    }
    Ok(())
}

/// Kills Redis and restarts it empty, or suspends it.
pub(crate) async fn restarts(mut redis: Server, totals: Arc<Totals>) -> io::Result<()> {
    for nth in 0_u64.. {
        sleep(BETWEEN_OUTAGES).await;
        if nth % 2 == 0 {
            redis.kill()?;
            sleep(OUTAGE).await;
            redis = tokio::task::spawn_blocking(move || redis.start_again().map(|()| redis)).await??;
        } else {
            redis.freeze()?;
            sleep(OUTAGE).await;
            redis.thaw()?;
        }
        totals.add(Count::Outages);
    }
    Ok(())
}
