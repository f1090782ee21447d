//! Ends a gRPC stream that runs out of time with a status instead of a cut.
//!
//! ```sh
//! cargo run --example grpc_status --features tonic
//! ```

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceBuilder;
use tower_buttress::ServiceBuilderExt;
use tower_buttress::error::BoxError;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    // A health watch is an endless stream. The deadline ends it after 0.5 s.
    let (_reporter, health) = tonic_health::server::health_reporter();
    let layers = ServiceBuilder::new().grpc_status().deadline(Duration::from_millis(500));
    let server = Server::builder().layer(layers.into_inner()).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let mut client = HealthClient::new(Endpoint::from_shared(url)?.connect().await?);
    let everything = HealthCheckRequest { service: String::new() };
    let mut states = client.watch(everything).await?.into_inner();
    let ended = loop {
        match states.message().await {
            Ok(Some(state)) => println!("{:?}", state.status()),
            Ok(None) => return Err("the stream is said to be whole".into()),
            Err(status) => break status,
        }
    };
    println!("{}: {}", ended.code(), ended.message());
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    Ok(())
}
