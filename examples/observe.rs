//! Adds the call to each event.
//!
//! ```sh
//! cargo run --example observe
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::Full;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::error::BoxError;
use tower_buttress::{CallInfo, DeadlineLayer, Event, ObserveLayer};

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let observer = |event: &Event, call: Option<&CallInfo>| {
        println!("{}: {event}", call.map_or("-", CallInfo::id));
    };
    let service = ServiceBuilder::new()
        .layer(ObserveLayer::new("chat").request_id(HeaderName::from_static("x-request-id")))
        .layer(DeadlineLayer::new(Duration::from_secs(1)).observer(Arc::new(observer)))
        // Answers after the number of seconds in its path.
        .service(service_fn(|request: Request<()>| async move {
            let seconds = request.uri().path().trim_start_matches('/').parse().unwrap_or_default();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done")))
        }));

    for (id, path) in [("quick", "/0"), ("slow", "/5")] {
        let request = Request::get(path).header("x-request-id", id).body(())?;
        println!("{id} is answered with {}", service.clone().oneshot(request).await?.status());
    }
    Ok(())
}
