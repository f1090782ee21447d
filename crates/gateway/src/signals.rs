//! When to stop, and when to read the configuration again.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT. The first asks for an end; a second one, while open streams are waited for, is the end.
#[cfg(unix)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// SIGHUP: the configuration is to be read again.
#[cfg(unix)]
pub(crate) struct Hangups(Signal);

/// Only a terminal can ask for an end here.
#[cfg(not(unix))]
pub(crate) struct Signals;

/// There is no such signal here.
#[cfg(not(unix))]
pub(crate) struct Hangups;

// === impl Signals ===

#[cfg(unix)]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

// === impl Hangups ===

#[cfg(unix)]
impl Hangups {
    pub(crate) fn new() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    pub(crate) async fn next(&mut self) {
        // A stream of signals has no end.
        let _ = self.0.recv().await;
    }
}

#[cfg(not(unix))]
impl Hangups {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) {
        std::future::pending().await
    }
}

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
