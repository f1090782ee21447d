//! Finds the line of the configuration file for errors that show only after it was read.

use std::collections::HashMap;
use std::fmt;

use clap::ArgMatches;
use clap::parser::ValueSource;

/// An error about options that are valid one by one: one line, with the names of the command line.
#[derive(Debug)]
pub(crate) struct Misfit {
    /// The keys that could be changed to mend it.
    keys: Vec<&'static str>,
    wrong: String,
}

/// The lines of the keys in force: those that neither the command line nor the environment overrides.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyLines {
    file: String,
    lines: HashMap<String, Place>,
    /// The prefix of an error about other options.
    otherwise: String,
}

#[derive(Clone, Debug)]
struct Place {
    line: usize,
    /// `None`: the key applies to all routes.
    route: Option<String>,
}

// === impl Misfit ===

impl Misfit {
    pub(crate) fn new(keys: &[&'static str], wrong: impl Into<String>) -> Self {
        Self { keys: keys.to_vec(), wrong: wrong.into() }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wrong)
    }
}

// === impl Places ===

impl KeyLines {
    /// Takes the keys of a file and their lines.
    pub(super) fn new(file: String, lines: HashMap<String, usize>, matches: &ArgMatches) -> Self {
        let source = |key: &str| matches.try_contains_id(key).ok().and_then(|_| matches.value_source(key));
        let is_in_force = |key: &str| source(key).is_none_or(|source| source == ValueSource::DefaultValue);
        let lines = lines.into_iter().filter(|(key, _)| is_in_force(key));
        let lines = lines.map(|(key, line)| (key, Place { line, route: None })).collect();
        Self { file, lines, otherwise: String::new() }
    }

    /// Adds the keys of a route at this place.
    pub(super) fn of_route(&self, place: &str, route: &str, lines: HashMap<String, usize>) -> Self {
        let own = lines.into_iter().map(|(key, line)| (key, Place { line, route: Some(route.to_owned()) }));
        let lines = self.lines.clone().into_iter().chain(own).collect();
        Self { file: self.file.clone(), lines, otherwise: format!("{place}: ") }
    }

    /// The error, after file, line and key if the file has the key; a key of the route wins over one above it.
    pub(crate) fn describe(&self, misfit: &Misfit) -> String {
        let found = || misfit.keys.iter().filter_map(|key| Some((key, self.lines.get(*key)?)));
        match found().find(|(_, place)| place.route.is_some()).or_else(|| found().next()) {
            Some((key, Place { line, route: Some(route) })) => {
                format!("{}:{line}: route {route}: {key}: {misfit}", self.file)
            }
            Some((key, Place { line, route: None })) => format!("{}:{line}: {key}: {misfit}", self.file),
            None => format!("{}{misfit}", self.otherwise),
        }
    }
}
