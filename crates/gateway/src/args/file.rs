//! The configuration file: the options of the command line, written as keys.
//!
//! A key is the name of an option with `_`; its value goes through the option's own parser.

use std::collections::HashMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::calls::{CallFilter, is_of_routes};
use super::stop::{Stop, one_line};
use crate::callers::{is_name, name_rule};
use crate::whole::FileText;

/// The content of a file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) settings: Vec<Setting>,
    /// The fallbacks as words of a command line: each option behind its fallback.
    pub(super) fallbacks: Vec<OsString>,
    pub(super) routes: Vec<RouteTable>,
    /// The line of each key.
    pub(super) lines: HashMap<String, usize>,
    pub(super) text: FileText,
}

/// One route of a file.
#[derive(Debug)]
pub(super) struct RouteTable {
    /// Its file, line and name, as errors show them.
    pub(super) place: String,
    pub(super) name: String,
    pub(super) calls: CallFilter,
    pub(super) settings: Vec<Setting>,
    pub(super) lines: HashMap<String, usize>,
    /// `None`: the route does not set them. An empty list: the route has none.
    pub(super) fallbacks: Option<Vec<OsString>>,
}

/// One option, by its name with `_`, and its value or values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) id: String,
    pub(super) values: Vec<String>,
}

/// Reads one file and collects its errors.
struct FileReader<'a> {
    path: &'a Path,
    text: &'a str,
    command: &'a Command,
    wrong: Vec<String>,
}

/// Options that a file may not set.
const NO_KEYS: [&str; 6] = ["config", "check_config", "print_config", "help", "version", "fallback"];

/// The keys of a fallback's table, with their options.
const FALLBACK: [(&str, &str); 5] = [
    ("url", "fallback"),
    ("model", "fallback_model"),
    ("weight", "fallback_weight"),
    ("authorization_env", "fallback_authorization_env"),
    ("header", "fallback_header"),
];

/// Whether an option can be a key.
pub(super) fn is_key(id: &str) -> bool {
    !NO_KEYS.contains(&id) && !id.starts_with("fallback_")
}

/// The command with these values as defaults.
pub(super) fn with_defaults(command: Command, settings: &[Setting]) -> Command {
    settings.iter().fold(command, |command, setting| {
        command.mut_arg(&setting.id, |arg| arg.default_values(setting.values.clone()))
    })
}

// === impl File ===

impl File {
    /// Reads a file for a command without environment variables. Each error is one line with the file, the line and the key.
    pub(super) fn read(path: &Path, command: &Command) -> Result<Self, Stop> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| Stop::Wrong(format!("{shown}: {error}")))?;
        let mut reader = FileReader { path, text: &text, command, wrong: Vec::new() };
        let file = match DeTable::parse(&text) {
            Ok(table) => File { text: FileText::new(&text), ..reader.file(table.get_ref()) },
            Err(error) => {
                reader.complain(error.span().unwrap_or_default(), None, error.message());
                Self::default()
            }
        };
        if reader.wrong.is_empty() { Ok(file) } else { Err(Stop::Wrong(reader.wrong.join("\n"))) }
    }
}

// === impl Reader ===

