//! A call that is ended on purpose, and one whose caller may come back.

use tower_buttress::{DedupLayer, Event, Resumable};

use super::*;

struct Stack {
    upstream: Upstream,
    layer: SupersedeLayer,
    dedup: DedupLayer,
    log: Arc<Log>,
}

impl Stack {
    fn new() -> Self {
        let log = Arc::new(Log::default());
        let dedup = DedupLayer::new().grace(secs(60)).observer(log.clone());
        Self { upstream: Upstream::that_takes(secs(20)), layer: layer(), dedup, log }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> JoinHandle<Became> {
        let call = self.call(request);
        let call = tokio::spawn(async move { call.await.0 });
        tokio::time::sleep(MILLIS).await;
        call
    }

    /// What became of it, and where its answer will be.
    fn call(&self, request: Request<Full<Bytes>>) -> impl Future<Output = (Became, Option<String>)> + use<> {
        let upstream = self.upstream.clone();
        let flight = self.dedup.layer(service_fn(move |request| upstream.clone().answer(request)));
        let service = self.layer.layer(flight);
        async move {
            let response = service.oneshot(request).await.unwrap();
            let location = response.headers().get("location").map(|location| location.to_str().unwrap().to_owned());
            (became(&response), location)
        }
    }

    /// Asks for an answer later. Returns where it will be.
    async fn later(&self, text: &str) -> String {
        self.answered_later(message(text)).await
    }

    async fn answered_later(&self, mut request: Request<Full<Bytes>>) -> String {
        request.headers_mut().insert("prefer", "respond-async".parse().unwrap());
        let (became, location) = self.call(request).await;
        assert_eq!(became, (202, None));
        location.unwrap()
    }

    /// Whether the first call is still with the upstream.
    async fn goes_on(&self, calls: usize) {
        tokio::time::sleep(secs(1)).await;
        self.upstream.alive.is(calls).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_keeps_its_grace() {
    let stack = Stack::new();
    let first = stack.send(message("one")).await;
    first.abort();
    stack.goes_on(1).await;
    let again = stack.send(message("one")).await;
    assert_eq!(again.await.unwrap(), ANSWERED);
    assert_eq!(stack.upstream.calls(), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn a_superseded_call_ends_at_once() {
    let stack = Stack::new();
    let first = stack.send(message("one")).await;
    let second = stack.send(message("two")).await;
    assert_eq!(first.await.unwrap(), SUPERSEDED);
    stack.goes_on(1).await;
    assert_eq!(stack.log.events(), [Event::FlightAbandoned]);
    assert_eq!(second.await.unwrap(), ANSWERED);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_had_lost_its_caller_is_superseded_too() {
    let stack = Stack::new();
    let first = stack.send(message("one")).await;
    first.abort();
    stack.goes_on(1).await;
    let second = stack.send(message("two")).await;
    stack.goes_on(1).await;
    assert_eq!(stack.log.events(), [Event::FlightAbandoned]);
    assert_eq!(second.await.unwrap(), ANSWERED);
}

#[tokio::test(start_paused = true)]
async fn attempts_at_one_message_share_a_call_and_end_together() {
    let stack = Stack::new();
    let first = stack.send(message("one")).await;
    let again = stack.send(message("one")).await;
    let second = stack.send(message("two")).await;
    assert_eq!((first.await.unwrap(), again.await.unwrap()), (SUPERSEDED, SUPERSEDED));
    assert_eq!(second.await.unwrap(), ANSWERED);
    assert_eq!(stack.upstream.calls(), ["one", "two"]);
}

fn elsewhere(text: &str) -> Request<Full<Bytes>> {
    let mut request = message(text);
    request.headers_mut().insert(HEADER, "8".parse().unwrap());
    request
}

/// The same words in two conversations are one call to the upstream.
#[tokio::test(start_paused = true)]
async fn other_listeners_of_the_same_call_hear_it_to_its_end() {
    let stack = Stack::new();
    let first = stack.send(message("one")).await;
    let other = stack.send(elsewhere("one")).await;
    let second = stack.send(message("two")).await;
    assert_eq!(first.await.unwrap(), SUPERSEDED);
    assert_eq!((other.await.unwrap(), second.await.unwrap()), (ANSWERED, ANSWERED));
    assert_eq!(stack.upstream.calls(), ["one", "two"]);
}

fn at(location: &str) -> Request<Full<Bytes>> {
    Request::get(location).body(Full::default()).unwrap()
}

/// Its caller has a 202, and the call goes on.
#[tokio::test(start_paused = true)]
async fn a_message_that_is_answered_later_is_superseded_until_then() {
    let mut stack = Stack::new();
    stack.dedup = stack.dedup.resumable(Resumable::at("/answers").respond_async(true));
    let location = stack.later("one").await;
    // Nor does a caller that waits for it keep it going, or read it.
    for waits in [false, true] {
        let waiting = if waits { Some(stack.send(at(&stack.later("again").await)).await) } else { None };
        let second = stack.send(message(if waits { "three" } else { "two" })).await;
        stack.goes_on(1).await;
        if let Some(waiting) = waiting {
            assert_eq!(waiting.await.unwrap(), SUPERSEDED);
        }
        assert_eq!(second.await.unwrap(), ANSWERED);
    }
    assert_eq!(stack.call(at(&location)).await.0.0, 410);
    // One that was answered before stays.
    let location = stack.later("four").await;
    assert_eq!(stack.call(at(&location)).await.0, ANSWERED);
    assert_eq!(stack.send(message("five")).await.await.unwrap(), ANSWERED);
    assert_eq!(stack.call(at(&location)).await.0, ANSWERED);
}

#[tokio::test(start_paused = true)]
async fn all_callers_that_wait_for_a_superseded_answer_learn_it() {
    let mut stack = Stack::new();
    stack.dedup = stack.dedup.resumable(Resumable::at("/answers").respond_async(true));
    let location = stack.later("one").await;
    let waiting = [stack.send(at(&location)).await, stack.send(at(&location)).await];
    stack.send(at(&location)).await.abort();
    let second = stack.send(message("two")).await;
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), SUPERSEDED);
    }
    stack.goes_on(1).await;
    assert_eq!(second.await.unwrap(), ANSWERED);
}

/// Of two callers that were sent away, the one whose message is the newest of its conversation.
#[tokio::test(start_paused = true)]
async fn an_answer_that_was_promised_in_another_conversation_comes() {
    for (newer, other) in [(message("two"), 1), (elsewhere("two"), 0)] {
        let mut stack = Stack::new();
        stack.dedup = stack.dedup.resumable(Resumable::at("/answers").respond_async(true));
        let locations = [stack.later("one").await, stack.answered_later(elsewhere("one")).await];
        stack.send(newer).await.abort();
        stack.goes_on(2).await;
        assert_eq!(stack.call(at(&locations[other])).await.0, ANSWERED);
        assert_eq!(stack.upstream.calls(), ["one", "two"]);
    }
    let mut stack = Stack::new();
    stack.dedup = stack.dedup.resumable(Resumable::at("/answers").respond_async(true));
    let (_here, _there) = (stack.later("one").await, stack.answered_later(elsewhere("one")).await);
    stack.send(message("two")).await.abort();
    stack.send(elsewhere("two")).await.abort();
    stack.goes_on(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_handle_ends_a_call_that_had_lost_its_caller() {
    let stack = Stack::new();
    stack.send(message("one")).await.abort();
    stack.goes_on(1).await;
    assert_eq!(stack.layer.handle().cancel_conversation(&Tenant::new("acme"), "7"), 1);
    stack.goes_on(0).await;
}
