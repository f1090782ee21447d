//! Makes a process forget data when another one publishes that.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tower_buttress::Tenant;

use crate::backend::ForgetBackend;
use crate::client::Redis;
use crate::client::subscriptions::Delivery;

/// Receives what other processes publish as forgotten: see [`Redis::on_forget`]. Dropping its last clone stops it.
#[derive(Clone, Debug)]
#[must_use = "dropping it stops listening"]
pub struct ForgetListener {
    _task: Option<Arc<AbortOnDrop>>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

/// The first wait after a failed subscription.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_AT_MOST: Duration = Duration::from_secs(5);

impl Redis {
    /// Calls `forget` when [`Redis::forget`] is called in any process, this one included: with a tenant, or with
    /// `None` for all. The closure should delete this process's own data and return at once. Calls during an outage of
    /// Redis are missed. Does nothing outside of a tokio runtime.
    ///
    /// ```
    /// use tower_buttress::DedupLayer;
    /// use tower_buttress_redis::{Redis, RedisOptions};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let redis = Redis::new(RedisOptions::from_url("redis://127.0.0.1:6379")?)?;
    /// let layer = DedupLayer::new();
    /// let own = layer.clone();
    /// let listener = redis.on_forget(move |tenant| {
    ///     tenant.map_or_else(|| own.forget_all(), |tenant| own.forget(tenant));
    /// });
    /// # let _ = listener;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_forget(&self, forget: impl Fn(Option<&Tenant>) + Send + Sync + 'static) -> ForgetListener {
        ForgetListener::new(self.clone(), forget)
    }
}

impl ForgetListener {
    /// The same on any engine.
    pub fn new<B: ForgetBackend>(backend: B, forget: impl Fn(Option<&Tenant>) + Send + Sync + 'static) -> Self {
        let task = |runtime: Handle| Arc::new(AbortOnDrop(runtime.spawn(receive(backend, forget)).abort_handle()));
        Self { _task: Handle::try_current().ok().map(task) }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn receive<B: ForgetBackend>(backend: B, forget: impl Fn(Option<&Tenant>) + Send + Sync + 'static) {
    let mut pause = RETRY;
    loop {
        let Ok(mut forgotten) = backend.forgotten().await else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_AT_MOST);
            continue;
        };
        pause = RETRY;
        while let Some(delivery) = forgotten.next().await {
            let Delivery::Message(tenant) = delivery else { continue };
            match std::str::from_utf8(&tenant) {
                Ok("") => forget(None),
                Ok(tenant) => forget(Some(&Tenant::new(tenant))),
                Err(_) => {}
            }
        }
    }
}
