//! Messages of one conversation that come to several processes.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::store::Fingerprint;
use tower_buttress::{CallBody, SupersedeLayer, Tenant};
use tower_buttress_redis::backend::{ConversationBackend, ConversationShare, MessageId, Newest};
use tower_buttress_redis::{FleetSupersede, Redis, RedisModel, RedisOptions};

use crate::support::Server;
use crate::support::proxy::Proxy;
use crate::support::slow::Slow;

const MS: Duration = Duration::from_millis(1);

const SHARE: ConversationShare =
    ConversationShare { tenant: Fingerprint::from_bytes([9; 32]), is_served: true, most: 100 };

/// How long the upstream takes.
const ANSWER: Duration = Duration::from_millis(600);

#[derive(Clone)]
struct Process {
    service: BoxCloneSyncService<Request<Full<Bytes>>, StatusCode, Infallible>,
    /// Calls that the upstream finished.
    finished: Arc<AtomicUsize>,
}

impl Process {
    fn on<B: ConversationBackend>(backend: B) -> Self {
        Self::with(FleetSupersede::new(backend))
    }

    fn with<B: ConversationBackend>(peers: FleetSupersede<B>) -> Self {
        Self::taking(ANSWER, peers)
    }

    fn taking<B: ConversationBackend>(answer: Duration, peers: FleetSupersede<B>) -> Self {
        let finished = Arc::new(AtomicUsize::new(0));
        let done = finished.clone();
        let upstream = service_fn(move |request: Request<CallBody>| {
            let done = done.clone();
            let is_invented = request.headers()["authorization"].as_bytes().starts_with(b"invented");
            let status = if is_invented { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
            async move {
                tokio::time::sleep(answer).await;
                done.fetch_add(1, SeqCst);
                let response = Response::builder().status(status).body(Full::<Bytes>::from("answer"));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        let conversations = HeaderName::from_static("x-conversation-id");
        let layer = SupersedeLayer::by_header(conversations).share(Arc::new(peers));
        let inner = layer.layer(upstream);
        let service = service_fn(move |request: Request<Full<Bytes>>| {
            let inner = inner.clone();
            async move {
                let response = inner.oneshot(request).await?;
                let status = response.status();
                let _ = response.into_body().collect().await;
                Ok::<_, Infallible>(status)
            }
        });
        Self { service: BoxCloneSyncService::new(service), finished }
    }

    fn say(&self, tenant: &str, words: &'static str) -> JoinHandle<StatusCode> {
        self.say_in("7", tenant, words)
    }

    /// A tenant with a capital is authenticated.
    fn say_in(&self, conversation: &str, tenant: &str, words: &'static str) -> JoinHandle<StatusCode> {
        let mut request = Request::post("http://upstream/v1/messages")
            .header("authorization", tenant)
            .header("x-conversation-id", conversation);
        if tenant.starts_with(char::is_uppercase) {
            request = request.extension(Tenant::new(tenant));
        }
        let request = request.body(Full::from(words)).unwrap();
        let service = self.service.clone();
        tokio::spawn(async move { service.oneshot(request).await.unwrap() })
    }
}

async fn the_later_of_two_survives<B: ConversationBackend>(new: impl Fn() -> B) {
    let (one, two) = (Process::on(new()), Process::on(new()));
    // The channels are there.
    for process in [&one, &two] {
        assert_eq!(process.say("other", "hello").await.unwrap(), StatusCode::OK);
    }
    let older = one.say("ann", "first");
    tokio::time::sleep(50 * MS).await;
    let newer = two.say("ann", "second");
    let stranger = one.say("bob", "first");
    assert_eq!(older.await.unwrap(), StatusCode::GONE);
    // A client that tries again by itself is refused, and ends nothing, whichever process it comes to.
    assert_eq!(one.say("ann", "first").await.unwrap(), StatusCode::GONE);
    assert_eq!(two.say("ann", "first").await.unwrap(), StatusCode::GONE);
    assert_eq!(newer.await.unwrap(), StatusCode::OK);
    assert_eq!(stranger.await.unwrap(), StatusCode::OK, "another tenant with the same name has another conversation");
    assert_eq!((one.finished.load(SeqCst), two.finished.load(SeqCst)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn of_two_messages_on_two_machines_the_later_one_survives() {
    let model = RedisModel::new();
    the_later_of_two_survives(|| model.clone()).await;
}

#[tokio::test]
async fn it_is_the_same_on_a_real_redis() {
    let server = Server::start();
    let options = server.fresh();
    the_later_of_two_survives(|| Redis::new(options.clone()).unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn layers_with_other_names_have_other_conversations() {
    let model = RedisModel::new();
    let process = |name: &str| Process::with(FleetSupersede::new(model.clone()).named(name));
    let (one, two, other) = (process("chat"), process("chat"), process("mail"));
    let older = one.say("ann", "first");
    tokio::time::sleep(50 * MS).await;
    let stranger = other.say("ann", "second");
    tokio::time::sleep(50 * MS).await;
    assert!(!older.is_finished());
    let newer = two.say("ann", "third");
    assert_eq!(older.await.unwrap(), StatusCode::GONE);
    assert_eq!((stranger.await.unwrap(), newer.await.unwrap()), (StatusCode::OK, StatusCode::OK));
}

#[tokio::test(start_paused = true)]
async fn the_same_words_on_two_machines_are_one_message() {
    let model = RedisModel::new();
    let (one, two) = (Process::on(model.clone()), Process::on(model));
    let first = one.say("ann", "hello");
    tokio::time::sleep(50 * MS).await;
    let again = two.say("ann", "hello");
    assert_eq!((first.await.unwrap(), again.await.unwrap()), (StatusCode::OK, StatusCode::OK));
    // It was answered: the same words are another message now, and one that was answered is not refused.
    assert_eq!(two.say("ann", "other").await.unwrap(), StatusCode::OK);
    assert_eq!(one.say("ann", "hello").await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn the_same_words_are_one_message_still_when_one_of_their_calls_was_answered() {
    let slow = Slow::new(RedisModel::new(), 50 * MS, 50 * MS);
    let process = Process::taking(900 * MS, FleetSupersede::new(slow));
    let first = process.say("ann", "hello");
    tokio::time::sleep(500 * MS).await;
    let second = process.say("ann", "hello");
    tokio::time::sleep(700 * MS).await;
    assert!(first.is_finished() && !second.is_finished());
    let third = process.say("ann", "hello");
    for call in [first, second, third] {
        assert_eq!(call.await.unwrap(), StatusCode::OK);
    }
}

async fn an_answered_message_is_not_older_than_itself<B: ConversationBackend>(backend: B) {
    let print = |byte| Fingerprint::from_bytes([byte; 32]);
    let hello = MessageId { conversation: print(1), payload: print(2) };
    let other = MessageId { payload: print(3), ..hello };
    let came = Instant::now();
    let is_superseded =
        async |message, came| backend.newest(message, came, 0, SHARE).await.unwrap() == Newest::Superseded;
    tokio::time::sleep(20 * MS).await;
    assert!(!is_superseded(hello, came).await);
    assert!(backend.answered(hello, SHARE).await.unwrap());
    assert!(!backend.answered(hello, SHARE).await.unwrap(), "it was, already");
    tokio::time::sleep(200 * MS).await;
    // Another call of it, that is under way.
    assert!(!is_superseded(hello, came).await);
    assert!(backend.answered(hello, SHARE).await.unwrap());
    // A newer one does not supersede what was answered: it may be said again.
    assert!(!is_superseded(other, Instant::now()).await);
    assert!(!is_superseded(hello, Instant::now()).await);
    assert!(is_superseded(other, Instant::now()).await);
}

#[tokio::test(start_paused = true)]
async fn answered_messages_are_known_in_the_model_as_in_redis() {
    an_answered_message_is_not_older_than_itself(RedisModel::new()).await;
    tokio::time::resume();
    let server = Server::start();
    an_answered_message_is_not_older_than_itself(server.redis()).await;
}

#[tokio::test(start_paused = true)]
async fn without_the_backend_each_process_knows_its_own_messages() {
    let model = RedisModel::new();
    let (one, two) = (Process::on(model.clone()), Process::on(model.clone()));
    model.set_reachable(false);
    let (older, elsewhere) = (one.say("ann", "first"), two.say("ann", "elsewhere"));
    tokio::time::sleep(50 * MS).await;
    let newer = one.say("ann", "second");
    assert_eq!(older.await.unwrap(), StatusCode::GONE);
    assert_eq!((newer.await.unwrap(), elsewhere.await.unwrap()), (StatusCode::OK, StatusCode::OK));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_could_not_be_reported_is_reported_again() {
    let model = RedisModel::new();
    let lossy = Slow::new(model.clone(), MS, MS);
    let is_lost = lossy.loses_answered.clone();
    is_lost.store(true, SeqCst);
    let (one, two) = (Process::on(lossy), Process::on(model));
    assert_eq!(one.say("ann", "hello").await.unwrap(), StatusCode::OK);
    tokio::time::sleep(2_000 * MS).await;
    is_lost.store(false, SeqCst);
    tokio::time::sleep(1_000 * MS).await;
    // It was answered, and a newer one does not supersede it.
    assert_eq!(two.say("ann", "other").await.unwrap(), StatusCode::OK);
    assert_eq!(two.say("ann", "hello").await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn one_conversation_does_not_wait_for_the_others() {
    let model = RedisModel::new();
    let slow = Slow::new(model.clone(), 90 * MS, 90 * MS);
    let (one, two) = (Process::taking(5_000 * MS, FleetSupersede::new(slow)), Process::on(model));
    let older = two.say("ann", "first");
    let others: Vec<_> = (0..60).map(|number| one.say_in(&number.to_string(), "bob", "hello")).collect();
    tokio::time::sleep(MS).await;
    let newer = one.say("ann", "second");
    tokio::time::sleep(2 * 90 * MS).await;
    assert!(older.is_finished(), "it is not notified");
    assert_eq!(older.await.unwrap(), StatusCode::GONE);
    assert_eq!(newer.await.unwrap(), StatusCode::OK);
    for other in others {
        assert_eq!(other.await.unwrap(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_came_while_redis_was_away_are_numbered_as_they_came() {
    let model = RedisModel::new();
    let (one, two) = (model.connection(), model.connection());
    let process = |way: &RedisModel| Process::taking(5_000 * MS, FleetSupersede::new(way.clone()));
    let (one_calls, two_calls) = (process(&one), process(&two));
    one.set_connected(false);
    let older = one_calls.say("ann", "first");
    tokio::time::sleep(300 * MS).await;
    let newer = two_calls.say("ann", "second");
    tokio::time::sleep(300 * MS).await;
    // It is told now, and is no newer for that.
    one.set_connected(true);
    tokio::time::sleep(1_000 * MS).await;
    assert!(older.is_finished() && !newer.is_finished());
    assert_eq!((older.await.unwrap(), newer.await.unwrap()), (StatusCode::GONE, StatusCode::OK));
    // And the other way round: one that could not be told is the newest all the same.
    two.set_connected(false);
    let older = one_calls.say("ann", "third");
    tokio::time::sleep(300 * MS).await;
    let newer = two_calls.say("ann", "fourth");
    tokio::time::sleep(300 * MS).await;
    two.set_connected(true);
    assert_eq!((older.await.unwrap(), newer.await.unwrap()), (StatusCode::GONE, StatusCode::OK));
}

#[tokio::test]
async fn a_message_that_redis_takes_late_ends_no_later_one() {
    let server = Server::start();
    let way = Proxy::to(server.port()).await;
    let process = |options| Process::taking(3_000 * MS, FleetSupersede::new(Redis::new(options).unwrap()));
    let one = process(RedisOptions::from_url(&format!("redis://127.0.0.1:{}", way.port())).unwrap());
    let two = process(server.options());
    // The first knows what the clock of Redis shows.
    for conversation in 0..5 {
        one.say_in(&conversation.to_string(), "other", "hello");
        two.say_in(&conversation.to_string(), "other", "hello");
        tokio::time::sleep(50 * MS).await;
    }
    way.hold();
    let older = one.say("ann", "first");
    tokio::time::sleep(400 * MS).await;
    let newer = two.say("ann", "second");
    tokio::time::sleep(100 * MS).await;
    // What was sent then is carried out now, and says that it came a moment ago.
    way.let_pass();
    assert_eq!((older.await.unwrap(), newer.await.unwrap()), (StatusCode::GONE, StatusCode::OK));
}

#[tokio::test(start_paused = true)]
async fn when_a_clock_is_set_back_the_newest_message_survives_all_the_same() {
    let model = RedisModel::new();
    let (one, two) = (Process::on(model.clone()), Process::on(model.clone()));
    for process in [&one, &two] {
        assert_eq!(process.say("other", "hello").await.unwrap(), StatusCode::OK);
    }
    let older = one.say("ann", "first");
    tokio::time::sleep(50 * MS).await;
    model.jump_back(Duration::from_secs(3600));
    let newer = two.say("ann", "second");
    assert_eq!(older.await.unwrap(), StatusCode::GONE);
    assert_eq!(newer.await.unwrap(), StatusCode::OK);
    assert_eq!(two.say("ann", "first").await.unwrap(), StatusCode::GONE);
    // Also one of which Redis is told late, when it can be reached again.
    model.jump_back(Duration::from_secs(3600));
    model.set_reachable(false);
    let late = two.say("ann", "third");
    tokio::time::sleep(400 * MS).await;
    model.set_reachable(true);
    assert_eq!(late.await.unwrap(), StatusCode::OK);
    // A superseded one is refused for ten minutes, and no longer.
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(two.say("ann", "first").await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_has_forgotten_all_and_whose_clock_is_behind_ends_no_newest_message() {
    let model = RedisModel::new();
    let process = || Process::taking(5_000 * MS, FleetSupersede::new(model.clone()));
    let (one, two) = (process(), process());
    let first = one.say("ann", "first");
    tokio::time::sleep(500 * MS).await;
    model.jump_back(Duration::from_secs(60));
    model.restart();
    tokio::time::sleep(500 * MS).await;
    assert!(!first.is_finished());
    let second = two.say("ann", "second");
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (StatusCode::GONE, StatusCode::OK));
}

/// The engine has forgotten a conversation, and the number of its message is behind the one that a process knows.
async fn numbers_go_on<B: ConversationBackend>(backend: B) {
    let print = |byte| Fingerprint::from_bytes([byte; 32]);
    let number = async |payload, known| {
        let message = MessageId { conversation: print(5), payload: print(payload) };
        match backend.newest(message, Instant::now(), known, SHARE).await.unwrap() {
            Newest::Number { number, .. } => number,
            older => panic!("it is the newest: {older:?}"),
        }
    };
    let known = number(1, 0).await + 3_600_000;
    assert_eq!(number(2, known).await, known + 1);
    assert_eq!(number(3, 0).await, known + 2);
}

#[tokio::test(start_paused = true)]
async fn numbers_go_on_in_the_model_as_in_redis() {
    numbers_go_on(RedisModel::new()).await;
    tokio::time::resume();
    let server = Server::start();
    numbers_go_on(server.redis()).await;
}

/// Three messages of a conversation that come to two processes of a fleet.
async fn say_thrice([one, two]: &[Process; 2], tenant: &str, conversation: &str) -> [u16; 3] {
    // Both processes know of the conversation before its next message.
    let first = one.say_in(conversation, tenant, "first");
    tokio::time::sleep(150 * MS).await;
    let second = two.say_in(conversation, tenant, "second");
    tokio::time::sleep(150 * MS).await;
    let third = two.say_in(conversation, tenant, "third");
    [first.await.unwrap(), second.await.unwrap(), third.await.unwrap()].map(|status| status.as_u16())
}

/// Two processes that share two conversations of a tenant.
fn with_room_for_two<B: ConversationBackend>(backend: &B) -> [Process; 2] {
    [(); 2].map(|()| Process::taking(1_000 * MS, FleetSupersede::new(backend.clone()).tenant_conversations(2)))
}

async fn one_conversation_too_many<B: ConversationBackend>(backend: B) {
    let fleet = with_room_for_two(&backend);
    // Both processes have seen that she is served.
    for process in &fleet {
        assert_eq!(process.say_in("one", "ann", "hello").await.unwrap(), StatusCode::OK);
    }
    assert_eq!(say_thrice(&fleet, "ann", "one").await, [410, 410, 200]);
    assert_eq!(say_thrice(&fleet, "ann", "two").await, [410, 410, 200]);
    assert_eq!(say_thrice(&fleet, "ann", "three").await, [200, 410, 200], "each process orders its own");
    assert_eq!(say_thrice(&fleet, "ann", "one").await, [410, 410, 200], "it is known");
}

#[tokio::test(start_paused = true)]
async fn the_conversations_of_one_tenant_are_limited() {
    one_conversation_too_many(RedisModel::new()).await;
}

#[tokio::test]
async fn conversations_are_limited_on_a_real_redis() {
    let server = Server::start();
    one_conversation_too_many(server.redis()).await;
}

async fn invented_tenants_have_the_room_of_one<B: ConversationBackend>(backend: B) {
    let fleet = with_room_for_two(&backend);
    // Both processes have seen that she is served.
    for process in &fleet {
        assert_eq!(process.say_in("old", "ann", "hello").await.unwrap(), StatusCode::OK);
    }
    for number in 0..9 {
        let (tenant, conversation) = (format!("invented {number}"), format!("invented {number}"));
        let refused = fleet[number % 2].say_in(&conversation, &tenant, "hello").await.unwrap();
        assert_eq!(refused, StatusCode::UNAUTHORIZED);
    }
    let unknown = say_thrice(&fleet, "bob", "his").await;
    assert_eq!(unknown, [200, 410, 200], "one who was never served has no room left");
    assert_eq!(say_thrice(&fleet, "ann", "hers").await, [410, 410, 200], "it is nothing to one who was served");
    assert_eq!(say_thrice(&fleet, "Acme", "theirs").await, [410, 410, 200], "nor to one who is authenticated");
    assert_eq!(say_thrice(&fleet, "bob", "new").await, [410, 410, 200], "he was served since");
}

#[tokio::test(start_paused = true)]
async fn callers_who_invent_credentials_have_the_room_of_one_tenant() {
    invented_tenants_have_the_room_of_one(RedisModel::new()).await;
}

#[tokio::test]
async fn callers_who_invent_credentials_have_the_room_of_one_tenant_on_a_real_redis() {
    let server = Server::start();
    invented_tenants_have_the_room_of_one(server.redis()).await;
    let count = "return #redis.call('KEYS', '*:i')";
    assert_eq!(server.eval(count, &[]).await, redis::Value::Int(2 + 1 + 1 + 2), "hers, theirs, his, and two invented");
}
