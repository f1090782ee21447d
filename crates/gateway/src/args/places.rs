//! Where the configuration file says what turns out wrong later: when all options are known, or the files that they name are read.

use std::collections::HashMap;
use std::fmt;

use clap::ArgMatches;
use clap::parser::ValueSource;

/// What is wrong with options of which each by itself could be right: one line, as the command line has them.
#[derive(Debug)]
pub(crate) struct Misfit {
    /// Those that could be changed, as keys.
    keys: Vec<&'static str>,
    wrong: String,
}

/// The lines of the keys that are in force: neither the command line nor the environment wins over them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    file: String,
    lines: HashMap<String, Place>,
    /// What stands before a line about other options.
    otherwise: String,
}

#[derive(Clone, Debug)]
struct Place {
    line: usize,
    /// `None`: it holds for all.
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

impl Places {
    /// Those of a file, by its keys and their lines.
    pub(super) fn new(file: String, lines: HashMap<String, usize>, matches: &ArgMatches) -> Self {
        let source = |key: &str| matches.try_contains_id(key).ok().and_then(|_| matches.value_source(key));
        let is_in_force = |key: &str| source(key).is_none_or(|source| source == ValueSource::DefaultValue);
        let lines = lines.into_iter().filter(|(key, _)| is_in_force(key));
        let lines = lines.map(|(key, line)| (key, Place { line, route: None })).collect();
        Self { file, lines, otherwise: String::new() }
    }

    /// Those for the calls of a route at this place, which has keys of its own.
    pub(super) fn of_route(&self, place: &str, route: &str, lines: HashMap<String, usize>) -> Self {
        let own = lines.into_iter().map(|(key, line)| (key, Place { line, route: Some(route.to_owned()) }));
        let lines = self.lines.clone().into_iter().chain(own).collect();
        Self { file: self.file.clone(), lines, otherwise: format!("{place}: ") }
    }

    /// What is wrong, behind file, line and key where the file says it: in the route itself rather than above it.
    pub(crate) fn tell(&self, misfit: &Misfit) -> String {
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
