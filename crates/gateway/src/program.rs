//! The program around a gateway: options, signals, exit code.

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

/// Runs the program and returns its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::read(args) {
        Ok(args) => args,
        Err(Stop::Shown(text)) => {
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
                complain(&args.strange_variables().join("\n"));
                if args.is_simulated() {
                    say("without --upstream and routes, a simulated provider answers\n");
                }
                0
            }
            Err(line) => {
                complain(&line);
                1
            }
        };
    }
    telemetry::log(args.server.log_format);
    for line in args.strange_variables() {
        tracing::warn!("{line}");
    }
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let ended = runtime.block_on(answer(args));
            // Connections still open after the drain are dropped. Nothing is awaited, not even a name lookup.
            runtime.shutdown_background();
            ended.map_or_else(|line| complain(&line), |()| 0)
        }
        Err(error) => complain(&format!("cannot start: {error}")),
    }
}

/// Checks what would otherwise fail only at the start.
fn check(args: &Args) -> Result<(), String> {
    Fleet::new(&args.fleet, &telemetry::observer(&Events::new()))?;
    CheckedConfig::new(args.clone())?.outdated().map_or(Ok(()), Err)
}

/// Runs the gateway until a signal stops it.
async fn answer(args: Args) -> Result<(), String> {
    let mut signals = Signals::new().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let mut hangups = Hangups::new().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let gateway = Gateway::new(args).await?;
    say(&welcome(&gateway));
    if gateway.provider.is_some() && gateway.config.args.callers.keys().is_some() {
        tracing::warn!("callers have keys, but there is no --upstream: a simulated provider answers them");
    }
    let reload = gateway.reload();
    tokio::spawn(async move {
        loop {
            hangups.next().await;
            // The log has the errors.
            let _ = reload.now().await;
        }
    });
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        signals.next().await;
        let _ = stop.send(());
        signals.next().await;
        complain("a second signal to stop: open streams are cut off");
        std::process::exit(1);
    });
    gateway.run(async { drop(stopped.await) }).await;
    Ok(())
}

fn say(text: &str) {
    // A closed stdout must not stop the gateway.
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}

fn complain(lines: &str) -> u8 {
    for line in lines.lines() {
        let _ = writeln!(io::stderr(), "gateway: {line}");
    }
    // clap's exit code for a wrong option.
    2
}
