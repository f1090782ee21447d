//! A way to a server that can be held up, and that can lead to another server.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A port of 127.0.0.1 that leads to another one. Dropped, it leads nowhere.
pub(crate) struct Proxy {
    port: u16,
    route: watch::Sender<Route>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    to: u16,
    is_held: bool,
}

// === impl Proxy ===

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (route, routes) = watch::channel(Route { to: port, is_held: false });
        let mut own_routes = routes.clone();
        tokio::spawn(async move {
            let accept = async {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    tokio::spawn(relay(client, routes.clone()));
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

    /// Cuts all connections. New ones lead to another server.
    pub(crate) fn lead_to(&self, port: u16) {
        self.route.send_modify(|route| route.to = port);
    }
}

async fn relay(client: TcpStream, mut routes: watch::Receiver<Route>) {
    let to = routes.borrow_and_update().to;
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let ((client_reads, client_writes), (server_reads, server_writes)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pass(client_reads, server_writes, routes.clone()) => {}
        () = pass(server_reads, client_writes, routes.clone()) => {}
        _ = routes.wait_for(|route| route.to != to) => {}
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut routes: watch::Receiver<Route>) {
    let mut bytes = vec![0; 65_536];
    loop {
        let Ok(read @ 1..) = from.read(&mut bytes).await else { return };
        if routes.wait_for(|route| !route.is_held).await.is_err() || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
