//! Runs a generated client with the whole stack, against a server that asks for a wait before it answers.
//!
//! ```sh
//! cargo run --example tonic --features tonic
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::{ErrorDetails, StatusExt};
use tower::ServiceBuilder;
use tower_buttress::error::BoxError;
use tower_buttress::{CallInfo, Event, Observer, TimeoutProfile, presets};
use tower_buttress_tonic::ChannelLayer;

struct Print;

impl Observer for Print {
    fn on_event(&self, event: &Event, _call: Option<&CallInfo>) {
        println!("{event}");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (_reporter, health) = tonic_health::server::health_reporter();
    let warm = Arc::new(AtomicBool::new(false));
    let patience = move |request: Request<()>| {
        let later = ErrorDetails::with_retry_info(Some(Duration::from_millis(300)));
        let cold = Status::with_error_details(Code::Unavailable, "warming up", later);
        if warm.swap(true, Relaxed) { Ok(request) } else { Err(cold) }
    };
    let server = Server::builder().layer(tonic::service::InterceptorLayer::new(patience)).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let stack = presets::grpc_client(TimeoutProfile::FAST)
        .retry(|retry| retry.retry_non_idempotent(true)) // a check may be made twice
        .observer(Arc::new(Print));
    let channel = Endpoint::from_shared(url)?.connect_lazy();
    let mut client = HealthClient::new(ServiceBuilder::new().layer(stack).layer(ChannelLayer::new()).service(channel));

    let everything = HealthCheckRequest { service: String::new() };
    println!("{:?}", client.check(everything).await?.into_inner().status());
    Ok(())
}
