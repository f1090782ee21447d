//! Opens further HTTP/2 connections to an upstream that does not read.
//!
//! The streams of an HTTP/2 connection share its receive window. Uploads that an upstream leaves unread hold their
//! part of it, and a few of them block all others on the connection. So a large upload goes to a connection without
//! one, and other calls share such a connection only if there is no free one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connect;

use super::client::client;
use super::outgoing::{Occupied, Outgoing};
use super::url::{Protocol, Upstream};

/// Clients of one upstream, each with its own connections.
pub(super) struct ClientSet<C> {
    clients: [CountedClient<C>; CLIENTS],
    /// Whether the upstream speaks HTTP/2. Over HTTP/1.1 each call has its own connection, and one client pools them
    /// best.
    multiplexed: AtomicBool,
}

struct CountedClient<C> {
    client: Client<C, Outgoing>,
    uploads: Arc<AtomicUsize>,
}

const CLIENTS: usize = 16;

/// An upload that fits into the window together with many others.
pub(super) const SMALL: u64 = 16 * 1024;

// === impl ClientSet ===

impl<C: Connect + Clone> ClientSet<C> {
    pub(super) fn new(connector: &C, upstream: &Upstream) -> Self {
        let client = |_| CountedClient { client: client(connector.clone(), upstream), uploads: Arc::default() };
        Self {
            clients: std::array::from_fn(client),
            multiplexed: AtomicBool::new(upstream.protocol() == Protocol::H2c),
        }
    }

    /// The client for the next call.
    pub(super) fn choose(&self, is_large: bool) -> (&Client<C, Outgoing>, Option<Occupied>) {
        let [first, others @ ..] = &self.clients;
        if !self.multiplexed.load(Relaxed) {
            return (&first.client, None);
        }
        let fewer = |best: (usize, _), client| {
            let uploads = CountedClient::uploads(client);
            if uploads < best.0 { (uploads, client) } else { best }
        };
        let (_, client) = others.iter().fold((first.uploads(), first), fewer);
        let occupied = is_large.then(|| Occupied::new(&client.uploads));
        (&client.client, occupied)
    }
}

impl<C> ClientSet<C> {
    /// Notes that its connections carry several calls at a time.
    pub(super) fn note_multiplexed(&self) {
        if !self.multiplexed.load(Relaxed) {
            self.multiplexed.store(true, Relaxed);
        }
    }
}

impl<C> fmt::Debug for ClientSet<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clients.iter().map(CountedClient::uploads)).finish()
    }
}

// === impl CountedClient ===

impl<C> CountedClient<C> {
    fn uploads(&self) -> usize {
        self.uploads.load(Relaxed)
    }
}
