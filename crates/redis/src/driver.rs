//! The task of what a layer shares: it takes what the layer says, and hears what other processes say.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
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

    /// What other processes say. It is waited for beside everything else.
    fn subscribe(&self) -> Subscribing;

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

    /// Ready when something that the task has begun has ended, and was taken note of. Default: never.
    fn poll_begun(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

pub(crate) type Subscribing = Pin<Box<dyn Future<Output = Result<Subscription, BackendError>> + Send>>;

/// Tells the task, which is spawned with the first order.
#[derive(Debug)]
pub(crate) struct Orders<O>(OnceLock<mpsc::Sender<O>>);

/// An order was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Untold {
    /// The task has more orders than it can carry out.
    Busy,
    /// There is no runtime for the task, or no more.
    NoTask,
}

/// The channel on which other processes are heard.
enum News {
    /// It is subscribed to.
    Asked(Subscribing),
    Open(Subscription),
    /// It could not be had, and is asked for again then.
    Wait(Instant),
}

/// What comes next.
enum Next<O> {
    Order(O),
    /// There is no layer any more.
    Over,
    Subscribed(Result<Subscription, BackendError>),
    Heard(Option<Heard>),
    /// What was begun has ended.
    Ended,
    Due,
}

/// Between two attempts to subscribe.
const SUBSCRIBE_EVERY: Duration = Duration::from_secs(5);

/// Orders that wait for the task. Each is a few words.
const MOST_ORDERS: usize = 4096;

// === impl Orders ===

impl<O: Send + 'static> Orders<O> {
    pub(crate) fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Without a runtime nothing is shared.
    pub(crate) fn tell<D: Driver<Order = O>>(&self, order: O, driver: impl FnOnce() -> D) -> Result<(), Untold> {
        let orders = match self.0.get() {
            Some(orders) => orders,
            None => {
                let runtime = Handle::try_current().map_err(|_| Untold::NoTask)?;
                self.0.get_or_init(|| {
                    let (sender, orders) = mpsc::channel(MOST_ORDERS);
                    runtime.spawn(run(driver(), orders));
                    sender
                })
            }
        };
        orders.try_send(order).map_err(|untold| match untold {
            mpsc::error::TrySendError::Full(_) => Untold::Busy,
            mpsc::error::TrySendError::Closed(_) => Untold::NoTask,
        })
    }
}

/// Ends when the layer is gone.
async fn run<D: Driver>(mut driver: D, mut orders: mpsc::Receiver<D::Order>) {
    let mut news = News::Asked(driver.subscribe());
    // Orders and news take turns, so that neither waits for the other.
    let mut orders_first = false;
    loop {
        if driver.due().is_some_and(|due| due <= Instant::now()) {
            driver.on_due().await;
        }
        if news.subscribe_at().is_some_and(|at| at <= Instant::now()) {
            news = News::Asked(driver.subscribe());
        }
        let due = driver.due().into_iter().chain(news.subscribe_at()).min();
        orders_first = !orders_first;
        match next(&mut driver, &mut orders, &mut news, due, orders_first).await {
            Next::Order(order) => driver.on_order(order).await,
            Next::Over => return,
            Next::Subscribed(subscribed) => {
                news = subscribed.map_or_else(|_| News::Wait(Instant::now() + SUBSCRIBE_EVERY), News::Open);
                driver.on_gap().await;
            }
            Next::Heard(Some(Heard::Message(message))) => driver.on_message(message),
            Next::Heard(Some(Heard::Gap)) => driver.on_gap().await,
            Next::Heard(None) => news = News::Wait(Instant::now() + SUBSCRIBE_EVERY),
            Next::Ended | Next::Due => {}
        }
    }
}

async fn next<D: Driver>(
    driver: &mut D,
    orders: &mut mpsc::Receiver<D::Order>,
    news: &mut News,
    due: Option<Instant>,
    orders_first: bool,
) -> Next<D::Order> {
    let comes = poll_fn(|cx| {
        if driver.poll_begun(cx).is_ready() {
            return Poll::Ready(Next::Ended);
        }
        let mut poll_orders =
            |cx: &mut Context<'_>| orders.poll_recv(cx).map(|order| order.map_or(Next::Over, Next::Order));
        if orders_first {
            let order = poll_orders(cx);
            if order.is_ready() { order } else { news.poll(cx) }
        } else {
            let heard = news.poll(cx);
            if heard.is_ready() { heard } else { poll_orders(cx) }
        }
    });
    match due {
        None => comes.await,
        Some(due) => tokio::select! {
            biased;
            next = comes => next,
            () = sleep_until(due) => Next::Due,
        },
    }
}

// === impl News ===

impl News {
    fn subscribe_at(&self) -> Option<Instant> {
        match self {
            Self::Wait(at) => Some(*at),
            Self::Asked(_) | Self::Open(_) => None,
        }
    }

    fn poll<O>(&mut self, cx: &mut Context<'_>) -> Poll<Next<O>> {
        match self {
            Self::Asked(subscribing) => subscribing.as_mut().poll(cx).map(Next::Subscribed),
            Self::Open(news) => news.poll_next(cx).map(Next::Heard),
            Self::Wait(_) => Poll::Pending,
        }
    }
}
