//! What becomes of calls that two processes share when Redis, or one of them, fails in the middle. Each fault ends in a
//! right answer or in an error, and never in half an answer that looks whole.

mod invariants;

use std::time::{Duration, Instant};

use http::StatusCode;
use tower_buttress::DedupRole;
use tower_buttress_redis::{RedisModel, RedisOptions, RedisStore};

use crate::support::Server;
use crate::support::faulty::Faulty;
use crate::support::fleet::{Process, ReceivedAnswer, Script};
use crate::support::proxy::Proxy;
use crate::support::replicated::Replicated;

const MS: Duration = Duration::from_millis(1);

/// Two processes; the first makes a call, and the second reads it 300 ms later.
struct Pair {
    here: Process,
    there: Process,
    leader: tokio::task::JoinHandle<ReceivedAnswer>,
    follower: tokio::task::JoinHandle<ReceivedAnswer>,
}

impl Pair {
    async fn on(server: &Server, script: Script) -> Self {
        Self::with(&server.fresh(), script).await
    }

    async fn with(options: &RedisOptions, script: Script) -> Self {
        let (here, there) = two(options, script);
        let leader = here.ask(None);
        tokio::time::sleep(300 * MS).await;
        let follower = there.ask(None);
        tokio::time::sleep(300 * MS).await;
        Self { here, there, leader, follower }
    }

    /// Both read all of it, and it was one call.
    async fn are_whole(self, script: Script) -> (ReceivedAnswer, ReceivedAnswer) {
        let (leader, follower) = (self.leader.await.unwrap(), self.follower.await.unwrap());
        assert!(leader.is_whole(script), "{:?}", leader.failure);
        assert!(follower.is_whole(script), "{:?} after {} bytes", follower.failure, follower.text.len());
        assert_eq!(follower.role, Some(DedupRole::Joined));
        assert_eq!((self.here.calls(), self.there.calls()), (1, 0));
        (leader, follower)
    }
}

fn two(options: &RedisOptions, script: Script) -> (Process, Process) {
    (Process::on(options, script), Process::on(options, script))
}

#[tokio::test]
async fn without_a_fault_the_follower_is_never_far_behind() {
    let server = Server::start();
    let (leader, follower) = Pair::on(&server, Script::STREAM).await.are_whole(Script::STREAM).await;
    assert!(leader.longest_wait < 200 * MS && follower.longest_wait < 200 * MS, "{leader:?} {follower:?}");
}

#[tokio::test]
async fn redis_is_frozen_for_a_moment() {
    let server = Server::start();
    let pair = Pair::on(&server, Script::STREAM).await;
    server.freeze();
    tokio::time::sleep(300 * MS).await;
    server.thaw();
    let (leader, _) = pair.are_whole(Script::STREAM).await;
    assert!(leader.longest_wait < 200 * MS, "a caller of the process that makes the call waited for Redis");
}

#[tokio::test]
async fn redis_is_restarted_empty() {
    let mut server = Server::start();
    let pair = Pair::on(&server, Script::STREAM).await;
    server.kill();
    tokio::time::sleep(200 * MS).await;
    server.start_again();
    let (leader, _) = pair.are_whole(Script::STREAM).await;
    assert!(leader.longest_wait < 200 * MS, "a caller of the process that makes the call waited for Redis");
}

#[tokio::test]
async fn a_replica_takes_over_in_mid_stream_and_has_lost_what_was_written() {
    let mut redis = Replicated::start().await;
    let pair = Pair::with(&redis.options(), Script::STREAM).await;
    redis.lag();
    tokio::time::sleep(300 * MS).await;
    redis.fail_over().await;
    let (leader, _) = pair.are_whole(Script::STREAM).await;
    assert!(leader.longest_wait < 200 * MS, "a caller of the process that makes the call waited for Redis");
}

