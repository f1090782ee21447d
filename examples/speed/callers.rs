//! Callers that each have a connection, and send the next request at once.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tower_buttress::error::BoxError;

use super::origin::{EVENTS, GAP, SILENT_AFTER};
use super::sockets::Party;

/// The kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Load {
    /// A list of models.
    Get,
    /// A chat request of 1 KiB, whose answer is not a stream.
    Post,
    /// A stream of 101 events, sent at once.
    Stream,
    /// The same stream, with 5 ms between events.
    Paced,
}

/// All callers.
#[derive(Debug)]
pub(crate) struct Callers(Vec<Caller>);

#[derive(Debug)]
struct Caller {
    name: String,
    connection: SendRequest<Full<Bytes>>,
    asked: u64,
}

/// More would overflow the listener's queue.
const CONNECT_AT_ONCE: usize = 100;

const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

// === impl Load ===

impl Load {
    pub(crate) const ALL: [Self; 4] = [Self::Get, Self::Post, Self::Stream, Self::Paced];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "a GET",
            Self::Post => "a POST of 1 KiB",
            Self::Stream => "a stream of 101 events, at once",
            Self::Paced => "the same, 5 ms between two",
        }
    }

    /// The number of calls in a round.
    pub(crate) fn calls(self) -> u64 {
        match self {
            Self::Get | Self::Post => 8_000,
            Self::Stream => 1_600,
            Self::Paced => 160,
        }
    }

    fn request(self, caller: &str, nth: u64) -> Result<Request<Full<Bytes>>, BoxError> {
        let request =
            Request::builder().header("host", "127.0.0.1").header("authorization", format!("Bearer {caller}"));
        if self == Self::Get {
            return Ok(request.uri("/v1/models").body(Full::default())?);
        }
        let stream = self != Self::Post;
        let mut body = format!(
            r#"{{"model":"sim","stream":{stream},"temperature":0.7,"messages":[{{"role":"system","content":"Be short."}},{{"role":"user","content":"{nth}"#
        );
        let end = r#""}]}"#;
        let length = if stream { 256 } else { 1_024 };
        while body.len() + end.len() < length {
            body.push(if body.len() % 6 == 0 { ' ' } else { 'w' });
        }
        body.push_str(end);
        let mut request =
            request.method(Method::POST).uri("/v1/chat/completions").header("content-type", "application/json");
        if self == Self::Paced {
            request = request.header(GAP, 5);
        }
        Ok(request.body(Full::from(body))?)
    }

    /// Whether `answer` is the origin's.
    fn check(self, answer: &[u8]) -> Result<(), BoxError> {
        let is_whole = match self {
            Self::Get => answer.starts_with(br#"{"object":"list""#) && answer.ends_with(b"}]}"),
            Self::Post => answer.starts_with(br#"{"id":"chatcmpl-1""#) && answer.ends_with(b"}}"),
            Self::Stream | Self::Paced => {
                answer.windows(2).filter(|pair| pair == b"\n\n").count() == EVENTS
                    && answer.ends_with(b"data: [DONE]\n\n")
            }
        };
        if is_whole { Ok(()) } else { Err(format!("not the answer: {}", String::from_utf8_lossy(answer)).into()) }
    }
}

// === impl Callers ===

impl Callers {
    pub(crate) async fn connect(addr: SocketAddr, count: usize, party: Option<&Party>) -> Result<Self, BoxError> {
        let mut callers = Vec::with_capacity(count);
        while callers.len() < count {
            let mut connecting = JoinSet::new();
            for nth in callers.len()..count.min(callers.len() + CONNECT_AT_ONCE) {
                let tls = party.map(|party| TlsConnector::from(std::sync::Arc::new(party.client())));
                connecting.spawn(Caller::connect(addr, format!("caller-{nth}"), tls));
            }
            while let Some(caller) = connecting.join_next().await {
                callers.push(caller??);
            }
        }
        Ok(Self(callers))
    }

    /// Runs one round, and waits for all answers.
    pub(crate) async fn run(&mut self, load: Load) -> Result<(), BoxError> {
        let each = load.calls() / self.0.len().max(1) as u64;
        let mut left = load.calls() % self.0.len().max(1) as u64;
        let mut running = JoinSet::new();
        for mut caller in self.0.drain(..) {
            let calls = each + u64::from(left > 0);
            left = left.saturating_sub(1);
            running.spawn(async move {
                for _ in 0..calls {
                    tokio::time::timeout(ANSWERS_WITHIN, caller.call(load)).await.map_err(|_| "no answer")??;
                }
                Ok::<_, BoxError>(caller)
            });
        }
        while let Some(caller) = running.join_next().await {
            self.0.push(caller??);
        }
        Ok(())
    }

    /// Each caller opens a stream and reads its beginning, after which it is silent. Dropping the result closes them.
    pub(crate) async fn fall_silent(self) -> Result<Vec<impl Sized>, BoxError> {
        let mut open = Vec::with_capacity(self.0.len());
        let mut running = JoinSet::new();
        for mut caller in self.0 {
            if running.len() >= CONNECT_AT_ONCE
                && let Some(stream) = running.join_next().await
            {
                open.push(stream??);
            }
            running.spawn(async move {
                let mut request = Load::Stream.request(&caller.name, 0)?;
                request.headers_mut().insert(SILENT_AFTER, 2.into());
                let mut answer = caller.send(request).await?;
                let frame = answer.body_mut().frame().await;
                match frame {
                    Some(Ok(_)) => Ok::<_, BoxError>((caller, answer)),
                    _ => Err("a stream broke off".into()),
                }
            });
        }
        while let Some(stream) = running.join_next().await {
            open.push(stream??);
        }
        Ok(open)
    }
}

// === impl Caller ===

impl Caller {
    async fn connect(addr: SocketAddr, name: String, tls: Option<TlsConnector>) -> Result<Self, BoxError> {
        let socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        let connection = match tls {
            None => {
                let (connection, driver) = http1::handshake(TokioIo::new(socket)).await?;
                tokio::spawn(driver);
                connection
            }
            Some(tls) => {
                let socket = tls.connect(ServerName::from(addr.ip()), socket).await?;
                let (connection, driver) = http1::handshake(TokioIo::new(socket)).await?;
                tokio::spawn(driver);
                connection
            }
        };
        Ok(Self { name, connection, asked: 0 })
    }

    async fn call(&mut self, load: Load) -> Result<(), BoxError> {
        let request = load.request(&self.name, self.asked)?;
        self.asked += 1;
        let answer = self.send(request).await?;
        load.check(&answer.into_body().collect().await?.to_bytes())
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, BoxError> {
        self.connection.ready().await?;
        let answer = self.connection.send_request(request).await?;
        if answer.status() == 200 { Ok(answer) } else { Err(answer.status().to_string().into()) }
    }
}
