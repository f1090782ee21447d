//! The queue, as its callers and its upstream see it.

mod fairness;
mod places;
mod sockets;
mod uploads;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceExt, service_fn};
use tower_buttress::queue::{Queue, QueueBody};
use tower_buttress::{QueueLayer, Rejection, RejectionKind, Tenant};

type Ask = Request<String>;
type Answer = Response<Full<Bytes>>;

fn ask(tenant: &str) -> Ask {
    Request::builder().extension(Tenant::new(tenant)).body(String::new()).unwrap()
}

/// How many calls are under way in an upstream, and how many there were at most.
#[derive(Clone, Debug, Default)]
struct Busy(Arc<(AtomicUsize, AtomicUsize)>);

struct Call(Busy);

impl Busy {
    fn begin(&self) -> Call {
        let now = self.0.0.fetch_add(1, SeqCst) + 1;
        self.0.1.fetch_max(now, SeqCst);
        Call(self.clone())
    }

    fn now(&self) -> usize {
        self.0.0.load(SeqCst)
    }

    fn most(&self) -> usize {
        self.0.1.load(SeqCst)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.0.fetch_sub(1, SeqCst);
    }
}

/// An upstream whose calls take this long.
fn takes(
    time: Duration,
    busy: &Busy,
) -> impl Service<Ask, Response = Answer, Error = Infallible, Future: Future + Send> + Clone + Send + 'static {
    let busy = busy.clone();
    service_fn(move |_: Ask| {
        let call = busy.begin();
        async move {
            tokio::time::sleep(time).await;
            drop(call);
            Ok(Response::new(Full::from("done")))
        }
    })
}

/// A whole call: the status, when the body was read.
async fn whole<S>(service: S, request: Ask) -> u16
where
    S: Service<Ask, Response = Response<QueueBody<Full<Bytes>>>, Error = Infallible>,
{
    let response = service.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    status
}

fn kind<B>(response: &Response<B>) -> Option<RejectionKind> {
    Rejection::of(response).map(Rejection::kind)
}

fn is_empty(layer: &QueueLayer) {
    let stats = layer.stats();
    assert_eq!((stats.in_flight, stats.waiting), (0, 0));
}
