//! Prints the effective options as a configuration file.

use std::fmt::Write as _;

use clap::{ArgAction, ArgMatches, Command};

use super::file::{Setting, is_key};
use super::upstreams::BackupArgs;

/// All options that have a value.
pub(super) fn settings(command: &Command, matches: &ArgMatches) -> Vec<Setting> {
    let arguments = command.get_arguments().map(|arg| arg.get_id().as_str()).filter(|id| is_key(id));
    let setting = |id: &str| {
        let values = matches.try_get_raw(id).ok().flatten()?;
        Some(Setting { id: id.to_owned(), values: values.map(|value| value.to_string_lossy().into_owned()).collect() })
    };
    arguments.filter_map(setting).collect()
}

/// The options as keys and the fallbacks as tables of this name, secrets masked.
pub(super) fn keys(command: &Command, settings: &[Setting], backups: &[BackupArgs], table: &str) -> String {
    let mut text = String::new();
    for Setting { id, values } in settings {
        let is_list = command
            .get_arguments()
            .any(|arg| arg.get_id() == id.as_str() && matches!(arg.get_action(), ArgAction::Append));
        let _ = match values.as_slice() {
            [value] if !is_list => writeln!(text, "{id} = {}", literal(value)),
            values => writeln!(text, "{id} = [{}]", list(values)),
        };
    }
    for backup in backups {
        let _ = writeln!(text, "\n[[{table}]]\nurl = {}", quoted(&backup.upstream.to_string()));
        if let Some(model) = &backup.model {
            let _ = writeln!(text, "model = {}", quoted(model));
        }
        if let Some(weight) = backup.weight {
            let _ = writeln!(text, "weight = {weight}");
        }
        if !backup.credential.is_empty() {
            let headers: Vec<_> = backup.credential.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "header = [{}]", list(&headers));
        }
    }
    text
}

fn list(values: &[String]) -> String {
    values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ")
}

fn literal(value: &str) -> String {
    let is_number = !value.is_empty() && !value.starts_with('0') && value.bytes().all(|byte| byte.is_ascii_digit());
    if is_number || value == "true" || value == "false" { value.to_owned() } else { quoted(value) }
}

/// A TOML string: JSON's escapes are among TOML's.
pub(super) fn quoted(value: &str) -> String {
    serde_json::Value::from(masked(value)).to_string()
}

/// Without the name and the password that a URL may hold.
fn masked(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..authority].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => value.to_owned(),
    }
}
