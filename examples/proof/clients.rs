//! The contestants. All get the same limits, as far as they have a setting for them.

mod bare;
mod buttress;
pub(crate) mod limited;
pub(crate) mod outage;
mod resilience;
mod tower_http;

use std::net::SocketAddr;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as HyperClient, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::Service;
use tower::util::BoxCloneSyncService;
use tower_buttress::error::BoxError;
use tower_buttress::{DedupLayer, LastGoodLayer, ResumeBy, ResumeLayer};

use super::faults::Upstreams;

/// The service that callers use, for every contestant.
pub(crate) type Client = BoxCloneSyncService<Request<Full<Bytes>>, Response<BoxBody<Bytes, BoxError>>, BoxError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    Bare,
    TowerHttp,
    Resilience,
    Buttress,
    /// With the provider's cursor.
    Resuming,
    /// Without a cursor. The model gives the same answer to the same request, which the run checks.
    Restarting,
}

// === impl Contestant ===

impl Contestant {
    pub(crate) const ALL: [Self; 6] =
        [Self::Bare, Self::TowerHttp, Self::Resilience, Self::Buttress, Self::Resuming, Self::Restarting];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare hyper",
            Self::TowerHttp => "tower, tower-http",
            Self::Resilience => "tower-resilience",
            Self::Buttress => "tower-buttress",
            Self::Resuming => "ours, by cursor",
            Self::Restarting => "ours, restarting",
        }
    }

    pub(crate) fn client(self, upstreams: &Upstreams) -> Result<Client, BoxError> {
        let (primary, backup) = (upstreams.primary, upstreams.backup);
        let resume = match self {
            Self::Bare => return Ok(bare::client(primary)),
            Self::TowerHttp => return tower_http::client(primary),
            Self::Resilience => return resilience::client(primary, backup),
            Self::Buttress => ResumeLayer::new(),
            Self::Restarting => ResumeLayer::new().verified_restart(true),
            Self::Resuming => ResumeLayer::new().resume_by(ResumeBy::sse_id().resend(true)),
        };
        buttress::client(primary, backup, DedupLayer::new(), resume, LastGoodLayer::disabled())
    }
}

/// A hyper client that sends every request to `addr`.
fn upstream<B>(
    addr: SocketAddr,
) -> impl Service<Request<B>, Response = Response<Incoming>, Error = Error, Future: Send> + Clone + Send + Sync + 'static
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = HyperClient::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
    let authority: Option<Authority> = addr.to_string().parse().ok();
    tower::service_fn(move |mut request: Request<B>| {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority.clone_from(&authority);
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        client.request(request)
    })
}

fn boxed<B>(response: Response<B>) -> Response<BoxBody<Bytes, BoxError>>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Sync + 'static,
{
    response.map(|body| body.map_err(Into::into).boxed())
}
