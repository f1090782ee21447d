//! Programs of the machine that some tests start.
//!
//! Where one is missing, its tests are skipped. `.ci/run` installs them, and sets [`REQUIRED`].

use std::io::Write as _;
use std::process::{Command, Stdio};

/// If it is set, a test whose program is missing fails.
const REQUIRED: &str = "BUTTRESS_PROGRAMS_REQUIRED";

/// Whether all these programs are there. If not, says what is skipped.
pub(super) fn are_there(test: &str, programs: &[&str]) -> bool {
    let is_missing = |program: &&&str| {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_err()
    };
    let missing: Vec<&str> = programs.iter().filter(is_missing).copied().collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, and these programs are missing: {missing}");
    skipped(test, &format!("these programs are missing: {missing}"));
    false
}

/// Says why a test is skipped. Without a macro, whose output a passing test would capture.
pub(super) fn skipped(test: &str, why: &str) {
    let _ = std::io::stderr().write_all(format!("{test}: skipped, since {why}\n").as_bytes());
}
