//! Configures answers to similar requests.

use http::Request;
use hyper_util::client::legacy::connect::Connect;
use tower::{Layer, ServiceExt};
use tower_buttress::{CallBody, CircuitBreakerLayer, OpenAiEmbeddings, Similar};

use super::args::{LayerArgs, SimilarArgs, Switch};
use super::attempts;
use super::upstream::{Connectors, Forward};

/// The settings of similar answers; `None`: off.
///
/// The layer limits each embeddings request itself. While the embeddings server keeps failing, the layer does not call
/// it.
pub(crate) fn similar<C>(args: &LayerArgs, connectors: &Connectors<C>) -> Option<Similar>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let SimilarArgs { similar, embeddings, embeddings_model, .. } = &args.similar;
    let (threshold, upstream) = (similar.0?, embeddings.clone()?);
    let breaker = if args.breaker == Switch::On { CircuitBreakerLayer::new() } else { CircuitBreakerLayer::disabled() };
    let url = upstream.url()?;
    // For the layer a failure only means that there is no similar answer.
    let forward = ServiceExt::<Request<CallBody>>::map_result(Forward::new(connectors, upstream), |result| {
        match &result {
            Ok(response) => attempts::embeddings_answered(response.status()),
            Err(error) => attempts::embeddings_failed(error),
        }
        result
    });
    let service = breaker.layer(forward);
    let embedder = OpenAiEmbeddings::new(service, url, embeddings_model.clone().unwrap_or_default());
    let embedder = args
        .similar
        .credential()
        .into_iter()
        .fold(embedder, |embedder, header| embedder.header(header.name, header.value));
    Some(Similar::new(embedder).threshold(threshold))
}
