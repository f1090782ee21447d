//! Sends a call to a backup when the upstream is down, with the backup's own credential and model.
//!
//! ```sh
//! cargo run --example fallback
//! ```

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{FallbackLayer, ServedBy};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let primary = serve(Router::new().route("/", post(|| async { StatusCode::SERVICE_UNAVAILABLE }))).await?;
    let echo = |headers: HeaderMap, body: String| async move { format!("{:?} {body}", headers[AUTHORIZATION]) };
    let backup = serve(Router::new().route("/", post(echo))).await?;

    let client = Client::builder(TokioExecutor::new()).build_http();
    let backup = ServiceBuilder::new()
        .map_request(move |mut request: Request<_>| {
            *request.uri_mut() = backup.clone();
            request
        })
        .service(client.clone());
    let fallback = FallbackLayer::new(backup).name("small").rewrite(|request| {
        let mut request = request.map(|body| String::from_utf8_lossy(&body).replace("large", "small").into());
        request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("backup's"));
        request
    });
    let service = ServiceBuilder::new().layer(fallback).service(client);

    let request =
        Request::post(primary).header(AUTHORIZATION, "primary's").body(Full::<Bytes>::from("model: large"))?;
    let response = service.oneshot(request).await?;
    println!("{} from {:?}", response.status(), ServedBy::of(&response));
    let answer = response.into_body().collect().await?.to_bytes();
    println!("{}", String::from_utf8_lossy(&answer));
    assert_eq!(answer, r#""backup's" model: small"#);
    Ok(())
}

async fn serve(app: Router) -> Result<http::Uri, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?).parse()?;
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(url)
}
