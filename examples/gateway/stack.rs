//! The layers, in their order. This is the only place that knows it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service, ServiceBuilder};
use tower_buttress::error::BoxError;
use tower_buttress::{
    Activity, ConnectTimeoutLayer, DeadlineHeader, DeadlineLayer, FirstByte, FirstByteTimeoutLayer,
    IdleBodyTimeoutLayer, Observer,
};

use super::args::Args;
use super::forward::{self, Forward};
use super::upstream::Upstream;

/// Everything between a request that is ready to go out and an answer that is ready to come back, outermost first.
pub(crate) fn stack<B>(
    args: &Args,
    upstream: Upstream,
    observer: &Arc<dyn Observer>,
) -> impl Service<
    Request<B>,
    Response = Response<impl Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static>,
    Error: Into<BoxError>,
    Future: Send,
> + Clone
+ Send
+ 'static
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    ServiceBuilder::new()
        .layer(deadline(args).observer(observer.clone()))
        .layer(idle(args).observer(observer.clone()))
        .layer(first_byte(args).observer(observer.clone()))
        .service(Forward::new(
            forward::client(connect(args).observer(observer.clone()).layer(forward::connector())),
            upstream,
        ))
}

fn deadline(args: &Args) -> DeadlineLayer {
    let Some(header) = args.deadline_header.0.clone().map(DeadlineHeader::millis) else {
        return args.deadline.0.map_or_else(DeadlineLayer::disabled, DeadlineLayer::new);
    };
    // Without a limit of our own, the callers' still hold.
    DeadlineLayer::new(args.deadline.0.unwrap_or(Duration::MAX))
        .accept(header.clone())
        .propagate(header)
        .reserve(args.deadline_reserve.0.unwrap_or_default())
}

/// An upstream that sends nothing but keep-alive comments is as stuck as a silent one, here and below.
fn idle(args: &Args) -> IdleBodyTimeoutLayer {
    let layer = args.idle_timeout.0.map_or_else(IdleBodyTimeoutLayer::disabled, IdleBodyTimeoutLayer::new);
    layer.activity(Activity::SseEvents)
}

fn first_byte(args: &Args) -> FirstByteTimeoutLayer {
    let layer = args.first_byte_timeout.0.map_or_else(FirstByteTimeoutLayer::disabled, FirstByteTimeoutLayer::new);
    layer.until(FirstByte::SseEvent)
}

fn connect(args: &Args) -> ConnectTimeoutLayer {
    args.connect_timeout.0.map_or_else(ConnectTimeoutLayer::disabled, ConnectTimeoutLayer::new)
}
