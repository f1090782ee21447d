//! Checks of CI beside the tests. Run from the workspace's root: `cargo run -p xtask -- api`.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod api;

use std::error::Error;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo run -p xtask -- <command>

  api           compare the public API of each published library with api/<crate>.txt
  api --write   write these files anew";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let checked: Result<(), Box<dyn Error>> = match args.as_slice() {
        _ if std::env::var_os(api::AS_RUSTDOC).is_some() => api::unstable_rustdoc(std::env::args_os().skip(1)),
        ["api"] => api::check(),
        ["api", "--write"] => api::write(),
        _ => Err(USAGE.into()),
    };
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}
