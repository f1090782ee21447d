//! The program. See the crate's documentation.

use std::process::ExitCode;

/// A call's memory is often freed by another thread than allocated it. There glibc's allocator takes a lock for each
/// buffer, which that thread then waits for.
#[cfg(all(target_os = "linux", feature = "jemalloc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    ExitCode::from(tower_buttress_gateway::run(std::env::args_os()))
}
