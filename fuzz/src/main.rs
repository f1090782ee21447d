//! Feeds mutated input to every parser of network bytes.
//!
//! ```sh
//! cargo run --release -p tower-buttress-fuzz -- all --seconds 30
//! cargo run --release -p tower-buttress-fuzz -- sse --input 646174613a0a0a
//! ```
//!
//! Runs on stable Rust without other tools: inputs are built from the target's vocabulary and mutated, which for
//! formats of a few tokens finds what coverage guidance would. Each target is a function of bytes in its own file,
//! which a coverage-guided fuzzer can call as it is.

#![expect(clippy::print_stderr, reason = "it is a program")]

mod mutate;
mod targets;

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::mutate::Mutator;
use crate::targets::{TARGETS, Target};

#[derive(Parser)]
#[command(about)]
struct Args {
    /// A target's name, or `all`.
    target: String,
    /// Run each target for this long.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Seed the random numbers. Every run prints its seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Run only this input, in hexadecimal, as a failing run prints it.
    #[arg(long)]
    input: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let chosen: Vec<&Target> = TARGETS.iter().filter(|t| args.target == "all" || args.target == t.name).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("no target `{}`: there are {} and all", args.target, names.join(", "));
        return ExitCode::FAILURE;
    }
    if let Some(input) = &args.input {
        let Some(input) = from_hex(input) else {
            eprintln!("--input is not hexadecimal");
            return ExitCode::FAILURE;
        };
        chosen.iter().for_each(|target| (target.run)(&input));
        eprintln!("no failure");
        return ExitCode::SUCCESS;
    }
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let survived = all_survive(&chosen, seed, Duration::from_secs(args.seconds));
    if survived { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs as many targets at a time as there are cores. After a failure no other target starts.
fn all_survive(targets: &[&Target], seed: u64, time: Duration) -> bool {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if !survives(target, seed, time) {
                failed.store(true, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    !failed.into_inner()
}

fn survives(target: &Target, seed: u64, time: Duration) -> bool {
    eprintln!("{}: {time:?}, --seed {seed}", target.name);
    let mut mutator = Mutator::new(target.vocabulary, seed);
    let (start, mut inputs, mut told) = (Instant::now(), 0_u64, 0);
    while start.elapsed() < time {
        for _ in 0..256 {
            let input = mutator.next_input();
            if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
                eprintln!("{} fails; run it again with --input {}", target.name, to_hex(&input));
                return false;
            }
            inputs += 1;
        }
        if start.elapsed().as_secs() >= told + 10 {
            told = start.elapsed().as_secs();
            eprintln!("{}: {told} s, {inputs} inputs", target.name);
        }
    }
    eprintln!("{}: {inputs} inputs, no failure", target.name);
    true
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = hex.chars().map(|digit| digit.to_digit(16)).collect();
    digits?.chunks(2).map(|pair| u8::try_from(pair.iter().fold(0, |byte, digit| byte * 16 + digit)).ok()).collect()
}
