//! Callers that read, leave, return and click twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_buttress::error::BoxError;

use super::answers::{self, Held};
use super::gateways::{Gateways, MEMBERS};
use super::report::{Count, Totals};

/// All callers, until they are stopped.
pub(crate) struct Callers(JoinSet<()>);

/// Their shared state.
#[derive(Debug)]
struct Desk {
    /// By gateway; several, where a client has one connection.
    clients: [Vec<Client<HttpConnector, Full<Bytes>>>; MEMBERS],
    gateways: Arc<Gateways>,
    totals: Arc<Totals>,
    calls: AtomicU64,
    gap: Duration,
}

/// Below the gateway's limit of concurrent streams on an HTTP/2 connection.
const STREAMS: usize = 100;

/// The shares of 100 calls; the remaining calls read their stream.
const LEAVE: u32 = 10;
const COME_BACK: u32 = 8;
const CLICK_TWICE: u32 = 8;
const WANT_AN_OBJECT: u32 = 6;

// === impl Callers ===

impl Callers {
    pub(crate) fn start(count: usize, gap: Duration, gateways: &Arc<Gateways>, totals: &Arc<Totals>) -> Self {
        let client = |http2| {
            let mut builder = Client::builder(TokioExecutor::new());
            builder.pool_timer(TokioTimer::new()).http2_only(http2).build_http()
        };
        let desk = Desk {
            clients: [vec![client(false)], (0..=count / STREAMS).map(|_| client(true)).collect()],
            gateways: gateways.clone(),
            totals: totals.clone(),
            calls: AtomicU64::new(0),
            gap,
        };
        let desk = Arc::new(desk);
        let mut callers = JoinSet::new();
        for _ in 0..count {
            let desk = desk.clone();
            callers.spawn(async move {
                // Spreads the starts.
                sleep(desk.gap.mul_f64(fastrand::f64() * 10.0)).await;
                loop {
                    desk.call().await;
                }
            });
        }
        Self(callers)
    }

    /// All callers leave at once.
    pub(crate) async fn stop(mut self) {
        self.0.shutdown().await;
    }
}

// === impl Desk ===

impl Desk {
    async fn call(&self) {
        let call = self.calls.fetch_add(1, Relaxed);
        let gateway = fastrand::usize(..MEMBERS);
        let mut draw = fastrand::u32(..100);
        let mut is = |share: u32| match draw.checked_sub(share) {
            Some(rest) => {
                draw = rest;
                false
            }
            None => true,
        };
        let done = if is(LEAVE) {
            self.leave(gateway, call).await
        } else if is(COME_BACK) {
            self.come_back(gateway, call).await
        } else if is(CLICK_TWICE) {
            self.click_twice(call).await
        } else if is(WANT_AN_OBJECT) {
            self.want_an_object(gateway, call).await
        } else {
            self.read_all(gateway, call).await
        };
        if done.is_err() {
            self.totals.add(Count::Refused);
            // A refused caller waits before its next call.
            sleep(self.gap).await;
        }
    }

    async fn read_all(&self, gateway: usize, call: u64) -> Result<(), BoxError> {
        let answer = self.ask(gateway, call, true, None).await?;
        let (text, has_ended) = read(answer, None).await?;
        self.totals.held(&answers::stream(call, &text, has_ended));
        Ok(())
    }

    async fn leave(&self, gateway: usize, call: u64) -> Result<(), BoxError> {
        let answer = self.ask(gateway, call, true, None).await?;
        let (text, has_ended) = read(answer, Some(fastrand::usize(..20))).await?;
        match answers::stream(call, &text, has_ended) {
            Held::Broken => self.totals.add(Count::Left),
            held => self.totals.held(&held),
        }
        Ok(())
    }

