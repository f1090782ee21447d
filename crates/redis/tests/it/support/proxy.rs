//! A way to a server that can be held up, and that can lead to another server.

use std::sync::{Arc, Weak};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A port of 127.0.0.1 that leads to another one. Dropped, it leads nowhere.
pub(crate) struct Proxy {
    port: u16,
    route: Arc<watch::Sender<Route>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    to: u16,
    is_held: bool,
    /// Clients do not learn of it when the server closes a connection.
    hides_ends: bool,
    /// An answer is lost, and the connection with it, when this number of others has passed.
    loses_after: Option<u32>,
}

// === impl Proxy ===

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (route, routes) = watch::channel(Route { to: port, is_held: false, hides_ends: false, loses_after: None });
        let route = Arc::new(route);
        let (mut own_routes, sender) = (routes.clone(), Arc::downgrade(&route));
        tokio::spawn(async move {
            let accept = async {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    tokio::spawn(relay(client, routes.clone(), sender.clone()));
                }
            };
            // Until its owner is gone.
            tokio::select! {
                () = accept => {}
                _ = own_routes.wait_for(|_| false) => {}
            }
        });
        Self { port: own, route }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Connections stay open, and nothing passes any more.
    pub(crate) fn hold(&self) {
        self.route.send_modify(|route| route.is_held = true);
    }

    /// Passes on what was held, too.
    pub(crate) fn let_pass(&self) {
        self.route.send_modify(|route| route.is_held = false);
    }

    /// From now on the connections that the server closes stay open for their clients, and nothing passes on them.
    pub(crate) fn hide_ends(&self) {
        self.route.send_modify(|route| route.hides_ends = true);
    }

    /// The next answer of the server is lost, and the connection with it.
    pub(crate) fn lose_an_answer(&self) {
        self.lose_an_answer_after(0);
    }

    /// The same, when this number of others has passed.
    pub(crate) fn lose_an_answer_after(&self, others: u32) {
        self.route.send_modify(|route| route.loses_after = Some(others));
    }

    /// Cuts all connections. New ones lead to another server.
    pub(crate) fn lead_to(&self, port: u16) {
        self.route.send_modify(|route| route.to = port);
    }
}

async fn relay(client: TcpStream, mut routes: watch::Receiver<Route>, route: Weak<watch::Sender<Route>>) {
    let to = routes.borrow_and_update().to;
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let ((mut client_reads, mut client_writes), (mut server_reads, mut server_writes)) =
        (client.into_split(), server.into_split());
    let (asks, answers) = (routes.clone(), routes.clone());
    let loses = || {
        let mut is_lost = false;
        if let Some(route) = route.upgrade() {
            route.send_if_modified(|route| {
                is_lost = route.loses_after == Some(0);
                route.loses_after = route.loses_after.and_then(|others| others.checked_sub(1));
                false
            });
        }
        is_lost
    };
    let both = async {
        tokio::select! {
            () = pass(&mut client_reads, &mut server_writes, asks, || false) => {}
            () = pass(&mut server_reads, &mut client_writes, answers, loses) => {}
        }
        // What the client writes is lost.
        if routes.borrow().hides_ends {
            std::future::pending::<()>().await;
        }
    };
    let mut rerouted = routes.clone();
    tokio::select! {
        () = both => {}
        _ = rerouted.wait_for(|route| route.to != to) => {}
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut routes: watch::Receiver<Route>,
    loses: impl Fn() -> bool,
) {
    let mut bytes = vec![0; 65_536];
    loop {
        let Ok(read @ 1..) = from.read(&mut bytes).await else { return };
        let is_cut = loses() || routes.wait_for(|route| !route.is_held).await.is_err();
        if is_cut || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
