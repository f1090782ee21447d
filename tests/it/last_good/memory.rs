//! What is kept is counted, however small its parts are.

use std::time::Duration;

use tower_buttress::{Embedder, Embedding, Memory, Similar, Tenant};

use super::similar::{question, settle};
use super::*;

const KIB: usize = 1024;

/// The question of this number, on this tenant's account.
fn of(tenant: usize, number: usize) -> Request<Full<Bytes>> {
    let mut request = question(&format!("What is the capital of country number {number}?"));
    request.extensions_mut().insert(Tenant::new(format!("tenant {tenant}")));
    request
}

#[tokio::test(start_paused = true)]
async fn many_small_answers_take_no_more_than_their_share() {
    let (upstream, memory) = (Upstream::new(), Memory::new(1024 * KIB));
    let layer = LastGoodLayer::new().capacity(256 * KIB).memory(memory.clone());
    let service = layer.layer(upstream.service());
    send(&service, of(0, 0)).await;
    let one = memory.used();
    assert!(one > WHOLE.len() + 500, "what it takes to keep it is counted too: {one}");
    for number in 1..500 {
        send(&service, of(0, number)).await;
        assert!(memory.used() <= 32 * KIB, "a tenant's eighth");
    }
    assert!(memory.used() > 24 * KIB);
    for number in 0..500 {
        send(&service, of(number % 20, number)).await;
        assert!(memory.used() <= 256 * KIB);
    }
    assert!(memory.used() > 200 * KIB, "{}", memory.used());
    assert_eq!(memory.used() % one, 0, "each answer is counted alike");
    layer.forget_all();
    assert_eq!(memory.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn where_the_common_memory_is_spent_no_more_is_kept() {
    let (upstream, memory) = (Upstream::new(), Memory::new(16 * KIB));
    let service = LastGoodLayer::new().memory(memory.clone()).layer(upstream.service());
    for number in 0..100 {
        assert_eq!(send(&service, of(number, number)).await.2, WHOLE, "the answer passes");
    }
    assert!((8 * KIB..=16 * KIB).contains(&memory.used()), "{}", memory.used());
    upstream.set(status(503));
    assert_eq!(send(&service, of(0, 0)).await.0, 200);
    assert_eq!(send(&service, of(99, 99)).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn answers_whose_time_is_over_make_room_for_a_new_one() {
    let (upstream, memory) = (Upstream::new(), Memory::new(64 * KIB));
    let layer = LastGoodLayer::new().ttl(Duration::from_secs(60)).memory(memory.clone());
    let service = layer.layer(upstream.service());
    for number in 0..100 {
        send(&service, of(number, number)).await;
    }
    let used = memory.used();
    assert!(used > 56 * KIB, "{used}");
    // One that takes more than what goes at any call by itself.
    tokio::time::advance(Duration::from_secs(61)).await;
    let text: &'static str = Box::leak(WHOLE.replace("Paris", &"a".repeat(14_000)).into_boxed_str());
    upstream.set(Does::Answer(200, vec![("content-type", "application/json")], vec![Step::Data(text)]));
    send(&service, of(500, 500)).await;
    assert!(memory.used() < used, "{} of {used}", memory.used());
    // What is over goes with the answers of other calls as well, kept or not.
    upstream.set(status(503));
    assert_eq!(send(&service, of(500, 500)).await.0, 200);
    for number in 0..100 {
        send(&service, of(number, number)).await;
    }
    assert!(memory.used() < 17 * KIB, "{}", memory.used());
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_has_its_part_of_the_common_memory_makes_room_itself() {
    let (upstream, memory) = (Upstream::new(), Memory::new(64 * KIB));
    let service = LastGoodLayer::new().memory(memory.clone()).layer(upstream.service());
    send(&service, of(1, 0)).await;
    for number in 0..100 {
        send(&service, of(0, number)).await;
    }
    assert!((12 * KIB..=18 * KIB).contains(&memory.used()), "{}", memory.used());
    upstream.set(status(503));
    for (tenant, number, expected) in [(0, 0, 503), (0, 99, 200), (1, 0, 200)] {
        assert_eq!(send(&service, of(tenant, number)).await.0, expected, "{tenant}, {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_head_is_counted() {
    let (upstream, memory) = (Upstream::new(), Memory::new(1024 * KIB));
    let long: &'static str = Box::leak("x".repeat(10_000).into_boxed_str());
    let headers = vec![("content-type", "application/json"), ("x-long", long)];
    upstream.set(Does::Answer(200, headers, vec![Step::Data(WHOLE)]));
    let service = LastGoodLayer::new().capacity(256 * KIB).memory(memory.clone()).layer(upstream.service());
    send(&service, of(0, 0)).await;
    assert!((10_000..12_000).contains(&memory.used()), "{}", memory.used());
    for number in 0..40 {
        send(&service, of(0, number)).await;
    }
    assert!((10_000..=32 * KIB).contains(&memory.used()), "{}", memory.used());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_in_pieces_takes_no_more_than_one_that_does_not() {
    let text: &'static str = Box::leak(WHOLE.replace("Paris", &"a".repeat(50_000)).into_boxed_str());
    let pieces = |size: usize| -> Vec<Step> {
        let pieces = text.as_bytes().chunks(size).map(|piece| std::str::from_utf8(piece).unwrap());
        pieces.map(Step::Data).collect()
    };
    let mut used = Vec::new();
    for size in [text.len(), 10_000, 77] {
        let (upstream, memory) = (Upstream::new(), Memory::new(1024 * KIB));
        upstream.set(Does::Answer(200, vec![("content-type", "application/json")], pieces(size)));
        let service = LastGoodLayer::new().memory(memory.clone()).layer(upstream.service());
        let mut body = service.clone().oneshot(of(0, 0)).await.unwrap().into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.unwrap().into_data().unwrap().len();
            // It is allocated in steps, each twice as large as the last.
            assert!(read < 4_096 || read >= text.len() || memory.used() >= read, "{} for {read}", memory.used());
            assert!(memory.used() <= 2 * text.len() + 16 * KIB);
        }
        used.push(memory.used());
    }
    assert!((text.len()..text.len() + 2_048).contains(&used[0]) && used.iter().all(|one| *one == used[0]), "{used:?}");
}

/// Vectors of 4,096 numbers.
struct Long;

impl Embedder for Long {
    fn id(&self) -> &str {
        "long"
    }

    fn embed(&self, texts: Vec<String>) -> Embedding {
        let mut vector = Vec::with_capacity(10_000);
        vector.resize(4_096, 0.5);
        Box::pin(async move { Ok(vec![vector; texts.len()]) })
    }
}

#[tokio::test(start_paused = true)]
async fn vectors_are_counted() {
    let (upstream, memory) = (Upstream::new(), Memory::new(1024 * KIB));
    let layer = LastGoodLayer::new().capacity(512 * KIB).memory(memory.clone()).similar(Similar::new(Long));
    let service = layer.layer(upstream.service());
    send(&service, of(0, 0)).await;
    let plain = memory.used();
    settle().await;
    let vector = memory.used() - plain;
    assert!((16 * KIB..17 * KIB).contains(&vector), "a number has 4 bytes: {vector}");
    for number in 1..50 {
        send(&service, of(0, number)).await;
        settle().await;
        assert!(memory.used() <= 64 * KIB, "a tenant's eighth: {}", memory.used());
    }
    layer.forget_all();
    assert_eq!(memory.used(), 0);

    // Where there is no memory for it, the answer is kept without.
    let memory = Memory::new(32 * KIB);
    let layer = LastGoodLayer::new().memory(memory.clone()).similar(Similar::new(Long));
    let service = layer.layer(upstream.service());
    for number in 0..3 {
        send(&service, question(&format!("What is the capital of country number {number}?"))).await;
        settle().await;
    }
    assert_eq!(memory.used(), 3 * plain);
    upstream.set(status(503));
    assert_eq!(send(&service, question("What is the capital of country number 2?")).await.1, Some(StaleKind::Exact));
}
