//! The task of what a layer shares: it takes what the layer says, and hears what other processes say.

use std::future::{Future, pending};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::backend::{BackendError, Heard, Subscription};

/// What such a task does.
pub(crate) trait Driver: Send + Sized + 'static {
    /// What the layer says.
    type Order: Send + 'static;

    /// What other processes say.
    fn subscribe(&self) -> impl Future<Output = Result<Subscription, BackendError>> + Send;

    fn on_order(&mut self, order: Self::Order) -> impl Future<Output = ()> + Send;

    fn on_message(&mut self, message: Bytes);

    /// Messages may have been missed.
    fn on_gap(&mut self) -> impl Future<Output = ()> + Send;

    /// When something is to be done next. Default: never.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// That time has come.
    fn on_due(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Tells the task, which is spawned with the first order.
#[derive(Debug)]
pub(crate) struct Orders<O>(OnceLock<mpsc::UnboundedSender<O>>);

/// Between two attempts to subscribe.
const SUBSCRIBE_EVERY: Duration = Duration::from_secs(5);

// === impl Orders ===

impl<O: Send + 'static> Orders<O> {
    pub(crate) fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Without a runtime nothing is shared.
    pub(crate) fn tell<D: Driver<Order = O>>(&self, order: O, driver: impl FnOnce() -> D) {
        let Ok(runtime) = Handle::try_current() else { return };
        let orders = self.0.get_or_init(|| {
            let (sender, orders) = mpsc::unbounded_channel();
            runtime.spawn(run(driver(), orders));
            sender
        });
        let _ = orders.send(order);
    }
}

/// Ends when the layer is gone.
async fn run<D: Driver>(mut driver: D, mut orders: mpsc::UnboundedReceiver<D::Order>) {
    let mut news: Option<Subscription> = None;
    let mut subscribe_at = Instant::now();
    loop {
        if news.is_none() && subscribe_at <= Instant::now() {
            news = driver.subscribe().await.ok();
            subscribe_at = Instant::now() + SUBSCRIBE_EVERY;
            driver.on_gap().await;
        }
        let due = driver.due().into_iter().chain(news.is_none().then_some(subscribe_at)).min();
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(order) => driver.on_order(order).await,
                None => return,
            },
            heard = next(&mut news) => match heard {
                Some(Heard::Message(message)) => driver.on_message(message),
                Some(Heard::Gap) => driver.on_gap().await,
                None => news = None,
            },
            () = until(due) => {
                if driver.due().is_some_and(|due| due <= Instant::now()) {
                    driver.on_due().await;
                }
            }
        }
    }
}

async fn next(news: &mut Option<Subscription>) -> Option<Heard> {
    match news {
        Some(news) => news.next().await,
        None => pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}
