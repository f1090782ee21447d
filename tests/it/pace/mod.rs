//! Rate limits, as callers and the upstream see them.

mod callers;
mod pauses;
mod provider;
mod rates;
mod sockets;
mod tokens;

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Service, ServiceExt, service_fn};
use tower_buttress::{PaceLayer, Rejection, RejectionKind, Tenant};

type Ask = Request<String>;
type Answer = Response<Full<Bytes>>;

fn ask(tenant: &str) -> Ask {
    Request::builder().uri("http://upstream/").extension(Tenant::new(tenant)).body(String::new()).unwrap()
}

fn answer(status: u16, headers: &[(&str, &str)]) -> Answer {
    let builder = Response::builder().status(status);
    let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    builder.body(Full::from("done")).unwrap()
}

fn kind<B>(response: &Response<B>) -> Option<RejectionKind> {
    Rejection::of(response).map(Rejection::kind)
}

fn retry_after<B>(response: &Response<B>) -> u64 {
    response.headers()["retry-after"].to_str().unwrap().parse().unwrap()
}

/// When each call reached the upstream, in seconds, and of which tenant it was.
#[derive(Clone, Debug)]
struct Calls(Arc<Mutex<Vec<(f64, String)>>>, Instant);

impl Calls {
    fn new() -> Self {
        Self(Arc::default(), Instant::now())
    }

    fn times(&self) -> Vec<f64> {
        self.0.lock().unwrap().iter().map(|(at, _)| (at * 1000.0).round() / 1000.0).collect()
    }

    fn tenants(&self) -> String {
        self.0.lock().unwrap().iter().map(|(_, tenant)| tenant.as_str()).collect()
    }

    fn begin(&self, request: &Ask) {
        let tenant = Tenant::of(request).unwrap_or_default().to_owned();
        self.0.lock().unwrap().push((self.1.elapsed().as_secs_f64(), tenant));
    }
}

/// An upstream that answers the nth call so.
fn upstream(
    calls: &Calls,
    answer: impl Fn(usize) -> Answer + Clone + Send + 'static,
) -> impl Service<Ask, Response = Answer, Error = Infallible, Future: Future + Send> + Clone + Send + 'static {
    let calls = calls.clone();
    service_fn(move |request: Ask| {
        calls.begin(&request);
        let answer = answer(calls.0.lock().unwrap().len());
        async move { Ok(answer) }
    })
}
