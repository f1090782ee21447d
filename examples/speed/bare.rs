//! The minimum of a hyper proxy: it changes the address and forwards the bytes.

use std::convert::Infallible;
use std::path::Path;

use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower_buttress::error::BoxError;

use super::sockets::{self, Party};

type Upstream = Client<HttpsConnector<HttpConnector>, Incoming>;

/// Serves until its process ends. `party`: the folder with its certificate, which its upstream uses too.
pub(crate) async fn run(upstream: Authority, party: Option<&Path>) -> Result<(), BoxError> {
    let party = party.map(Party::read).transpose()?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("on {}", listener.local_addr()?);
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let trust = party.as_ref().map_or_else(sockets::no_trust, |party| Ok(party.client()))?;
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(trust).https_or_http().enable_http1().wrap_connector(tcp);
    let client: Upstream = Client::builder(TokioExecutor::new()).build(connector);
    let scheme = if party.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let service = service_fn(move |request| pass(client.clone(), scheme.clone(), upstream.clone(), request));
    sockets::serve(listener, party.as_ref().map(Party::acceptor), service).await;
    Ok(())
}

async fn pass(
    client: Upstream,
    scheme: Scheme,
    upstream: Authority,
    mut request: Request<Incoming>,
) -> Result<Response<Either<Incoming, Empty<Bytes>>>, Infallible> {
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(scheme);
    uri.authority = Some(upstream);
    if let Ok(uri) = Uri::from_parts(uri) {
        *request.uri_mut() = uri;
    }
    request.headers_mut().remove(http::header::HOST);
    Ok(match client.request(request).await {
        Ok(answer) => answer.map(Either::Left),
        Err(_) => {
            let mut answer = Response::new(Either::Right(Empty::new()));
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
        }
    })
}
