//! The store holds to its contract, on a real Redis and in memory.

use tower_buttress::store::suite;
use tower_buttress_redis::{Model, Redis, RedisStore};

use crate::support::Server;

#[tokio::test]
async fn it_holds_to_the_contract_on_a_real_redis() {
    let server = Server::start();
    let fresh = || server.fresh();
    suite::run(|| RedisStore::new(Redis::new(fresh()).unwrap())).await;
    suite::run_shared(|| {
        let options = fresh();
        let store = || RedisStore::new(Redis::new(options.clone()).unwrap());
        (store(), store())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_holds_to_the_contract_in_memory() {
    suite::run(|| RedisStore::new(Model::new())).await;
    suite::run_fair(|| RedisStore::new(Model::new()).memory(tower_buttress::store::MemoryStore::new(1024 * 1024, 64)))
        .await;
    suite::run_shared(|| {
        let model = Model::new();
        (RedisStore::new(model.clone()), RedisStore::new(model))
    })
    .await;
}

/// Calls that no other process asks for cost a claim and a settlement.
#[tokio::test(start_paused = true)]
async fn two_stores_that_share_nothing_are_two() {
    let apart = || (RedisStore::new(Model::new()), RedisStore::new(Model::new()));
    assert!(tokio::spawn(suite::run_shared(apart)).await.is_err());
}