    /// Leaves, and reads the rest of the same answer at either gateway.
    async fn come_back(&self, gateway: usize, call: u64) -> Result<(), BoxError> {
        let answer = self.ask(gateway, call, true, Some(format!("key-{call}"))).await?;
        let location = answer.headers().get("content-location").and_then(|url| url.to_str().ok()).map(str::to_owned);
        let (text, has_ended) = read(answer, Some(1 + fastrand::usize(..10))).await?;
        let Some((location, first, id)) = location.zip(up_to_last_id(&text)).map(|(url, (first, id))| (url, first, id))
        else {
            self.totals.held(&answers::stream(call, &text, has_ended));
            return Ok(());
        };
        sleep(self.gap.mul_f64(fastrand::f64() * 3.0)).await;
        let gateway = fastrand::usize(..MEMBERS);
        let request = Request::get(self.url(gateway, &location)?).header("last-event-id", id).body(Full::default())?;
        let rest = self.send(gateway, request).await?;
        match rest.status().as_u16() {
            200 => {
                let (rest, has_ended) = read(rest, None).await?;
                let held = answers::stream(call, &format!("{first}{rest}"), has_ended).of("came back");
                self.totals.held(&held);
                if matches!(held, Held::Whole(_)) {
                    self.totals.add(Count::CameBack);
                }
            }
            // Nothing is left: the first part was the whole answer.
            204 => self.totals.held(&answers::stream(call, first, true).of("204")),
            // Redis has lost its place, or too many calls had no caller.
            _ => self.totals.add(Count::Gone),
        }
        Ok(())
    }

    /// Sends the same request to both gateways.
    async fn click_twice(&self, call: u64) -> Result<(), BoxError> {
        let click = async |gateway| {
            let answer = self.ask(gateway, call, true, Some(format!("key-{call}"))).await?;
            let (text, has_ended) = read(answer, None).await?;
            let held = answers::stream(call, &text, has_ended);
            self.totals.held(&held);
            Ok::<_, BoxError>(held)
        };
        let (one, other) = tokio::join!(click(0), click(1));
        if let (Held::Whole(one), Held::Whole(other)) = (one?, other?) {
            self.totals.add(if one == other { Count::OneAnswer } else { Count::TwoAnswers });
        }
        Ok(())
    }

    async fn want_an_object(&self, gateway: usize, call: u64) -> Result<(), BoxError> {
        let answer = self.ask(gateway, call, false, None).await?;
        let (text, has_ended) = read(answer, None).await?;
        self.totals.held(&if has_ended { answers::object(call, &text) } else { Held::Broken });
        Ok(())
    }

    /// Returns the answer if it is a 200.
    async fn ask(
        &self,
        gateway: usize,
        call: u64,
        stream: bool,
        key: Option<String>,
    ) -> Result<Response<Incoming>, BoxError> {
        let body = format!(r#"{{"model":"sim","stream":{stream},"messages":[{{"role":"user","content":"{call}"}}]}}"#);
        let mut request = Request::post(self.url(gateway, "/v1/chat/completions")?)
            .header("content-type", "application/json")
            .header("authorization", "Bearer somebody");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = self.send(gateway, request.body(Full::from(body))?).await?;
        if answer.status() == 200 { Ok(answer) } else { Err(answer.status().to_string().into()) }
    }

    async fn send(&self, gateway: usize, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, BoxError> {
        let client = self.clients.get(gateway).and_then(fastrand::choice).ok_or("no such gateway")?;
        Ok(client.request(request).await?)
    }

    fn url(&self, gateway: usize, path: &str) -> Result<String, BoxError> {
        Ok(format!("http://{}{path}", self.gateways.addr(gateway).ok_or("no such gateway")?))
    }
}

/// Reads to the end, or this many frames. Returns whether it reached the end.
async fn read(answer: Response<Incoming>, frames: Option<usize>) -> Result<(String, bool), BoxError> {
    let mut body = answer.into_body();
    let mut data = Vec::new();
    let mut has_ended = false;
    for _ in 0..frames.unwrap_or(usize::MAX) {
        match body.frame().await {
            Some(Ok(frame)) => data.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
            Some(Err(_)) => break,
            None => {
                has_ended = true;
                break;
            }
        }
    }
    Ok((String::from_utf8(data)?, has_ended))
}

/// `text` up to the end of the last event with an id, and that id.
fn up_to_last_id(text: &str) -> Option<(&str, &str)> {
    let whole = text.rfind("\n\n").and_then(|end| text.get(..end + 2))?;
    let id = whole.rfind("\nid: ").map(|at| at + 1).or_else(|| whole.starts_with("id: ").then_some(0))?;
    let rest = whole.get(id..)?;
    let end = id + rest.find("\n\n")? + 2;
    Some((whole.get(..end)?, rest.get(4..)?.lines().next()?))
}
