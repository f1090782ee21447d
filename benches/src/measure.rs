//! Nanoseconds, allocations, instructions.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::alloc;

/// A case that can be repeated.
pub struct Case {
    /// Its name, here and on the command line of the counting run.
    pub name: &'static str,
    /// Repeats it `n` times.
    pub run: fn(u64),
}

/// The cost of one repetition.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// The median of many batches.
    pub nanos: f64,
    /// Calls of the allocator.
    pub allocations: f64,
    /// `None` without valgrind.
    pub instructions: Option<f64>,
}

/// The cost of the case with this name.
pub type CostOf<'a> = &'a dyn Fn(&str) -> Cost;

/// The flag under which the bench runs itself: `--count NAME N`.
const COUNT: &str = "--count";
/// Repetitions of the counting run. One-time costs are subtracted by a second run of twice as many.
const COUNTED: u64 = 500;

/// Inside a runtime, prints the tables of `tables` for the costs of `cases`. If the command line asks for it, runs one
/// case instead.
pub fn run(cases: &[Case], tables: impl FnOnce(&Runtime, CostOf<'_>)) {
    let find = |name: &str| cases.iter().find(|case| case.name == name).expect("a case");
    match what_to_count() {
        // The cost of a copy depends on the alignment of its ends. The main thread's stack begins below the
        // environment and the program's path, and its heap after their copies; another thread's begin at a page of
        // their own.
        Some((name, n)) => std::thread::scope(|scope| {
            scope.spawn(|| in_runtime(|_| counted(find(&name).run, n)));
        }),
        None => in_runtime(|runtime| tables(runtime, &|name| find(name).cost())),
    }
}

fn what_to_count() -> Option<(String, u64)> {
    let mut args = std::env::args().skip_while(|arg| arg != COUNT).skip(1);
    Some((args.next()?, args.next()?.parse().expect("a number")))
}

/// The function that callgrind counts: without the start of the program, and without the end of its thread, which may
/// be cut short.
#[inline(never)]
fn counted(run: fn(u64), n: u64) {
    run(n);
}

fn in_runtime(body: impl FnOnce(&Runtime)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    body(&runtime);
}

impl Case {
    /// Measures it.
    #[must_use]
    pub fn cost(&self) -> Cost {
        Cost { nanos: self.nanos(), allocations: self.allocations(), instructions: self.instructions() }
    }

    fn nanos(&self) -> f64 {
        let time = |n: u64| {
            let start = Instant::now();
            (self.run)(n);
            start.elapsed()
        };
        let mut n = 1_000;
        while time(n) < Duration::from_millis(2) {
            n *= 2;
        }
        let mut batches: Vec<f64> = (0..51).map(|_| time(n).as_nanos() as f64 / n as f64).collect();
        batches.sort_by(f64::total_cmp);
        batches[batches.len() / 2]
    }

    fn allocations(&self) -> f64 {
        (self.run)(100);
        let count = |n| {
            let before = alloc::allocations();
            (self.run)(n);
            alloc::allocations() - before
        };
        // One-time allocations do not belong to a repetition.
        (count(2_000) - count(1_000)) as f64 / 1_000.0
    }

    /// The instructions of one repetition. `None` without valgrind.
    #[must_use]
    pub fn instructions(&self) -> Option<f64> {
        let (once, twice) = (self.count(COUNTED)?, self.count(2 * COUNTED)?);
        // A case that waits for the clock at its start, as governor does, may take less in the longer run.
        Some((twice as f64 - once as f64) / COUNTED as f64)
    }

    fn count(&self, n: u64) -> Option<u64> {
        let out = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*::measure::counted"])
            .arg(std::env::current_exe().ok()?)
            .args([COUNT, self.name, &n.to_string()])
            .stdout(Stdio::null())
            .output()
            .ok()?;
        let report = String::from_utf8_lossy(&out.stderr).into_owned();
        let line = report.lines().find(|line| line.contains("Collected :"))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}
