//! Conversations that the processes share.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep, timeout};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{CallBody, SupersedeLayer};
use tower_buttress_redis::{FleetSupersede, RedisModel};

use super::history::History;
use super::nemesis::{Faults, Nemesis};
use super::network::{PATIENCE, SLACK, Way};
use super::time;

const PROCESSES: usize = 3;
const CONVERSATIONS: usize = 2;
const MESSAGES: usize = 12;
/// In which they come.
const TIME: Duration = Duration::from_secs(15);
/// The last one comes when what is late is done.
const LAST_AFTER: Duration = Duration::from_secs(3);
/// A process has received a newer message by then, where nothing fails.
const TOLD_WITHIN: Duration = Duration::from_millis(50);
/// And of what it missed, when it can be reached again.
const FELT_FOR: Duration = Duration::from_secs(8);
const ENDS_WITHIN: Duration = Duration::from_secs(30);

type Service = BoxCloneSyncService<Request<Full<Bytes>>, bool, Infallible>;

/// A message, and what became of it.
#[derive(Clone, Copy, Debug)]
struct Message {
    conversation: usize,
    came: Instant,
    ended: Instant,
    /// It was answered, and not superseded. `None`: its process crashed.
    survived: Option<bool>,
}

fn process(way: &Way, history: &History, rng: &Arc<Mutex<Rng>>, in_flight: &Arc<()>) -> Service {
    let (history, rng, in_flight) = (history.clone(), rng.clone(), in_flight.clone());
    let upstream = service_fn(move |request: Request<CallBody>| {
        let waited = request.extensions().get::<Instant>().unwrap().elapsed();
        if waited > PATIENCE + SLACK {
            history.broken(format!("(3) a message waited {waited:?} for Redis"));
        }
        let (takes, in_flight) = (time(&mut rng.lock().unwrap(), 100.0, 2_500.0), in_flight.clone());
        async move {
            sleep(takes).await;
            drop(in_flight);
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("answer")))
        }
    });
    let conversations = HeaderName::from_static("x-conversation-id");
    let inner =
        SupersedeLayer::by_header(conversations).share(Arc::new(FleetSupersede::new(way.clone()))).layer(upstream);
    BoxCloneSyncService::new(service_fn(move |request: Request<Full<Bytes>>| {
        let inner = inner.clone();
        async move {
            let response = inner.oneshot(request).await?;
            let is_answered = response.status().is_success();
            Ok::<_, Infallible>(is_answered && response.into_body().collect().await.is_ok())
        }
    }))
}

pub(super) async fn history(history: History, mut rng: Rng, faults: Faults) {
    let model = RedisModel::new();
    let way = |process| Way::new(&model, process, history.clone(), rng.fork(), faults.operations);
    let ways: Vec<Way> = (0..PROCESSES).map(way).collect();
    let (draws, in_flight) = (Arc::new(Mutex::new(rng.fork())), Arc::new(()));
    let services: Vec<Service> = ways.iter().map(|way| process(way, &history, &draws, &in_flight)).collect();
    Nemesis { model, ways: ways.clone(), history: history.clone() }.begin(rng.fork(), faults.events, TIME);
    let said: Vec<_> = (0..MESSAGES)
        .map(|number| {
            let (process, conversation) = (rng.usize(..PROCESSES), number % CONVERSATIONS);
            let is_last = number + CONVERSATIONS >= MESSAGES;
            let at = if is_last { TIME + LAST_AFTER } else { TIME.mul_f64(rng.f64()) };
            let (service, way, history) = (services[process].clone(), ways[process].clone(), history.clone());
            tokio::spawn(async move {
                sleep(at).await;
                if way.has_crashed() {
                    return None;
                }
                let came = Instant::now();
                let request = Request::post("http://upstream/v1/messages")
                    .extension(came)
                    .header("authorization", "Bearer a")
                    .header("x-conversation-id", conversation.to_string())
                    .body(Full::from(format!("message {number}")))
                    .unwrap();
                history.say(format!("process {process}: message {number} of conversation {conversation}"));
                let survived = timeout(ENDS_WITHIN, service.oneshot(request)).await.ok().map(Result::unwrap);
                history.say(format!("process {process}: message {number} survived: {survived:?}"));
                if survived.is_none() && !way.has_crashed() {
                    history.broken("a message is neither answered nor superseded".into());
                }
                let survived = survived.filter(|_| !way.has_crashed());
                Some((Message { conversation, came, ended: Instant::now(), survived }, is_last))
            })
        })
        .collect();
    let mut all = Vec::new();
    for message in said {
        all.extend(message.await.unwrap());
    }
    for (message, is_last) in &all {
        if *is_last && message.survived == Some(false) {
            history.broken(format!("(7) the newest message was superseded: {message:?}"));
        }
        check(message, &all, &history);
    }
    drop(services);
    if Arc::strong_count(&in_flight) > 1 && !ways.iter().any(Way::has_crashed) {
        history.broken("(8) calls are under way when all is over".into());
    }
}

/// A message that was answered although a newer one came meanwhile, and was known; or superseded, and nothing was newer.
fn check(message: &Message, all: &[(Message, bool)], history: &History) {
    let others = all.iter().map(|(other, _)| other).filter(|other| other.conversation == message.conversation);
    // Those that came at about the same time may have been numbered either way.
    let newer = others.clone().filter(|other| other.came > message.came + TOLD_WITHIN);
    for other in newer {
        let is_calm = history.is_calm(message.came.checked_sub(FELT_FOR).unwrap_or(message.came), message.ended);
        if message.survived == Some(true) && other.came + TOLD_WITHIN < message.ended && is_calm {
            history.broken(format!("(7) {message:?} was answered after a newer one: {other:?}"));
        }
    }
    let could_be_newer = |other: &Message| other.came + PATIENCE >= message.came && other.came <= message.ended;
    let is_alone = others.filter(|other| could_be_newer(other)).count() == 1;
    if message.survived == Some(false)
        && is_alone
        && history.is_calm(message.came.checked_sub(FELT_FOR).unwrap_or(message.came), message.ended)
    {
        history.broken(format!("(7) {message:?} was superseded, and nothing was newer"));
    }
}

#[test]
fn the_newest_message_survives_and_no_older_one() {
    super::run("conversations", history);
}
