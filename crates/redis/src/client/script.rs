//! Scripts, called by their hash; sent whole if Redis does not know them.

use std::sync::OnceLock;

use redis::{Arg, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, ToRedisArgs, Value};

use super::link::Line;

#[derive(Debug)]
pub(crate) struct LuaScript {
    name: &'static str,
    code: &'static str,
    hash: OnceLock<String>,
}

/// A command to Redis.
#[derive(Debug)]
pub(crate) enum Command {
    Plain(Cmd),
    /// A script, called by its hash.
    Script(&'static LuaScript, Cmd),
}

// === impl Script ===

impl LuaScript {
    /// `name` counts its calls in metrics.
    pub(crate) const fn new(name: &'static str, code: &'static str) -> Self {
        Self { name, code, hash: OnceLock::new() }
    }

    /// A call with these keys and channels, to which arguments can be added.
    pub(crate) fn keys(&'static self, keys: &[&[u8]]) -> Command {
        let hash = self.hash.get_or_init(|| redis::Script::new(self.code).get_hash().to_owned());
        let mut by_hash = redis::cmd("EVALSHA");
        by_hash.arg(hash).arg(keys.len());
        for key in keys {
            by_hash.arg(*key);
        }
        Command::Script(self, by_hash)
    }
}

// === impl Command ===

impl Command {
    pub(crate) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        match &mut self {
            Self::Plain(command) | Self::Script(_, command) => command.arg(arg),
        };
        self
    }

    /// The name in metrics: that of the script or command.
    pub(crate) fn name(&self) -> &'static str {
        let command = match self {
            Self::Script(script, _) => return script.name,
            Self::Plain(command) => command,
        };
        match command.args_iter().next() {
            Some(Arg::Simple(b"PUBLISH")) => "publish",
            Some(Arg::Simple(b"DEL")) => "del",
            Some(Arg::Simple(b"GET")) => "get",
            Some(Arg::Simple(b"GETRANGE")) => "getrange",
            Some(Arg::Simple(b"HGET")) => "hget",
            Some(Arg::Simple(b"PING")) => "ping",
            Some(Arg::Simple(b"SCAN")) => "scan",
            _ => "other",
        }
    }

    /// Sends an unknown script with `EVAL`, which every Redis and proxy accepts; some refuse `SCRIPT LOAD`.
    pub(crate) async fn send(&self, line: &mut Line) -> RedisResult<Value> {
        match self {
            Self::Plain(command) => line.send(command).await,
            Self::Script(script, by_hash) => match line.send(by_hash).await {
                Err(why) if is_unknown_script(&why) => line.send(&whole(script, by_hash)).await,
                other => other,
            },
        }
    }
}

/// The same call with the script instead of its hash.
fn whole(script: &LuaScript, by_hash: &Cmd) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script.code);
    for arg in by_hash.args_iter().skip(2) {
        if let Arg::Simple(arg) = arg {
            command.arg(arg);
        }
    }
    command
}

fn is_unknown_script(why: &RedisError) -> bool {
    why.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