impl FileReader<'_> {
    fn file(&mut self, table: &DeTable<'_>) -> File {
        let mut file = File::default();
        if table.is_empty() {
            self.complain(0..0, None, "the file has no keys; is it complete?");
        }
        file.lines = self.lines(table);
        for (key, value) in in_order(table) {
            match key.get_ref().as_ref() {
                "fallback" => file.fallbacks = self.fallbacks(value),
                "route" => file.routes = self.routes(key, value),
                _ => file.settings.extend(self.setting(key, value)),
            }
        }
        file
    }

    fn routes(&mut self, key: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>) -> Vec<RouteTable> {
        let mut routes = Vec::<RouteTable>::new();
        for value in value.get_ref().as_array().into_iter().flatten() {
            let Some(route) = self.route(value) else { continue };
            if routes.iter().any(|other| !other.name.is_empty() && other.name == route.name) {
                self.complain(value.span(), Some("route.name"), "another route has this name");
            }
            routes.push(route);
        }
        if !value.get_ref().is_array() {
            self.complain(key.span(), Some("route"), "write routes as tables: [[route]]");
        }
        routes
    }

    fn route(&mut self, value: &Spanned<DeValue<'_>>) -> Option<RouteTable> {
        let Some(table) = value.get_ref().as_table() else {
            self.complain(value.span(), Some("route"), "not a table");
            return None;
        };
        let (mut name, mut calls) = (String::new(), CallFilter { path: "/".to_owned(), model: None });
        let (mut settings, mut fallbacks) = (Vec::new(), None);
        for (key, value) in in_order(table) {
            let id = key.get_ref().as_ref();
            let text = value.get_ref().as_str().filter(|text| !text.is_empty());
            match (id, text) {
                ("name", Some(text)) if is_name(text) => text.clone_into(&mut name),
                ("path", Some(text)) if text.starts_with('/') => text.clone_into(&mut calls.path),
                ("model", Some(text)) => calls.model = Some(text.to_owned()),
                ("path", _) => self.complain(value.span(), Some("path"), "not a path prefix such as /v1/"),
                ("name", _) => self.complain(value.span(), Some("name"), &name_rule()),
                ("model", _) => self.complain(value.span(), Some("model"), "not a name"),
                ("fallback", _) => fallbacks = Some(self.fallbacks(value)),
                _ if self.command.get_arguments().any(|arg| arg.get_id() == id && is_key(id) && !is_of_routes(arg)) => {
                    self.complain(
                        key.span(),
                        Some(id),
                        "this option applies to all routes: move it above the first [[route]]",
                    );
                }
                _ => settings.extend(self.setting(key, value)),
            }
        }
        if !table.contains_key("name") {
            self.complain(value.span(), Some("route.name"), "a route needs a name: its state is kept by name");
        }
        let place = format!("{}:{}: route {name}", self.path.display(), self.line(value.span().start));
        Some(RouteTable { place, name, calls, settings, lines: self.lines(table), fallbacks })
    }

    /// An option.
    fn setting(&mut self, key: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>) -> Option<Setting> {
        let id = key.get_ref().as_ref();
        let command = self.command;
        let Some(arg) = command.get_arguments().find(|arg| arg.get_id() == id && is_key(id)) else {
            self.complain(key.span(), Some(id), "unknown key");
            return None;
        };
        self.values(id, arg, value)
    }

    fn values(&mut self, key: &str, arg: &Arg, value: &Spanned<DeValue<'_>>) -> Option<Setting> {
        let id = arg.get_id().to_string();
        let values = match (arg.get_action(), value.get_ref()) {
            (ArgAction::SetTrue, DeValue::Boolean(is_set)) => {
                return is_set.then(|| Setting { id, values: vec!["true".to_owned()] });
            }
            (ArgAction::SetTrue, _) => {
                self.complain(value.span(), Some(key), "not true or false");
                return None;
            }
            (ArgAction::Append, DeValue::Array(values)) => values.iter().collect(),
            _ => vec![value],
        };
        let mut texts = Vec::new();
        for value in values {
            let Some(text) = text(arg, value.get_ref()) else {
                self.complain(value.span(), Some(key), &format!("not a value but {}", value.get_ref().type_str()));
                return None;
            };
            if let Err(wrong) = self.check(arg, &text) {
                self.complain(value.span(), Some(key), &wrong);
                return None;
            }
            texts.push(text);
        }
        Some(Setting { id, values: texts })
    }

    /// Whether the option takes the value. Whether it needs another option is checked when all are known.
    fn check(&self, arg: &Arg, value: &str) -> Result<(), String> {
        let words = [self.command.get_name().to_owned(), word(arg, value)];
        match self.command.clone().try_get_matches_from(words) {
            Err(error) if error.kind() != ErrorKind::MissingRequiredArgument => Err(one_line(&error, self.command)),
            _ => Ok(()),
        }
    }

    /// A list of URLs or of tables.
    fn fallbacks(&mut self, value: &Spanned<DeValue<'_>>) -> Vec<OsString> {
        let list = match value.get_ref() {
            DeValue::Array(list) => list.iter().collect(),
            _ => vec![value],
        };
        let mut words = Vec::new();
        for fallback in list {
            let mut given = Vec::new();
            if let DeValue::Table(table) = fallback.get_ref() {
                for (key, _) in in_order(table) {
                    let name = key.get_ref().as_ref();
                    if !FALLBACK.iter().any(|(known, _)| *known == name) {
                        self.complain(key.span(), Some(&format!("fallback.{name}")), "unknown key");
                    }
                }
                given.extend(FALLBACK.iter().filter_map(|(key, id)| Some((*key, *id, table.get(*key)?))));
                if !table.contains_key("url") {
                    self.complain(fallback.span(), Some("fallback.url"), "a fallback needs a URL");
                }
            } else {
                given.push(("url", "fallback", fallback));
            }
            let command = self.command;
            for (key, id, value) in given {
                let Some(arg) = command.get_arguments().find(|arg| arg.get_id() == id) else { continue };
                let setting = self.values(&format!("fallback.{key}"), arg, value);
                words.extend(
                    setting.into_iter().flat_map(|setting| setting.values).map(|value| word(arg, &value).into()),
                );
            }
        }
        words
    }

    /// The line of each key.
    fn lines(&self, table: &DeTable<'_>) -> HashMap<String, usize> {
        table.iter().map(|(key, _)| (key.get_ref().to_string(), self.line(key.span().start))).collect()
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.get(..at).unwrap_or(self.text).matches('\n').count()
    }

    fn complain(&mut self, at: Range<usize>, key: Option<&str>, wrong: &str) {
        let line = self.line(at.start);
        let key = key.map(|key| format!("{key}: ")).unwrap_or_default();
        let wrong = wrong.trim().replace('\n', " ");
        self.wrong.push(format!("{}:{line}: {key}{wrong}", self.path.display()));
    }
}

/// The option as a word of the command line.
fn word(arg: &Arg, value: &str) -> String {
    format!("--{}={value}", arg.get_long().unwrap_or_default())
}

/// In the order of the file.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<toml::de::DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn text(arg: &Arg, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(is_on) => {
            let is_switch = arg.get_possible_values().iter().any(|value| value.get_name() == "on");
            let [on, off] = if is_switch { ["on", "off"] } else { ["true", "false"] };
            Some(if *is_on { on } else { off }.to_owned())
        }
        _ => None,
    }
}
