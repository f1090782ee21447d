//! The program. See the crate's documentation.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(tower_buttress_gateway::run(std::env::args_os()))
}
