//! The house rules that a compiler does not hold: who may import whom.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use self::imports::Crate;

/// For each module, the modules of ours that it may import.
const MAY_IMPORT: [(&str, &[&str]); 12] = [
    ("call", &["call"]),
    ("proto", &["proto"]),
    ("error", &["proto", "error"]),
    ("rejection", &["proto", "error", "rejection"]),
    ("policy", &["call", "proto", "policy", "error", "rejection"]),
    ("rt", &["call", "proto", "policy", "rt", "error", "rejection"]),
    ("event", &["call", "proto", "policy", "rt", "error", "event", "rejection"]),
    ("body", &["call", "proto", "policy", "rt", "body", "error", "event", "rejection"]),
    ("store", &["call", "proto", "policy", "rt", "body", "store", "error", "event", "rejection"]),
    ("admission", &["call", "proto", "policy", "rt", "body", "admission", "error", "event", "rejection"]),
    (
        "layers",
        &["call", "proto", "policy", "rt", "body", "store", "admission", "layers", "error", "event", "rejection"],
    ),
    (
        "presets",
        &["call", "proto", "policy", "rt", "body", "store", "layers", "presets", "error", "event", "rejection"],
    ),
];

/// The same for `crates/redis`. Which of the adapters uses which is in their manifests.
const MAY_IMPORT_IN_REDIS: [(&str, &[&str]); 7] = [
    ("client", &["client", "error", "ids", "options"]),
    ("backend", &["backend", "client", "error", "ids", "options"]),
    ("store", &["store", "backend", "client", "error", "ids", "options"]),
    ("driver", &["backend", "client", "error", "ids"]),
    ("breaker", &["breaker", "driver", "backend", "client", "error", "ids"]),
    ("pace", &["pace", "driver", "backend", "client", "error", "ids"]),
    ("supersede", &["supersede", "driver", "backend", "client", "error", "ids"]),
];

