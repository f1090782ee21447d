//! Processes that die, and processes that are suspended: the leader is a process of its own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tower_buttress::DedupRole;
use tower_buttress_redis::{Redis, RedisOptions, RedisStore};

use crate::support::fleet::{Process, Script};
use crate::support::{Server, signal};

const MS: Duration = Duration::from_millis(1);

/// What the other process is told: the Redis, the space of keys, and after how many milliseconds the head comes.
const TOLD: &str = "BUTTRESS_TEST_OTHER_PROCESS";

const LEASE: Duration = Duration::from_secs(1);

fn process(url: &str, prefix: &str, script: Script) -> Process {
    let options = RedisOptions::from_url(url).unwrap().prefix(prefix);
    Process::with(RedisStore::new(Redis::new(options).unwrap()).lease(LEASE), script)
}

fn script(head_after: Duration) -> Script {
    Script { head_after, has_length: true, ..Script::STREAM }
}

/// Not a test, but the other process of those below: it makes a call, and says what its caller read.
#[tokio::test]
async fn the_other_process() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let [url, prefix, head_after] = told.split(' ').collect::<Vec<_>>()[..] else { panic!("{told}") };
    let script = script(Duration::from_millis(head_after.parse().unwrap()));
    let received = process(url, prefix, script).ask(Some("k")).await.unwrap();
    // What ends the process cleanly.
    assert!(received.is_whole(script), "{:?}", received.failure);
}

struct OtherProcess(Child);

impl OtherProcess {
    fn start(server: &Server, prefix: &str, head_after: Duration) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::the_other_process", "--nocapture"])
            .env(TOLD, format!("{} {prefix} {}", server.url(), head_after.as_millis()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, name: &str) {
        signal(self.0.id(), name);
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the other process has claimed its key.
async fn until_claimed(server: &Server, prefix: &str) {
    let pattern = format!("KEYS {prefix}:*:m");
    for _ in 0..2000 {
        if !matches!(server.say(&pattern).await, Ok(redis::Value::Array(keys)) if keys.is_empty()) {
            return;
        }
        tokio::time::sleep(5 * MS).await;
    }
    panic!("the other process claims nothing");
}

/// Waits until the answer to the only key is kept, and returns whose it is. A caller reads its end earlier.
async fn until_kept(server: &Server, prefix: &str) -> redis::Value {
    let kept = "local key = redis.call('KEYS', ARGV[1] .. ':*:m')[1]
        return key and redis.call('HGET', key, 's') == 'k' and redis.call('HGET', key, 't') or false";
    for _ in 0..2000 {
        match server.eval(kept, &[prefix]).await {
            redis::Value::Nil => tokio::time::sleep(5 * MS).await,
            holder => return holder,
        }
    }
    panic!("no answer is kept");
}

#[tokio::test]
async fn a_leader_that_is_killed_before_its_head_is_replaced() {
    let server = Server::start();
    let head_after = Duration::from_secs(60);
    let other = OtherProcess::start(&server, "killed", head_after);
    until_claimed(&server, "killed").await;
    let script = script(10 * MS);
    let here = process(&server.url(), "killed", script);
    let callers = [here.ask(Some("k")), here.ask(Some("k"))];
    tokio::time::sleep(300 * MS).await;
    assert_eq!(here.calls(), 0, "the other process makes the call");
    other.signal("KILL");
    for caller in callers {
        assert!(caller.await.unwrap().is_whole(script));
    }
    assert_eq!(here.calls(), 1);
}

#[tokio::test]
async fn a_leader_that_is_killed_after_its_head_is_an_error_and_the_next_call_is_free() {
    let server = Server::start();
    let other = OtherProcess::start(&server, "cut", Duration::ZERO);
    until_claimed(&server, "cut").await;
    let script = script(Duration::ZERO);
    let here = process(&server.url(), "cut", script);
    let caller = here.ask(Some("k"));
    tokio::time::sleep(500 * MS).await;
    other.signal("KILL");
    let received = caller.await.unwrap();
    assert!(received.is_right(script) && received.failure.is_some(), "{received:?}");
    assert!(!received.text.is_empty());
    assert_eq!(here.calls(), 0);
    assert!(here.ask(Some("k")).await.unwrap().is_whole(script));
    assert_eq!(here.calls(), 1);
}

#[tokio::test]
async fn a_leader_that_is_suspended_loses_its_lease_and_keeps_nothing() {
    let server = Server::start();
    // Longer than it takes to suspend it.
    let mut other = OtherProcess::start(&server, "zombie", 3000 * MS);
    until_claimed(&server, "zombie").await;
    other.signal("STOP");
    let script = script(600 * MS);
    let here = process(&server.url(), "zombie", script);
    let mine = here.ask(Some("k"));
    let received = mine.await.unwrap();
    assert!(received.is_whole(script));
    assert_eq!((here.calls(), received.role), (1, Some(DedupRole::Leader)));
    let kept = until_kept(&server, "zombie").await;
    other.signal("CONT");
    assert!(other.0.wait().unwrap().success(), "its own caller reads its own answer, all of it");
    assert_eq!(
        until_kept(&server, "zombie").await,
        kept,
        "what is kept is the answer of the process that had the lease"
    );
    let third = process(&server.url(), "zombie", script);
    assert_eq!(third.ask(Some("k")).await.unwrap().role, Some(DedupRole::Replayed));
    assert_eq!(third.calls(), 0);
}
