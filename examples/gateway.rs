//! The core of a proxy for an LLM provider: axum in front, `presets::llm_gateway`, and TLS to the upstream.
//!
//! ```sh
//! cargo run --example gateway -- https://api.openai.com 127.0.0.1:8080
//! curl http://127.0.0.1:8080/v1/models -H "authorization: Bearer $OPENAI_API_KEY"
//! ```
//!
//! The crate `tower-buttress-gateway` is a complete one, with options for each layer, caller keys, WebSockets, TLS for
//! callers and an orderly shutdown.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, StatusCode};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{ConnectTimeoutLayer, TimeoutProfile, presets};

/// Headers of one connection, which must not be forwarded.
const HOP_BY_HOP: [HeaderName; 7] =
    [CONNECTION, HeaderName::from_static("keep-alive"), PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut args = std::env::args().skip(1);
    let Some(origin) = args.next() else {
        println!("usage: gateway https://upstream[:port] [address:port]");
        return Ok(());
    };
    let listener = TcpListener::bind(args.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned())).await?;
    println!("http://{} -> {origin}", listener.local_addr()?);
    serve(listener, origin, trust()?).await
}

pub(crate) async fn serve(listener: TcpListener, origin: String, trust: ClientConfig) -> Result<(), BoxError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let tls = HttpsConnectorBuilder::new().with_tls_config(trust).https_or_http().enable_all_versions();
    // Limits TCP and TLS together.
    let connector = ConnectTimeoutLayer::new(Duration::from_secs(5)).layer(tls.wrap_connector(tcp));
    // Providers send many rate limit headers; hyper's default is 100 fields.
    let client =
        Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).http1_max_headers(256).build(connector);

    // Deadlines, retries, a circuit per model, deduplication, the stream guard and heartbeats, in order.
    let upstream = presets::llm_gateway(TimeoutProfile::STANDARD).layer(client);
    let app: Router = Router::new().fallback(async move |mut request: Request| -> Response {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let Ok(uri) = format!("{}{path}", origin.trim_end_matches('/')).parse() else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        *request.uri_mut() = uri;
        request.headers_mut().remove(HOST);
        remove_hop_by_hop(request.headers_mut());
        match upstream.oneshot(request).await {
            Ok(mut response) => {
                remove_hop_by_hop(response.headers_mut());
                response.map(Body::new)
            }
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    });
    Ok(axum::serve(listener, app).await?)
}

/// Trusts the system's certificates, or those in the file that `SSL_CERT_FILE` names.
fn trust() -> Result<ClientConfig, BoxError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // With both fields the length is wrong (RFC 9112, 6.3).
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<String> = named.flat_map(|names| names.split(',')).map(|name| name.trim().to_owned()).collect();
    for name in HOP_BY_HOP.iter().map(HeaderName::as_str).chain(named.iter().map(String::as_str)) {
        headers.remove(name);
    }
}
