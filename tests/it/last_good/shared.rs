//! Answers that several processes share.

use std::collections::HashMap;
use std::future::{pending, ready};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::Instant;
use tower_buttress::last_good::LastGood;
use tower_buttress::store::{AnswerFuture, Fingerprint, LastGoodAnswer, LastGoodKeys, SharedLastGood};

use super::*;
use crate::support::secs;

/// What the processes share, in memory.
#[derive(Default)]
struct Place {
    answers: Mutex<HashMap<Fingerprint, (LastGoodKeys, LastGoodAnswer, Duration)>>,
    asked: AtomicUsize,
    hangs: AtomicBool,
}

impl SharedLastGood for Place {
    fn keep(&self, keys: LastGoodKeys, answer: LastGoodAnswer, ttl: Duration) {
        self.answers.lock().unwrap().insert(keys.exact, (keys, answer, ttl));
    }

    fn find(&self, keys: LastGoodKeys, max_age: Duration) -> AnswerFuture<Option<LastGoodAnswer>> {
        self.asked.fetch_add(1, SeqCst);
        if self.hangs.load(SeqCst) {
            return Box::pin(pending());
        }
        let mut answers = self.answers.lock().unwrap().clone();
        answers.retain(|_, (_, answer, _)| answer.age(Instant::now().into_std()) <= max_age);
        let of_another = || {
            let mut all = answers.values();
            all.find(|(other, ..)| keys.normal.is_some() && other.normal == keys.normal)
        };
        let exact = answers.get(&keys.exact).map(|(_, answer, _)| answer.clone());
        let found = exact.or_else(|| of_another().map(|(_, answer, _)| answer.clone().exact(false)));
        Box::pin(ready(found))
    }
}

fn process(place: &Arc<Place>) -> (Upstream, LastGood<impl Calls + use<>>) {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().share(place.clone()).layer(upstream.service());
    (upstream, service)
}

trait Calls:
    Service<Request<CallBody>, Response = Response<Script>, Error = io::Error, Future: Send> + Clone + Send + 'static
{
}

impl<S> Calls for S where
    S: Service<Request<CallBody>, Response = Response<Script>, Error = io::Error, Future: Send>
        + Clone
        + Send
        + 'static
{
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_another_process_was_given_stands_in() {
    let place = Arc::<Place>::default();
    let ((one, first), (two, second)) = (process(&place), process(&place));
    one.set(Does::Answer(
        200,
        vec![("content-type", "application/json"), ("set-cookie", "a=b"), ("x-request-id", "1")],
        vec![Step::Data(WHOLE)],
    ));
    send(&first, ask(QUESTION)).await;
    assert_eq!(place.asked.load(SeqCst), 0, "nothing is asked on the good path");
    let (_, kept, ttl) = place.answers.lock().unwrap().values().next().unwrap().clone();
    assert_eq!((kept.head.headers().contains_key("set-cookie"), ttl), (false, secs(3600)));

    tokio::time::advance(secs(60)).await;
    for failure in [status(503), status(429), Does::Break] {
        two.set(failure);
        let response = second.clone().oneshot(ask(QUESTION)).await.unwrap();
        assert_eq!(Stale::of(&response), Some(Stale::new(StaleKind::Exact, secs(60))));
        assert_eq!(
            (&response.headers()["age"], &response.headers()["x-request-id"]),
            (&"60".parse().unwrap(), &"1".parse().unwrap())
        );
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), WHOLE);
    }
    let spelled = QUESTION.replace("What is the capital of France?", "what is the capital of France");
    two.set(status(503));
    assert_eq!(send(&second, ask(&spelled)).await.1, Some(StaleKind::Normalized));
    assert_eq!(send(&second, ask(&QUESTION.replace("France", "Spain"))).await.0, 503);
    let mut stranger = ask(QUESTION);
    stranger.headers_mut().insert("authorization", "Bearer bob".parse().unwrap());
    assert_eq!(send(&second, stranger).await.0, 503, "another tenant has no answer");
    // What the caller did wrong it is told, and an answer that is too old for it is none.
    two.set(status(400));
    assert_eq!(send(&second, ask(QUESTION)).await.0, 400);
    two.set(status(503));
    let mut fresh = ask(QUESTION);
    fresh.headers_mut().insert("cache-control", "max-age=30".parse().unwrap());
    assert_eq!(send(&second, fresh).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn a_process_with_its_own_answer_asks_no_other() {
    let place = Arc::<Place>::default();
    let (upstream, service) = process(&place);
    send(&service, ask(QUESTION)).await;
    upstream.set(status(503));
    assert_eq!(send(&service, ask(QUESTION)).await.1, Some(StaleKind::Exact));
    assert_eq!(place.asked.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn processes_that_say_nothing_are_waited_for_half_a_second() {
    let place = Arc::<Place>::default();
    place.hangs.store(true, SeqCst);
    let (upstream, service) = process(&place);
    upstream.set(status(503));
    let begun = Instant::now();
    assert_eq!(send(&service, ask(QUESTION)).await, (503, None, "no".to_owned()));
    assert_eq!(begun.elapsed(), Duration::from_millis(500));
    // Behind them comes what comes without them.
    let service = LastGoodLayer::new().share(place).template(|_| Some("Later.".to_owned())).layer(upstream.service());
    assert_eq!(send(&service, ask(QUESTION)).await.1, Some(StaleKind::Template));
}
