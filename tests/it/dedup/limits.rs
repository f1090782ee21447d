//! What the layer holds is bounded, and no caller holds up the others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use tokio::time::advance;
use tower_buttress::error::{self, DedupLagged};
use tower_buttress::store::MemoryStore;
use tower_buttress::{DedupLayer, DedupRole, Rejection, RejectionKind};

use super::{Answer, Say, dedup, next, post, post_key, role, send, settle, starts_a_new_call, text, waits};
use crate::support::{Log, secs};

/// Frames of this length count as this and 64 more.
const FRAME: usize = 10_000;

/// A store that a single tenant may have all of.
fn store(max_bytes: usize, max_entries: usize) -> MemoryStore {
    MemoryStore::new(max_bytes, max_entries).tenant_shares(1)
}

fn frame() -> Bytes {
    Bytes::from(vec![b'x'; FRAME])
}

/// A layer that records ten frames.
fn ten_frames() -> DedupLayer {
    DedupLayer::new().max_response(10 * (FRAME + 64) + 1_000)
}

async fn read(answer: &mut Answer, frames: usize) {
    for _ in 0..frames {
        assert_eq!(next(answer).await.len(), FRAME);
    }
}

fn say_frames(say: &Say, frames: usize) {
    (0..frames).for_each(|_| say.bytes(frame()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_within_the_limit_is_joined_and_replayed() {
    let (service, mut stage) = dedup(&ten_frames());
    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    say_frames(&say, 10);
    let mut leader = leader.await.unwrap().unwrap();
    read(&mut leader, 10).await;
    let mut joined = send(&service, post("hi")).await.await.unwrap().unwrap();
    read(&mut joined, 10).await;
    say.end();
    assert_eq!(next(&mut leader).await, "end");
    let mut replayed = send(&service, post("hi")).await.await.unwrap().unwrap();
    assert_eq!(role(&replayed), Some(DedupRole::Replayed));
    read(&mut replayed, 10).await;
}

#[tokio::test(start_paused = true)]
async fn over_the_limit_current_listeners_go_on_and_no_other_joins() {
    for key in [None, Some("k")] {
        let request = || key.map_or(post("hi"), |key| post_key(key, "hi"));
        let log = Arc::new(Log::default());
        let (service, mut stage) = dedup(&ten_frames().observer(log.clone()));
        let leader = send(&service, request()).await;
        let say = stage.call().await.ok();
        let mut leader = leader.await.unwrap().unwrap();
        let mut joined = send(&service, request()).await.await.unwrap().unwrap();
        say_frames(&say, 11);
        read(&mut leader, 11).await;

        let next_one = send(&service, request()).await;
        match key {
            // What is named is not done twice.
            Some(_) => {
                let answer = next_one.await.unwrap().unwrap();
                assert_eq!(answer.status(), 409);
                assert_eq!(Rejection::of(&answer).unwrap().kind(), RejectionKind::IdempotencyKeyInFlight);
            }
            // What is not may lead the next who come.
            None => {
                let another = stage.call().await;
                let joins = send(&service, request()).await;
                another.ok_with("another");
                assert_eq!(text(next_one.await.unwrap().unwrap()).await, "another");
                assert_eq!(text(joins.await.unwrap().unwrap()).await, "another");
            }
        }

        read(&mut joined, 11).await;
        for _ in 0..100 {
            say_frames(&say, 5);
            read(&mut leader, 5).await;
            read(&mut joined, 5).await;
        }
        say.end();
        assert_eq!(next(&mut leader).await, "end");
        assert_eq!(next(&mut joined).await, "end");
        assert!(log.names().contains(&"bypassed: dedup".to_owned()));
        // It was not stored either, and the key is free.
        if key.is_some() {
            starts_a_new_call(&service, &mut stage, request()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn small_frames_count_for_what_they_take_to_hold() {
    let store = MemoryStore::default();
    let (service, mut stage) = dedup(&DedupLayer::new().store(store.clone()).max_response(100_000));
    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    let mut leader = leader.await.unwrap().unwrap();
    // Each of their frames is held apart.
    let mut joined = send(&service, post("hi")).await.await.unwrap().unwrap();
    for _ in 0..100_000 / 65 + 1 {
        say.data("x");
        next(&mut leader).await;
        next(&mut joined).await;
        assert!(store.bytes() < 110_000);
    }
    let again = send(&service, post("hi")).await;
    stage.call().await.ok_with("another");
    assert_eq!(role(&again.await.unwrap().unwrap()), Some(DedupRole::Leader));
}

#[tokio::test(start_paused = true)]
async fn a_slow_follower_does_not_hold_up_the_leader() {
    let (service, mut stage) = dedup(&ten_frames().lag(secs(5)));
    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    let mut leader = leader.await.unwrap().unwrap();
    let mut slow = send(&service, post("hi")).await.await.unwrap().unwrap();
    read_all_but_one_is_cut_off(&say, &mut leader, &mut slow).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_leader_does_not_hold_up_its_followers() {
    let (service, mut stage) = dedup(&ten_frames().lag(secs(5)));
    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    let mut slow = leader.await.unwrap().unwrap();
    let mut follower = send(&service, post("hi")).await.await.unwrap().unwrap();
    read_all_but_one_is_cut_off(&say, &mut follower, &mut slow).await;
}

async fn read_all_but_one_is_cut_off(say: &Say, fast: &mut Answer, slow: &mut Answer) {
    read_one(say, slow, fast).await;
    say_frames(say, 100);
    // What is held is full: the upstream waits for the slow one, and the fast one waits with it.
    read(fast, 11).await;
    assert!(waits(fast));
    let untaken = say.untaken();
    assert_eq!(untaken, 89);
    advance(Duration::from_millis(4_900)).await;
    assert!(waits(fast));
    assert_eq!(say.untaken(), untaken);
    let start = tokio::time::Instant::now();
    read(fast, 89).await;
    assert_eq!(start.elapsed().as_millis(), 100, "it waits for as long as the lag, once");
    // The slow one is told.
    let failed = slow.body_mut().frame().await.unwrap().unwrap_err();
    assert_eq!(error::find::<DedupLagged>(&failed).unwrap().after, secs(5));
    assert_eq!(next(slow).await, "end");
    say.end();
    assert_eq!(next(fast).await, "end");
}

async fn read_one(say: &Say, one: &mut Answer, other: &mut Answer) {
    say_frames(say, 1);
    read(one, 1).await;
    read(other, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_that_reads_again_lets_the_others_go_on() {
    let (service, mut stage) = dedup(&ten_frames().lag(secs(5)));
    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    let mut fast = leader.await.unwrap().unwrap();
    let mut slow = send(&service, post("hi")).await.await.unwrap().unwrap();
    say_frames(&say, 40);
    read(&mut fast, 11).await;
    let reading = tokio::spawn(async move {
        read(&mut fast, 29).await;
        fast
    });
    settle().await;
    assert!(!reading.is_finished());
    advance(secs(4)).await;
    // It catches up before the others' patience ends: they go on at once.
    read(&mut slow, 11).await;
    settle().await;
    read(&mut slow, 10).await;
    settle().await;
    read(&mut slow, 10).await;
    settle().await;
    read(&mut slow, 9).await;
    assert!(reading.is_finished());
    let mut fast = reading.await.unwrap();
    say.end();
    assert_eq!(next(&mut fast).await, "end");
    assert_eq!(next(&mut slow).await, "end");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_that_leaves_lets_the_others_go_on() {
    let (service, mut stage) = dedup(&ten_frames());
    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    let mut fast = leader.await.unwrap().unwrap();
    let slow = send(&service, post("hi")).await.await.unwrap().unwrap();
    say_frames(&say, 40);
    let reading = tokio::spawn(async move { read(&mut fast, 40).await });
    settle().await;
    assert!(!reading.is_finished());
    drop(slow);
    settle().await;
    assert!(reading.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_single_reader_may_be_as_slow_as_it_likes() {
    let (service, mut stage) = dedup(&ten_frames());
    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    let mut leader = leader.await.unwrap().unwrap();
    say_frames(&say, 50);
    for _ in 0..50 {
        advance(secs(60)).await;
        read(&mut leader, 1).await;
    }
    say.end();
    assert_eq!(next(&mut leader).await, "end");
}

#[tokio::test(start_paused = true)]
async fn where_no_more_can_be_kept_calls_pass_and_a_key_says_so() {
    let log = Arc::new(Log::default());
    let layer = DedupLayer::new().store(store(1 << 20, 1)).observer(log.clone());
    let (service, mut stage) = dedup(&layer);
    let holds = send(&service, post_key("k", "hi")).await;
    let passes = [send(&service, post("hi")).await, send(&service, post_key("l", "hi")).await];
    stage.call().await.ok_with("holds");
    stage.call().await.ok_with("passes");
    stage.call().await.ok_with("passes");
    for (passes, ignored) in passes.into_iter().zip([None, Some("store-full")]) {
        let answer = passes.await.unwrap().unwrap();
        assert_eq!(answer.headers().get("idempotency-key-ignored").map(|why| why.to_str().unwrap()), ignored);
        assert_eq!((role(&answer), text(answer).await.as_str()), (None, "passes"));
    }
    assert_eq!(text(holds.await.unwrap().unwrap()).await, "holds");
    assert_eq!(log.names(), ["bypassed: dedup", "bypassed: dedup"]);

    // It is kept for its time: it is not forgotten to make room.
    advance(secs(59)).await;
    let answer = send(&service, post_key("k", "hi")).await.await.unwrap().unwrap();
    assert_eq!(role(&answer), Some(DedupRole::Replayed));
    advance(secs(1)).await;
    let now_free = send(&service, post_key("l", "hi")).await;
    stage.call().await.ok_with("free");
    let answer = now_free.await.unwrap().unwrap();
    assert_eq!((role(&answer), text(answer).await.as_str()), (Some(DedupRole::Leader), "free"));
}

#[tokio::test(start_paused = true)]
async fn with_strict_keys_a_key_that_cannot_be_kept_is_refused() {
    let log = Arc::new(Log::default());
    let layer = DedupLayer::new().store(store(1 << 20, 1)).strict_keys(true).observer(log.clone());
    let (service, mut stage) = dedup(&layer);
    let holds = send(&service, post_key("k", "hi")).await;
    let answer = send(&service, post_key("l", "hi")).await.await.unwrap().unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(Rejection::of(&answer).unwrap().kind(), RejectionKind::DedupStoreFull);
    // The call that holds the place may end at any moment.
    assert_eq!(answer.headers()["retry-after"], "1");
    stage.call().await.ok_with("holds");
    assert_eq!(text(holds.await.unwrap().unwrap()).await, "holds");
    assert_eq!(log.names(), ["refused: dedup-store-full"]);

    // When there will be room, is known.
    advance(secs(20)).await;
    let answer = send(&service, post_key("l", "hi")).await.await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"40".parse().unwrap()));
    // A click passes.
    let passes = send(&service, post("hi")).await;
    stage.call().await.ok_with("passes");
    assert_eq!(text(passes.await.unwrap().unwrap()).await, "passes");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_promised_makes_room() {
    let layer = DedupLayer::new().store(store(1 << 20, 2)).fingerprint_window(secs(60));
    let (service, mut stage) = dedup(&layer);
    for body in ["one", "two", "three"] {
        let call = send(&service, post(body)).await;
        stage.call().await.ok_with(body);
        text(call.await.unwrap().unwrap()).await;
        advance(secs(1)).await;
    }
    // The oldest went.
    for (body, kept) in [("three", true), ("two", true), ("one", false)] {
        let call = send(&service, post(body)).await;
        if !kept {
            stage.call().await.ok_with(body);
        }
        let answer = call.await.unwrap().unwrap();
        assert_eq!(role(&answer) == Some(DedupRole::Replayed), kept, "{body}");
        text(answer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_store_runs_full_in_the_middle_current_listeners_go_on() {
    let store = store(20 * FRAME, 100);
    let (service, mut stage) = dedup(&DedupLayer::new().store(store.clone()).lag(secs(5)));
    let holds = send(&service, post_key("k", "hi")).await;
    let holds_say = stage.call().await.ok();
    say_frames(&holds_say, 15);
    let mut holds = holds.await.unwrap().unwrap();
    read(&mut holds, 15).await;

    let leader = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    let mut leader = leader.await.unwrap().unwrap();
    let mut joined = send(&service, post("hi")).await.await.unwrap().unwrap();
    say_frames(&say, 30);
    // There is room for four. What is held beyond is one frame, whose length is unknown beforehand.
    read(&mut leader, 5).await;
    assert!(waits(&mut leader));
    assert!(store.bytes() <= 21 * FRAME, "{}", store.bytes());
    // Now they go in step.
    read(&mut joined, 5).await;
    for _ in 0..25 {
        read(&mut leader, 1).await;
        read(&mut joined, 1).await;
        assert!(store.bytes() <= 21 * FRAME, "{}", store.bytes());
    }
    say.end();
    assert_eq!(next(&mut leader).await, "end");
    assert_eq!(next(&mut joined).await, "end");

    // The first is as it was.
    holds_say.end();
    assert_eq!(next(&mut holds).await, "end");
    let replayed = send(&service, post_key("k", "hi")).await.await.unwrap().unwrap();
    assert_eq!(text(replayed).await.len(), 15 * FRAME);
}

#[tokio::test(start_paused = true)]
async fn a_head_counts_also_where_it_is_all_there_is() {
    let long = "x".repeat(10_000);
    let head = || Response::builder().status(201).header("location", &long).body(()).unwrap();
    let store = MemoryStore::default();
    let (service, mut stage) = dedup(&DedupLayer::new().store(store.clone()));
    let call = send(&service, post_key("k", "hi")).await;
    stage.call().await.answer(head()).end();
    assert_eq!(text(call.await.unwrap().unwrap()).await, "");
    assert!(store.bytes() > long.len(), "{}", store.bytes());

    // Nor is one kept for which there is no room.
    let store = MemoryStore::new(long.len(), 100).tenant_shares(1);
    let (service, mut stage) = dedup(&DedupLayer::new().store(store.clone()));
    let call = send(&service, post_key("k", "hi")).await;
    stage.call().await.answer(head()).end();
    assert_eq!(text(call.await.unwrap().unwrap()).await, "");
    assert_eq!((store.len(), store.bytes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_still_to_be_read_counts_until_it_is() {
    for broke_off in [false, true] {
        let store = MemoryStore::default();
        let (service, mut stage) = dedup(&ten_frames().store(store.clone()));
        let fast = send(&service, post("hi")).await;
        let slow = send(&service, post("hi")).await;
        // It is not as long as it says, and so not kept.
        let head = Response::builder().header("content-length", "1").body(()).unwrap();
        let say = stage.call().await.answer(head);
        say_frames(&say, 9);
        if broke_off {
            say.fail("cut");
        }
        say.end();
        let (mut fast, mut slow) = (fast.await.unwrap().unwrap(), slow.await.unwrap().unwrap());
        read(&mut fast, 9).await;
        assert_eq!(next(&mut fast).await, if broke_off { "error: cut" } else { "end" });
        assert_eq!(store.len(), 0, "the key is free");
        assert!(store.bytes() > 9 * FRAME, "{}", store.bytes());
        drop(fast);
        read(&mut slow, 9).await;
        assert_eq!(next(&mut slow).await, if broke_off { "error: cut" } else { "end" });
        assert_eq!(store.bytes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_is_still_being_read_counts_after_its_window() {
    for key in [None, Some("k")] {
        let request = || key.map_or(post("hi"), |key| post_key(key, "hi"));
        let store = store(12 * FRAME, 100);
        let (service, mut stage) = dedup(&DedupLayer::new().store(store.clone()));
        let call = send(&service, request()).await;
        let say = stage.call().await.ok();
        say_frames(&say, 10);
        say.end();
        text(call.await.unwrap().unwrap()).await;
        let mut slow = send(&service, request()).await.await.unwrap().unwrap();
        assert_eq!(role(&slow), Some(DedupRole::Replayed));
        advance(secs(61)).await;

        // Its window is over, and it is still there: there is no room for as much again.
        let next_one = send(&service, request()).await;
        let say = stage.call().await.ok();
        say_frames(&say, 10);
        let mut next_one = next_one.await.unwrap().unwrap();
        read(&mut next_one, 10).await;
        assert!(store.bytes() > 10 * FRAME && store.bytes() < 13 * FRAME, "{}", store.bytes());
        say.end();
        assert_eq!(next(&mut next_one).await, "end");
        assert_eq!(store.len(), 0, "it was kept");
        read(&mut slow, 10).await;
        assert_eq!(next(&mut slow).await, "end");
        drop(slow);
        // The next caller clears it away.
        let other = send(&service, post("ho")).await;
        stage.call().await.fail("refused");
        other.await.unwrap().unwrap_err();
        assert_eq!(store.bytes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn all_that_was_taken_is_given_back() {
    let store = MemoryStore::default();
    let layer = ten_frames().store(store.clone());
    let (service, mut stage) = dedup(&layer);
    for round in 0..6 {
        let call = send(&service, post("hi")).await;
        let upstream = stage.call().await;
        match round {
            0 => drop(upstream),
            1 => upstream.fail("refused"),
            2 => {
                let say = upstream.ok();
                say_frames(&say, 5);
                say.fail("cut");
            }
            3 => {
                let say = upstream.ok();
                say_frames(&say, 30);
                say.end();
            }
            4 => {
                call.abort();
                settle().await;
                advance(secs(6)).await;
                settle().await;
                assert_eq!((store.len(), store.bytes()), (0, 0), "abandoned");
                continue;
            }
            _ => {
                let say = upstream.ok();
                say_frames(&say, 5);
                say.end();
            }
        }
        if let Ok(Ok(answer)) = call.await {
            answer.into_body().collect().await.ok();
        }
        if round < 5 {
            assert_eq!((store.len(), store.bytes()), (0, 0), "round {round}");
        }
    }
    assert_eq!(store.len(), 1);
    assert!(store.bytes() > 5 * FRAME);
    advance(secs(60)).await;
    store.forget_expired(tokio::time::Instant::now().into_std());
    assert_eq!((store.len(), store.bytes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_trickling_reader_does_not_hold_up_the_others_when_the_store_is_full() {
    let (service, mut stage) = dedup(&DedupLayer::new().store(store(2 * FRAME, 100)).lag(secs(5)));
    let fast = send(&service, post("hi")).await;
    let slow = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    let event = |n: u32| format!("data: {n:0>90}\n\n");
    (0..400).for_each(|n| say.data(&event(n)));
    say.end();
    let (fast, mut slow) = (fast.await.unwrap().unwrap(), slow.await.unwrap().unwrap());
    let start = tokio::time::Instant::now();
    let fast = tokio::spawn(text(fast));
    // It reads one event every four seconds, which is not enough to keep up, and too much to be idle.
    let slow = tokio::spawn(async move {
        while let Some(Ok(_)) = slow.body_mut().frame().await {
            tokio::time::sleep(secs(4)).await;
        }
    });
    assert_eq!(fast.await.unwrap(), (0..400).map(event).collect::<String>());
    assert!(start.elapsed() <= secs(5), "the fast reader waited for {:?}", start.elapsed());
    slow.await.unwrap();
}
