//! A Redis with a replica.

use std::time::Duration;

use tower_buttress_redis::RedisOptions;

use super::Server;
use super::proxy::Proxy;

/// A primary, a replica of it, and the port that clients use, which leads to the primary until there is a failover.
pub(crate) struct Replicated {
    primary: Server,
    replica: Server,
    /// The replica's way to the primary.
    link: Proxy,
    clients: Proxy,
}

// === impl Replicated ===

impl Replicated {
    pub(crate) async fn start() -> Self {
        let primary = Server::with(&["--repl-diskless-sync-delay", "0"]);
        // Nothing is written to the disk.
        let replica = Server::with(&["--repl-diskless-load", "swapdb"]);
        let (link, clients) = (Proxy::to(primary.port()).await, Proxy::to(primary.port()).await);
        replica.say(&format!("REPLICAOF 127.0.0.1 {}", link.port())).await.unwrap();
        let redis = Self { primary, replica, link, clients };
        redis.until_replicated().await;
        redis
    }

    /// What is written from now on is received by the replica. (Its link is up a second before it hears anything but what was
    /// there then.)
    async fn until_replicated(&self) {
        let mut is_up = false;
        for _ in 0..1_000 {
            if !is_up && self.replica.all_info().await.contains("master_link_status:up") {
                is_up = true;
                self.primary.say("SET replicated 1").await.unwrap();
            }
            if is_up && self.replica.say("EXISTS replicated").await.unwrap() == redis::Value::Int(1) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the replica does not come up");
    }

    pub(crate) fn options(&self) -> RedisOptions {
        RedisOptions::from_url(&format!("redis://127.0.0.1:{}", self.clients.port())).unwrap()
    }

    /// The replica hears nothing any more: what is written from now on is lost by a failover.
    pub(crate) fn lag(&self) {
        self.link.hold();
    }

    /// Kills the primary, and makes the replica the one that clients come to.
    pub(crate) async fn fail_over(&mut self) {
        self.primary.kill();
        self.replica.say("REPLICAOF NO ONE").await.unwrap();
        self.clients.lead_to(self.replica.port());
    }
}