#[tokio::test]
async fn an_answer_that_a_failover_lost_is_asked_for_once_more_and_kept() {
    let mut redis = Replicated::start().await;
    // The first connection is made in time on a busy machine, too.
    let options = redis.options().patience(5_000 * MS);
    let (here, there) = two(&options, Script::SHORT);
    assert!(here.ask(Some("known")).await.unwrap().is_whole(Script::SHORT));
    tokio::time::sleep(200 * MS).await;
    redis.lag();
    assert!(here.ask(Some("lost")).await.unwrap().is_whole(Script::SHORT));
    tokio::time::sleep(50 * MS).await;
    assert_eq!(there.ask(Some("lost")).await.unwrap().role, Some(DedupRole::Replayed));
    redis.fail_over().await;
    // Those who read it know it themselves; one that was restarted does not.
    let restarted = Process::on(&options, Script::SHORT);
    assert_eq!(restarted.ask(Some("known")).await.unwrap().role, Some(DedupRole::Replayed));
    let again = restarted.ask(Some("lost")).await.unwrap();
    assert!(again.is_whole(Script::SHORT));
    assert_eq!(again.role, Some(DedupRole::Leader));
    tokio::time::sleep(50 * MS).await;
    let next = Process::on(&options, Script::SHORT);
    assert_eq!(next.ask(Some("lost")).await.unwrap().role, Some(DedupRole::Replayed));
    assert_eq!((here.calls(), there.calls(), restarted.calls(), next.calls()), (2, 0, 1, 0));
}

#[tokio::test]
async fn redis_cuts_all_subscriptions() {
    let server = Server::start();
    let pair = Pair::on(&server, Script::STREAM).await;
    for _ in 0..2 {
        server.say("CLIENT KILL TYPE pubsub").await.unwrap();
        tokio::time::sleep(300 * MS).await;
    }
    pair.are_whole(Script::STREAM).await;
}

#[tokio::test]
async fn redis_forgets_all_scripts() {
    let server = Server::start();
    let pair = Pair::on(&server, Script::STREAM).await;
    for _ in 0..5 {
        server.say("SCRIPT FLUSH").await.unwrap();
        tokio::time::sleep(100 * MS).await;
    }
    pair.are_whole(Script::STREAM).await;
}

#[tokio::test]
async fn redis_takes_no_writes_for_a_moment() {
    let server = Server::start();
    let pair = Pair::on(&server, Script::STREAM).await;
    server.say("CLIENT PAUSE 400 WRITE").await.unwrap();
    let (leader, _) = pair.are_whole(Script::STREAM).await;
    assert!(leader.longest_wait < 200 * MS, "a caller of the process that makes the call waited for Redis");
}

#[tokio::test]
async fn redis_has_no_memory_left() {
    let server = Server::start();
    let pair = Pair::on(&server, Script::STREAM).await;
    server.say("CONFIG SET maxmemory 1").await.unwrap();
    let (leader, follower) = (pair.leader.await.unwrap(), pair.follower.await.unwrap());
    assert!(leader.is_whole(Script::STREAM));
    assert!(follower.is_right(Script::STREAM) && follower.failure.is_some(), "{follower:?}");
    // What comes now is for each process to answer by itself.
    let (here, there) = two(&server.fresh(), Script::SHORT);
    for answer in [here.ask(Some("k")), there.ask(Some("k"))] {
        assert!(answer.await.unwrap().is_whole(Script::SHORT));
    }
    assert_eq!(here.ask(Some("k")).await.unwrap().role, Some(DedupRole::Replayed));
    assert_eq!((here.calls(), there.calls()), (1, 1));
    server.say("CONFIG SET maxmemory 0").await.unwrap();
    let (here, there) = two(&server.fresh(), Script::SHORT);
    assert!(here.ask(Some("k")).await.unwrap().is_whole(Script::SHORT));
    assert_eq!(there.ask(Some("k")).await.unwrap().role, Some(DedupRole::Replayed));
}