/// The folders of sources that users compile.
const SOURCES: [&str; 5] = ["src", "crates/redis/src", "crates/reqwest/src", "crates/tonic/src", "crates/gateway/src"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn holds_floors(sources: &str, may_import: &[(&str, &[&str])]) {
    for (module, targets) in Crate::read(&root().join(sources)).imports() {
        let Some((_, allowed)) =
            may_import.iter().find(|(floor, _)| module.first().is_some_and(|first| first == floor))
        else {
            continue;
        };
        for target in targets {
            assert!(
                target.first().is_none_or(|floor| allowed.contains(&floor.as_str())),
                "{} imports {}, and may import {allowed:?}",
                module.join("::"),
                target.join("::"),
            );
        }
    }
}

#[test]
fn modules_import_downwards_only() {
    holds_floors("src", &MAY_IMPORT);
    holds_floors("crates/redis/src", &MAY_IMPORT_IN_REDIS);
}

#[test]
fn no_layer_reaches_another() {
    for (module, targets) in Crate::read(&root().join("src")).imports() {
        let ["layers", layer, ..] = module.iter().map(String::as_str).collect::<Vec<_>>()[..] else { continue };
        for target in targets.iter().filter(|target| target[0] == "layers") {
            assert_eq!(target[1], layer, "{} imports {}", module.join("::"), target.join("::"));
        }
    }
}

#[test]
fn within_a_layer_imports_run_one_way() {
    for (module, targets) in Crate::read(&root().join("src")).imports() {
        let ["layers", layer, file] = module.iter().map(String::as_str).collect::<Vec<_>>()[..] else { continue };
        let Some(rank) = rank(file) else { continue };
        for target in targets.iter().filter(|target| target[..target.len().min(2)] == ["layers", layer]) {
            let is_below = target.get(2).and_then(|file| self::rank(file)).is_none_or(|other| other > rank);
            assert!(is_below && file != "config", "{} imports {}", module.join("::"), target.join("::"));
        }
    }
}

/// Where a file of a layer's folder stands, the outermost first. Other files may be imported by each of them, and import each.
fn rank(file: &str) -> Option<usize> {
    ["layer", "service", "future", "body", "config"].iter().position(|ranked| *ranked == file)
}

/// The most lines of code of a layer's service, future and body together.
const MAX_PLUMBING: usize = 150;

#[test]
fn what_a_layer_decides_is_apart_from_its_plumbing() {
    let mut sums = BTreeMap::<String, usize>::new();
    for (module, code) in Crate::read(&root().join("src")).code() {
        let ["layers", layer, "service" | "future" | "body"] =
            module.iter().map(String::as_str).collect::<Vec<_>>()[..]
        else {
            continue;
        };
        *sums.entry(layer.to_owned()).or_default() += code.lines().filter(|line| !line.trim().is_empty()).count();
    }
    for (layer, lines) in sums {
        assert!(lines <= MAX_PLUMBING, "{layer}: {lines} lines of code, and may have {MAX_PLUMBING}");
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for sources in SOURCES {
        let circles = Crate::read(&root().join(sources)).circles();
        assert!(circles.is_empty(), "{sources}: {circles:?}");
    }
}

/// The names that many files define, for what is the same idea in each. CONTRIBUTING says which.
const COMMON_NAMES: [&str; 12] = [
    "Config", "Intake", "KeyBy", "Peers", "Phase", "Reading", "Sealed", "Session", "Shared", "Stage", "State", "Update",
];

#[test]
fn no_name_has_two_meanings() {
    let crates = SOURCES.map(|sources| (sources, Crate::read(&root().join(sources))));
    let mut files = BTreeMap::<&str, BTreeSet<String>>::new();
    for (sources, read) in &crates {
        for (module, code) in read.code() {
            let file = format!("{sources}/{}", module.join("/"));
            code.lines().filter_map(defined_type).for_each(|name| {
                files.entry(name).or_default().insert(file.clone());
            });
        }
    }
    for (name, files) in files {
        let is_common = COMMON_NAMES.contains(&name);
        assert!(is_common || files.len() == 1, "{name} is defined in {files:?}");
        assert!(!is_common || files.len() > 1, "{name} is defined once: take it off the list");
    }
}

/// rustdoc's JSON leaves such an implementation out, so the listing of the API would not show a change of its bounds.
#[test]
fn no_trait_is_implemented_for_an_alias() {
    for sources in SOURCES {
        let read = Crate::read(&root().join(sources));
        let aliases: BTreeSet<&str> = read.code().flat_map(|(_, code)| code.lines().filter_map(alias)).collect();
        for (module, code) in read.code() {
            for line in code.lines().filter(|line| line.starts_with("impl")) {
                let of = line.rsplit_once(" for ").and_then(|(_, of)| of.split(|c: char| !c.is_alphanumeric()).next());
                assert!(!of.is_some_and(|of| aliases.contains(of)), "{sources}/{}: {line}", module.join("/"));
            }
        }
    }
}

/// The public alias that this line defines, of a type with parameters.
fn alias(line: &str) -> Option<&str> {
    line.strip_prefix("pub type ")?.split_once('<').map(|(name, _)| name).filter(|name| !name.contains(' '))
}

/// The type or trait that this line defines. What a trait calls a type of its own has no name elsewhere.
fn defined_type(line: &str) -> Option<&str> {
    let is_indented = line.starts_with(' ');
    let line = line.trim_start();
    let line = line.strip_prefix("pub(").and_then(|rest| rest.split_once(") ")).map_or(line, |(_, rest)| rest);
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let (kind, rest) = line.split_once(' ')?;
    let defines = ["struct", "enum", "trait"].contains(&kind) || (kind == "type" && !is_indented);
    defines.then(|| rest.split(|c: char| !c.is_alphanumeric()).next())?
}

#[test]
fn crates_depend_on_the_root_and_no_other() {
    let members = ["redis", "reqwest", "tonic", "gateway"].map(|name| format!("tower-buttress-{name}"));
    for folder in ["", "crates/redis", "crates/reqwest", "crates/tonic"] {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        for member in &members {
            let depends = manifest.lines().any(|line| line.starts_with(&format!("{member} =")));
            assert!(!depends, "{folder}/Cargo.toml names {member}");
        }
    }
}

#[test]
fn only_the_clock_reads_time() {
    for (module, code) in Crate::read(&root().join("src")).code() {
        let reads = code.contains("Instant::now()") || code.contains("SystemTime::now()");
        assert!(!reads || module.join("::") == "rt::clock", "{} reads a clock", module.join("::"));
    }
}

#[test]
fn every_example_belongs_to_a_crate() {
    // Only those that a manifest names are built, each with the dependencies of its crate.
    let manifests: String = ["examples/Cargo.toml", "crates/gateway/Cargo.toml"]
        .map(|manifest| fs::read_to_string(root().join(manifest)).unwrap())
        .concat();
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(
            path.ends_with("Cargo.toml") || manifests.contains(&format!("[[example]]\nname = \"{name}\"\n")),
            "no manifest names the example {name}"
        );
    }
}
