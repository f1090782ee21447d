//! The program around a gateway: its options, its signals, its exit code.

use std::ffi::OsString;
use std::io::{self, Write as _};

use tokio::sync::oneshot;

use super::args::{Args, Stop};
use super::checked_config::CheckedConfig;
use super::events::Events;
use super::fleet::Fleet;
use super::signals::{Hangups, Signals};
use super::welcome::welcome;
use super::{Gateway, telemetry};

/// The whole program, up to its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::read(args) {
        Ok(args) => args,
        Err(Stop::Told(text)) => {
            say(&text);
            return 0;
        }
        Err(Stop::Wrong(lines)) => return complain(&lines),
        Err(Stop::Unfit(lines)) => {
            complain(&lines);
            return 1;
        }
    };
    if args.server.check_config {
        return match check(&args) {
            Ok(()) => {
                say("the configuration is fit\n");
                0
            }
            Err(line) => {
                complain(&line);
                1
            }
        };
    }
    telemetry::log(args.server.log_format);
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let ended = runtime.block_on(answer(args));
            // What is still open after the drain is dropped here; nothing is waited for, not even a name that is
            // being resolved.
            runtime.shutdown_background();
            ended.map_or_else(|line| complain(&line), |()| 0)
        }
        Err(error) => complain(&format!("cannot start: {error}")),
    }
}

/// What only the start would find.
fn check(args: &Args) -> Result<(), String> {
    Fleet::new(&args.fleet, &telemetry::observer(&Events::new()))?;
    CheckedConfig::new(args.clone()).map(drop)
}

/// Answers until it is told to stop.
async fn answer(args: Args) -> Result<(), String> {
    let mut signals = Signals::new().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let mut hangups = Hangups::new().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let gateway = Gateway::new(args).await?;
    say(&welcome(&gateway));
    let reload = gateway.reload();
    tokio::spawn(async move {
        loop {
            hangups.next().await;
            // What is wrong is in the log.
            let _ = reload.now().await;
        }
    });
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        signals.next().await;
        let _ = stop.send(());
        signals.next().await;
        complain("told twice to stop: open streams are cut off");
        std::process::exit(1);
    });
    gateway.run(async { drop(stopped.await) }).await;
    Ok(())
}

fn say(text: &str) {
    // Output that cannot be written is no reason to stop.
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}

fn complain(lines: &str) -> u8 {
    for line in lines.lines() {
        let _ = writeln!(io::stderr(), "gateway: {line}");
    }
    // What clap exits with where an option is wrong.
    2
}
