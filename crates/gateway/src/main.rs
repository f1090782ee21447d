//! The program: see the crate's own page.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(tower_buttress_gateway::run(std::env::args_os()))
}