#[tokio::test]
async fn redis_is_gone_for_good() {
    let mut server = Server::start();
    let script = Script { parts: 200, ..Script::STREAM };
    let pair = Pair::on(&server, script).await;
    server.kill();
    let leader = pair.leader.await.unwrap();
    assert!(leader.is_whole(script));
    assert!(leader.longest_wait < 200 * MS, "{:?}", leader.longest_wait);
    let follower = pair.follower.await.unwrap();
    assert!(follower.is_right(script) && follower.failure.is_some(), "{follower:?}");
    // Each goes on by itself, and waits for nothing.
    let begun = Instant::now();
    assert!(pair.there.ask(None).await.unwrap().is_whole(script));
    assert!(begun.elapsed() < 6000 * MS, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn redis_was_never_there() {
    let options = RedisOptions::from_url("redis://127.0.0.1:1").unwrap();
    let process = Process::on(&options, Script::SHORT);
    let begun = Instant::now();
    let answers: Vec<_> = (0..20).map(|_| process.ask(Some("k"))).collect();
    for answer in answers {
        assert!(answer.await.unwrap().is_whole(Script::SHORT));
    }
    assert_eq!(process.ask(Some("k")).await.unwrap().role, Some(DedupRole::Replayed));
    assert_eq!(process.calls(), 1, "within a process they are one call as ever");
    assert!(begun.elapsed() < 600 * MS, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_slow_caller_elsewhere_reads_all_of_a_long_answer_and_holds_up_no_other() {
    let server = Server::start();
    let script = Script { parts: 60, size: 50_000, every: 10 * MS, ..Script::STREAM };
    let (here, there) = two(&server.fresh(), script);
    let leader = here.ask(None);
    tokio::time::sleep(50 * MS).await;
    let follower = there.ask_slowly(None, 50 * MS);
    let begun = Instant::now();
    assert!(leader.await.unwrap().is_whole(script));
    assert!(begun.elapsed() < 2000 * MS, "{:?}", begun.elapsed());
    let follower = follower.await.unwrap();
    assert!(follower.is_whole(script), "{:?} after {} bytes", follower.failure, follower.text.len());
    assert_eq!((here.calls(), there.calls()), (1, 0));
}

#[tokio::test]
async fn of_four_processes_and_eighty_callers_one_makes_the_call() {
    let server = Server::start();
    let options = server.fresh();
    let fleet: Vec<Process> = (0..4).map(|_| Process::on(&options, Script::SHORT)).collect();
    let asked: Vec<_> = (0..80).map(|n| fleet[n % 4].ask(Some("k"))).collect();
    for answer in asked {
        assert!(answer.await.unwrap().is_whole(Script::SHORT));
    }
    assert_eq!(fleet.iter().map(Process::calls).sum::<usize>(), 1);
    // Kept, and replayed by all.
    for process in &fleet {
        let received = process.ask(Some("k")).await.unwrap();
        assert!(received.is_whole(Script::SHORT));
        assert_eq!(received.role, Some(DedupRole::Replayed));
    }
    assert_eq!(fleet.iter().map(Process::calls).sum::<usize>(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_followers_is_written_once_at_its_end() {
    let model = RedisModel::new();
    let process = Process::with(RedisStore::new(model.clone()), Script::STREAM);
    assert!(process.ask(None).await.unwrap().is_whole(Script::STREAM));
    tokio::time::sleep(10 * MS).await;
    // The inbox of the process, the claim, the answer, and that it is kept.
    assert_eq!(model.operations(), 4);
    // What this process knows itself costs nothing.
    assert_eq!(process.ask(None).await.unwrap().role, Some(DedupRole::Replayed));
    assert_eq!(model.operations(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_subscribe_reads_the_answer_and_takes_no_lease_away() {
    let model = RedisModel::new();
    let here = Process::with(RedisStore::new(model.clone()), Script::STREAM);
    let there = Process::with(RedisStore::new(Faulty::new(model, false, 0)), Script::STREAM);
    let leader = here.ask(Some("k"));
    tokio::time::sleep(10 * MS).await;
    let follower = there.ask(Some("k"));
    assert!(leader.await.unwrap().is_whole(Script::STREAM));
    let follower = follower.await.unwrap();
    assert!(follower.is_whole(Script::STREAM), "{:?}", follower.failure);
    assert_eq!((here.calls(), there.calls()), (1, 0));
    assert_eq!(here.ask(Some("k")).await.unwrap().role, Some(DedupRole::Replayed), "it was kept");
}

/// The only key of this kind.
async fn only_key(server: &Server, pattern: &str) -> String {
    match server.say(&format!("KEYS {pattern}")).await.unwrap() {
        redis::Value::Array(keys) => match keys.as_slice() {
            [redis::Value::BulkString(key)] => String::from_utf8(key.clone()).unwrap(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_kept_answer_that_was_evicted_or_damaged_is_as_good_as_none() {
    let server = Server::start();
    // Gone, or with other bytes: in the record of the head, in the length of the data, in the counts at the end.
    for (number, harm) in ["DEL", "head", "data", "end"].into_iter().enumerate() {
        let prefix = format!("harmed{number}");
        let options = server.options().prefix(prefix.as_str());
        let (here, there) = two(&options, Script::SHORT);
        assert!(here.ask(Some("k")).await.unwrap().is_whole(Script::SHORT));
        tokio::time::sleep(50 * MS).await;
        let log = only_key(&server, &format!("{prefix}:*:r:*")).await;
        let redis::Value::BulkString(kept) = server.say(&format!("GET {log}")).await.unwrap() else { panic!("no log") };
        let place = match harm {
            "head" => 70,
            "data" => kept.windows(4).position(|bytes| bytes == b"0;..").unwrap() - 4,
            _ => kept.len() - 16,
        };
        let command = match harm {
            "DEL" => format!("DEL {log}"),
            _ => format!("SETRANGE {log} {place} \u{7f}\u{7f}\u{7f}\u{7f}"),
        };
        server.say(&command).await.unwrap();
        // It makes the call, and what it is answered is kept for all.
        assert_eq!(there.ask(Some("k")).await.unwrap().role, Some(DedupRole::Leader), "{harm}");
        tokio::time::sleep(50 * MS).await;
        let third = Process::on(&options, Script::SHORT);
        assert_eq!(third.ask(Some("k")).await.unwrap().role, Some(DedupRole::Replayed), "{harm}");
        assert_eq!((here.calls(), there.calls(), third.calls()), (1, 1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn followers_elsewhere_learn_at_once_of_an_answer_that_is_too_long_at_its_end() {
    let (model, script) = (RedisModel::new(), Script { parts: 1, size: 8_000, ..Script::SHORT });
    let process = || Process::with(RedisStore::new(model.clone()).max_log(6_000), script);
    let (here, there) = (process(), process());
    let leader = here.ask(Some("k"));
    tokio::time::sleep(100 * MS).await;
    let asked = tokio::time::Instant::now();
    let follower = there.ask(Some("k"));
    assert!(leader.await.unwrap().is_whole(script));
    let received = follower.await.unwrap();
    assert!(received.is_right(script) && received.failure.is_some(), "{received:?}");
    assert!(asked.elapsed() < 1_500 * MS, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn followers_elsewhere_learn_at_once_of_an_answer_that_is_lost_at_its_end() {
    // The tenant has no room: those who read it live have it all, and the next claim finds the key free.
    let (model, script) = (RedisModel::new(), Script { parts: 3, size: 400, every: 100 * MS, ..Script::SHORT });
    let process = || Process::with(RedisStore::new(model.clone()).tenant_bytes(2_500), script);
    let (here, there) = (process(), process());
    assert!(here.ask(Some("first")).await.unwrap().is_whole(script));
    let leader = here.ask(Some("second"));
    tokio::time::sleep(50 * MS).await;
    let follower = there.ask(Some("second"));
    assert!(leader.await.unwrap().is_whole(script));
    let follower = follower.await.unwrap();
    assert!(follower.is_whole(script), "{:?}", follower.failure);
    assert_eq!((here.calls(), there.calls()), (2, 0));
    // The first is known everywhere, the second to the process that made the call.
    assert_eq!(there.ask(Some("first")).await.unwrap().role, Some(DedupRole::Replayed));
    assert_eq!(here.ask(Some("second")).await.unwrap().role, Some(DedupRole::Replayed));
    assert_eq!(process().ask(Some("second")).await.unwrap().role, Some(DedupRole::Leader));
}

#[tokio::test]
async fn a_large_part_is_written_in_pieces_that_each_have_the_patience() {
    let server = Server::start();
    let script = Script { parts: 2, size: 400_000, every: 600 * MS, has_length: true, ..Script::STREAM };
    Pair::on(&server, script).await.are_whole(script).await;
    let stat = server.all_info().await;
    let calls =
        stat.lines().find_map(|line| line.strip_prefix("cmdstat_setrange:calls=")?.split(',').next()?.parse().ok());
    assert!(calls.is_some_and(|calls: u32| calls >= 800_000 / 65_536), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn the_task_of_a_call_ends_when_redis_is_gone_for_good() {
    let model = RedisModel::new();
    let script = Script { parts: 20, every: 100 * MS, has_length: false, ..Script::STREAM };
    let process = || Process::with(RedisStore::new(model.clone()), script);
    let (here, there) = (process(), process());
    let leader = here.ask(None);
    tokio::time::sleep(200 * MS).await;
    let follower = there.ask(None);
    tokio::time::sleep(200 * MS).await;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    model.set_reachable(false);
    assert!(leader.await.unwrap().is_whole(script));
    assert!(follower.await.unwrap().failure.is_some());
    tokio::time::sleep(Duration::from_secs(30)).await;
    // The tasks that listen to the inboxes of the two processes.
    assert!(alive() <= 2, "{} tasks", alive());
}

/// An answer that is not kept: its key is to be freed.
const FAILED: Script = Script { parts: 1, status: StatusCode::INTERNAL_SERVER_ERROR, ..Script::SHORT };

#[tokio::test(start_paused = true)]
async fn an_owner_that_has_a_call_no_more_says_so_at_once() {
    let model = RedisModel::new();
    let here = Process::with(RedisStore::new(Faulty::losing_frees(model.clone(), 1)), FAILED);
    let there = Process::with(RedisStore::new(model.clone()), Script::SHORT);
    // That its key is free was lost on its way to Redis.
    assert_eq!(here.ask(Some("k")).await.unwrap().status, FAILED.status);
    tokio::time::sleep(10 * MS).await;
    assert_eq!(model.held(), 1);
    let asked = tokio::time::Instant::now();
    let received = there.ask(Some("k")).await.unwrap();
    assert!(received.is_whole(Script::SHORT), "{received:?}");
    assert!(asked.elapsed() < Script::SHORT.head_after + 100 * MS, "{:?}", asked.elapsed());
    assert_eq!((here.calls(), there.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_could_not_be_freed_is_freed_a_moment_later() {
    let model = RedisModel::new();
    let here = Process::with(RedisStore::new(Faulty::losing_frees(model.clone(), 2)), FAILED);
    assert_eq!(here.ask(Some("k")).await.unwrap().status, FAILED.status);
    tokio::time::sleep(10 * MS).await;
    assert_eq!(model.held(), 1);
    tokio::time::sleep(3_000 * MS).await;
    assert_eq!(model.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_takes_several_operations_waits_no_longer_than_for_one() {
    let model = RedisModel::new();
    let slow = Faulty { takes: 90 * MS, ..Faulty::losing_frees(model, 100) };
    let process = Process::with(RedisStore::new(slow), FAILED);
    assert_eq!(process.ask(Some("k")).await.unwrap().status, FAILED.status);
    tokio::time::sleep(1_000 * MS).await;
    // Its own key is still there, and is to be freed first.
    let asked = tokio::time::Instant::now();
    assert_eq!(process.ask(Some("k")).await.unwrap().status, FAILED.status);
    assert_eq!(process.calls(), 2);
    assert!(asked.elapsed() < FAILED.head_after + 150 * MS, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_redis_replays_what_it_keeps() {
    let model = RedisModel::new();
    let slow = || Faulty { takes: 90 * MS, ..Faulty::losing_frees(model.clone(), 0) };
    let [here, there] = [slow(), slow()].map(|slow| Process::with(RedisStore::new(slow), Script::SHORT));
    assert!(here.ask(Some("k")).await.unwrap().is_whole(Script::SHORT));
    tokio::time::sleep(1_000 * MS).await;
    assert!(there.ask(Some("k")).await.unwrap().is_whole(Script::SHORT));
    assert_eq!((here.calls(), there.calls()), (1, 0));
}

#[tokio::test]
async fn a_leader_whose_subscription_is_half_open_makes_the_only_call() {
    let server = Server::start();
    let way = Proxy::to(server.port()).await;
    let script = Script { head_after: 4_000 * MS, ..Script::SHORT };
    let leaders = RedisOptions::from_url(&format!("redis://127.0.0.1:{}", way.port())).unwrap();
    let (here, there) = (Process::on(&leaders, script), Process::on(&server.options(), script));
    let leader = here.ask(Some("k"));
    tokio::time::sleep(300 * MS).await;
    // Redis does not know its inbox any more, and the leader does not know that.
    way.hide_ends();
    server.say("CLIENT KILL TYPE pubsub").await.unwrap();
    let follower = there.ask(Some("k"));
    assert!(leader.await.unwrap().is_whole(script));
    let follower = follower.await.unwrap();
    assert!(follower.is_whole(script), "{follower:?}");
    assert_eq!((here.calls(), there.calls()), (1, 0));
}

/// The answer is not kept, and its key is freed while Redis takes no writes.
#[tokio::test]
async fn who_follows_a_call_that_ended_while_redis_took_no_writes_is_answered_soon_after() {
    let server = Server::start();
    let options = server.fresh();
    let script = Script { head_after: 700 * MS, ..FAILED };
    let (here, there) = (Process::on(&options, script), Process::on(&options, Script::SHORT));
    let leader = here.ask(Some("k"));
    tokio::time::sleep(500 * MS).await;
    server.say("CLIENT PAUSE 600 WRITE").await.unwrap();
    assert_eq!(leader.await.unwrap().status, script.status);
    // It takes writes again, and still has the key.
    tokio::time::sleep(500 * MS).await;
    let asked = Instant::now();
    let follower = there.ask(Some("k"));
    let received = follower.await.unwrap();
    assert!(asked.elapsed() < 2_500 * MS, "{:?} {received:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_a_tenant_has_no_room_for_leaves_nothing_behind() {
    let (model, script) = (RedisModel::new(), Script { parts: 3, size: 400, ..Script::SHORT });
    let process = Process::with(RedisStore::new(model.clone()).tenant_bytes(1_000), script);
    for key in ["first", "second"] {
        assert!(process.ask(Some(key)).await.unwrap().is_whole(script));
        tokio::time::sleep(50 * MS).await;
        assert_eq!(model.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_answers_in_flight_of_one_tenant_have_a_share_of_redis() {
    let (model, script) = (RedisModel::new(), Script { parts: 1, size: 4_000, every: 300 * MS, ..Script::SHORT });
    let process = || Process::with(RedisStore::new(model.clone()).tenant_bytes(10_000).max_log(10_000), script);
    let (here, there) = (process(), process());
    // Later their logs have expired.
    for round in 0..2 {
        let all =
            |process: &Process| (0..6).map(|key| process.ask(Some(&format!("{round}-{key}")))).collect::<Vec<_>>();
        let leaders = all(&here);
        tokio::time::sleep(50 * MS).await;
        let followers = all(&there);
        for leader in leaders {
            assert!(leader.await.unwrap().is_whole(script));
        }
        let mut shared = 0;
        for follower in followers {
            let received = follower.await.unwrap();
            assert!(received.is_right(script));
            shared += usize::from(received.role == Some(DedupRole::Joined) && received.failure.is_none());
        }
        assert_eq!(shared, 2);
        tokio::time::sleep(Duration::from_secs(40)).await;
    }
}
