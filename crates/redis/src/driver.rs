//! The task behind shared state: it gets updates from the layer, and news of other processes from Redis.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::backend::{BackendError, Delivery, Subscription};

/// What such a task does.
pub(crate) trait Driver: Send + Sized + 'static {
    /// A message from the layer.
    type Update: Send + 'static;

    /// Subscribes to news of other processes. Runs beside everything else.
    fn subscribe(&self) -> Subscribing;

    /// Only notes what to do: updates that come together are reported to Redis together.
    fn on_update(&mut self, update: Self::Update);

    /// News of another process, which arrived at `received`; the task may have been busy since.
    fn on_news(&mut self, news: Bytes, received: Instant);

    /// News may have been missed.
    fn on_gap(&mut self) -> impl Future<Output = ()> + Send;

    /// When to act next. Default: never.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Acts at that time.
    fn on_due(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Completes when something that the task started is done and the driver has handled it. Default: never.
    fn poll_begun(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

pub(crate) type Subscribing = Pin<Box<dyn Future<Output = Result<Subscription, BackendError>> + Send>>;

/// Sends updates to the task, and spawns it with the first.
#[derive(Debug)]
pub(crate) struct Updates<U>(OnceLock<mpsc::Sender<U>>);

/// Why an update did not reach the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// The task has too many updates.
    Busy,
    /// There is no runtime for the task.
    NoTask,
}

/// The subscription to news.
enum News {
    /// It is being made.
    Asked(Subscribing),
    Open(Subscription),
    /// It failed, and is repeated at this time.
    Wait(Instant),
}

/// What the task does next.
enum TaskInput<U> {
    Update(U),
    /// The layer is gone.
    Over,
    Subscribed(Result<Subscription, BackendError>),
    News(Option<(Delivery, Instant)>),
    /// Something that the task started is done.
    Done,
    Due,
}

/// The wait between attempts to subscribe.
const SUBSCRIBE_EVERY: Duration = Duration::from_secs(5);

/// Limit of updates that wait for the task.
const MOST_UPDATES: usize = 4096;

// === impl Updates ===

impl<U: Send + 'static> Updates<U> {
    pub(crate) fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Without a runtime there is no task, and nothing is shared.
    pub(crate) fn send<D: Driver<Update = U>>(&self, update: U, driver: impl FnOnce() -> D) -> Result<(), NotSent> {
        let updates = match self.0.get() {
            Some(updates) => updates,
            None => {
                let runtime = Handle::try_current().map_err(|_| NotSent::NoTask)?;
                self.0.get_or_init(|| {
                    let (sender, updates) = mpsc::channel(MOST_UPDATES);
                    runtime.spawn(run(driver(), updates));
                    sender
                })
            }
        };
        updates.try_send(update).map_err(|untold| match untold {
            mpsc::error::TrySendError::Full(_) => NotSent::Busy,
            mpsc::error::TrySendError::Closed(_) => NotSent::NoTask,
        })
    }
}

/// Ends when the layer is gone.
async fn run<D: Driver>(mut driver: D, mut updates: mpsc::Receiver<D::Update>) {
    let mut news = News::Asked(driver.subscribe());
    // Alternates, so that neither updates nor news wait for the other.
    let mut updates_first = false;
    loop {
        if driver.due().is_some_and(|due| due <= Instant::now()) {
            driver.on_due().await;
        }
        if news.subscribe_at().is_some_and(|at| at <= Instant::now()) {
            news = News::Asked(driver.subscribe());
        }
        let due = driver.due().into_iter().chain(news.subscribe_at()).min();
        updates_first = !updates_first;
        match next(&mut driver, &mut updates, &mut news, due, updates_first).await {
            TaskInput::Update(update) => {
                driver.on_update(update);
                for _ in 0..MOST_UPDATES {
                    let Ok(update) = updates.try_recv() else { break };
                    driver.on_update(update);
                }
            }
            TaskInput::Over => return,
            TaskInput::Subscribed(subscribed) => {
                news = subscribed.map_or_else(|_| News::Wait(Instant::now() + SUBSCRIBE_EVERY), News::Open);
                driver.on_gap().await;
            }
            TaskInput::News(Some((Delivery::Message(news), received))) => driver.on_news(news, received),
            TaskInput::News(Some((Delivery::Gap, _))) => driver.on_gap().await,
            TaskInput::News(None) => news = News::Wait(Instant::now() + SUBSCRIBE_EVERY),
            TaskInput::Done | TaskInput::Due => {}
        }
    }
}

async fn next<D: Driver>(
    driver: &mut D,
    updates: &mut mpsc::Receiver<D::Update>,
    news: &mut News,
    due: Option<Instant>,
    updates_first: bool,
) -> TaskInput<D::Update> {
    let comes = poll_fn(|cx| {
        if driver.poll_begun(cx).is_ready() {
            return Poll::Ready(TaskInput::Done);
        }
        let mut poll_updates = |cx: &mut Context<'_>| {
            updates.poll_recv(cx).map(|update| update.map_or(TaskInput::Over, TaskInput::Update))
        };
        if updates_first {
            let update = poll_updates(cx);
            if update.is_ready() { update } else { news.poll(cx) }
        } else {
            let received = news.poll(cx);
            if received.is_ready() { received } else { poll_updates(cx) }
        }
    });
    match due {
        None => comes.await,
        Some(due) => tokio::select! {
            biased;
            next = comes => next,
            () = sleep_until(due) => TaskInput::Due,
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

    fn poll<U>(&mut self, cx: &mut Context<'_>) -> Poll<TaskInput<U>> {
        match self {
            Self::Asked(subscribing) => subscribing.as_mut().poll(cx).map(TaskInput::Subscribed),
            Self::Open(news) => news.poll_next(cx).map(TaskInput::News),
            Self::Wait(_) => Poll::Pending,
        }
    }
}
