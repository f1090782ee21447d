//! What to print instead of starting.

use std::path::Path;

use clap::Command;
use clap::error::{ContextKind, ContextValue};

use super::headings::{CALLERS, TRUST};

/// What to print instead of starting.
#[derive(Debug)]
pub enum Stop {
    /// Help or the version.
    Shown(String),
    /// One line, or one per error in the configuration file.
    Wrong(String),
    /// The same, for `--check-config`.
    Unfit(String),
}

// === impl Stop ===

impl Stop {
    /// Translates an error of `command`.
    pub(super) fn of(error: &clap::Error, command: &Command) -> Self {
        if error.use_stderr() { Self::Wrong(one_line(error, command)) } else { Self::Shown(error.to_string()) }
    }
}

/// One line for the log, without the value if it may hold a credential.
pub(super) fn one_line(error: &clap::Error, command: &Command) -> String {
    let mut text = error.to_string();
    if let (Some(ContextValue::String(option)), Some(ContextValue::String(value))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
        && may_be_secret(command, option, value)
    {
        text = text.replace(&format!("'{value}'"), "'***'");
    }
    // Later paragraphs are hints to read the help.
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(option)) => format!("{line}; is it {option}?"),
        _ => line.to_owned(),
    }
}

/// Whether the value of this option (`--name <VALUE>`) may hold a credential: users put credentials into URLs, and in place
/// of the name of a variable or file.
fn may_be_secret(command: &Command, option: &str, value: &str) -> bool {
    let name = option.split(' ').next().unwrap_or_default();
    let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == name.strip_prefix("--")) else { return true };
    let is_guarded = arg.get_id().as_str().starts_with("embeddings")
        || arg.get_help_heading().is_some_and(|heading| [TRUST, CALLERS].contains(&heading));
    let may_hold_one = match arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str()) {
        // A credential may look like the name of a variable.
        Some("VAR" | "NAME=VAR") => true,
        Some("FILE") => !is_path(value),
        _ => value.contains(['@', '?']),
    };
    is_guarded && may_hold_one
}

/// Whether it names a file in a named folder that exists. A key has slashes and dots too, and may begin with one.
fn is_path(value: &str) -> bool {
    let folder = Path::new(value).parent().filter(|folder| folder.file_name().is_some());
    !value.contains(':') && folder.is_some_and(Path::is_dir)
}
