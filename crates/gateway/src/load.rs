//! What bounds the load: of upstreams, and of each caller.

use tower_buttress::{PaceLayer, QueueLayer};

use super::args::{CallerArgs, Concurrency, LayerArgs, Pacing};

/// What `auto` chooses from.
const FEWEST: u32 = 2;
const MOST: u32 = 1_000;

/// The places of one upstream.
pub(crate) fn queue(args: &LayerArgs) -> QueueLayer {
    let layer = match args.concurrency {
        Concurrency::Off => return QueueLayer::disabled(),
        Concurrency::Auto => QueueLayer::auto(FEWEST, MOST),
        Concurrency::Fixed(limit) => QueueLayer::new(limit.get()),
    };
    layer.max_waiting(args.queue).max_wait(args.queue_wait)
}

/// The rates of one upstream.
pub(crate) fn pace(args: &LayerArgs) -> PaceLayer {
    let rates = [args.pace_requests.0, args.pace_tokens.0];
    let layer = PaceLayer::new().learn(args.pace == Pacing::Learn);
    let layer = match (args.pace, rates) {
        (Pacing::Off, [None, None]) => return PaceLayer::disabled(),
        (Pacing::Off, _) => layer.max_pause(std::time::Duration::ZERO),
        // Providers limit each model by itself. The operator's own rates hold for the account: callers, who name the
        // models, could multiply them otherwise.
        (_, [None, None]) => layer.key_by_model(),
        _ => layer,
    };
    let layer = rates[0].into_iter().fold(layer, PaceLayer::requests);
    rates[1].into_iter().fold(layer, PaceLayer::tokens)
}

/// The limits of each caller.
pub(crate) fn per_caller(args: &CallerArgs) -> PaceLayer {
    let CallerArgs { caller_requests, caller_tokens, caller_concurrency, .. } = args;
    if caller_requests.0.is_none() && caller_tokens.0.is_none() && caller_concurrency.0.is_none() {
        return PaceLayer::disabled();
    }
    let layer = caller_requests.0.into_iter().fold(PaceLayer::per_caller(), PaceLayer::requests);
    let layer = caller_tokens.0.into_iter().fold(layer, PaceLayer::tokens);
    caller_concurrency.0.into_iter().fold(layer, |layer, calls| layer.concurrency(calls.get()))
}
