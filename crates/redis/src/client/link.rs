//! The connection for commands: opened on demand, replaced when lost.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, RedisResult, Value};
use tokio::sync::watch;

/// Sends commands on an existing connection.
pub(crate) trait Commands: Send + Sync {
    fn send<'a>(&'a self, command: &'a Cmd) -> Pin<Box<dyn Future<Output = RedisResult<Value>> + Send + 'a>>;
}

pub(crate) struct Link {
    source: ConnectionSource,
}

enum ConnectionSource {
    Own {
        opener: Arc<Opener>,
    },
    /// A connection of the application.
    Brought(Arc<dyn Commands>),
}

struct Opener {
    client: Client,
    slot: Mutex<ConnectionSlot>,
}

#[derive(Default)]
struct ConnectionSlot {
    connection: Connection,
    /// Distinguishes connections.
    number: u64,
}

#[derive(Default)]
enum Connection {
    #[default]
    None,
    Opening(watch::Receiver<Opened>),
    Open(MultiplexedConnection),
}

type Opened = Option<RedisResult<MultiplexedConnection>>;

/// A connection for one command.
pub(crate) enum Line {
    Own { connection: MultiplexedConnection, number: u64 },
    Brought(Arc<dyn Commands>),
}

/// The time limit to open a connection. Callers stop waiting much earlier.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Limit of commands that wait to be written.
const QUEUE: usize = 4096;

// === impl Commands ===

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Commands for C {
    fn send<'a>(&'a self, command: &'a Cmd) -> Pin<Box<dyn Future<Output = RedisResult<Value>> + Send + 'a>> {
        let mut connection = self.clone();
        Box::pin(async move { command.query_async(&mut connection).await })
    }
}

// === impl Link ===

impl Link {
    pub(crate) fn new(client: Client, brought: Option<Arc<dyn Commands>>) -> Self {
        let source = match brought {
            Some(connection) => ConnectionSource::Brought(connection),
            None => ConnectionSource::Own { opener: Arc::new(Opener { client, slot: Mutex::default() }) },
        };
        Self { source }
    }

    /// Returns the connection. Opens one if needed, and continues to open it if this future is dropped.
    pub(crate) async fn line(&self) -> RedisResult<Line> {
        match &self.source {
            ConnectionSource::Brought(connection) => Ok(Line::Brought(connection.clone())),
            ConnectionSource::Own { opener } => opener.line().await,
        }
    }

    /// Drops the connection of this line. Returns whether it was the current one.
    pub(crate) fn give_up(&self, line: &Line) -> bool {
        if let (ConnectionSource::Own { opener }, Line::Own { number, .. }) = (&self.source, line) {
            let mut slot = opener.slot();
            if slot.number == *number && matches!(slot.connection, Connection::Open(_)) {
                slot.connection = Connection::None;
                return true;
            }
        }
        false
    }

    /// Drops the current connection, open or opening.
    pub(crate) fn give_up_any(&self) {
        if let ConnectionSource::Own { opener } = &self.source {
            let mut slot = opener.slot();
            slot.number += 1;
            slot.connection = Connection::None;
        }
    }
}

// === impl Opener ===

impl Opener {
    fn slot(&self) -> MutexGuard<'_, ConnectionSlot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn line(self: &Arc<Self>) -> RedisResult<Line> {
        let (number, mut opening) = {
            let mut slot = self.slot();
            match &slot.connection {
                Connection::Open(connection) => {
                    return Ok(Line::Own { connection: connection.clone(), number: slot.number });
                }
                Connection::Opening(opening) => (slot.number, opening.clone()),
                Connection::None => {
                    slot.number += 1;
                    let (opened, opening) = watch::channel(None);
                    slot.connection = Connection::Opening(opening.clone());
                    tokio::spawn(self.clone().open(slot.number, opened));
                    (slot.number, opening)
                }
            }
        };
        let opened = opening.wait_for(Option::is_some).await.map_err(|_| gone())?;
        match &*opened {
            Some(Ok(connection)) => Ok(Line::Own { connection: connection.clone(), number }),
            Some(Err(why)) => Err(why.clone()),
            None => Err(gone()),
        }
    }

    async fn open(self: Arc<Self>, number: u64, opened: watch::Sender<Opened>) {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        let result = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
            Err(RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection within 1 s")))
        });
        let mut slot = self.slot();
        if slot.number == number {
            slot.connection = match &result {
                Ok(connection) => Connection::Open(connection.clone()),
                Err(_) => Connection::None,
            };
        }
        drop(slot);
        opened.send_replace(Some(result));
    }
}

// === impl Line ===

impl Line {
    pub(crate) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Own { connection, .. } => command.query_async(connection).await,
            Self::Brought(connection) => connection.send(command).await,
        }
    }
}

fn gone() -> RedisError {
    RedisError::from(std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the connection was replaced"))
}
