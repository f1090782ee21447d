//! The house rules that a compiler does not hold: who may import whom.

use std::fs;
use std::path::{Path, PathBuf};

/// For each module, the modules of ours that it may import. `error`, `event` and `rejection` are the vocabulary that
/// everybody may use, but for `proto` and `call`, which import nothing of ours.
const MAY_IMPORT: [(&str, &[&str]); 9] = [
    ("call", &["call"]),
    ("proto", &["proto"]),
    ("policy", &["call", "proto", "policy", "error", "rejection"]),
    ("rt", &["call", "proto", "policy", "rt", "error", "event", "rejection"]),
    ("body", &["call", "proto", "policy", "rt", "body", "error", "event", "rejection"]),
    ("store", &["call", "proto", "policy", "rt", "body", "store", "error", "event", "rejection"]),
    ("admission", &["call", "proto", "policy", "rt", "body", "admission", "error", "event", "rejection"]),
    ("layers", &["call", "proto", "policy", "rt", "body", "store", "admission", "error", "event", "rejection"]),
    ("presets", &["call", "proto", "policy", "rt", "body", "store", "error", "event", "rejection", "layers"]),
];

/// Files that hold nothing but tests, or what tests compare with.
const TESTS: [&str; 3] = ["tests.rs", "model.rs", "simulation.rs"];

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !TESTS.iter().any(|tests| path.ends_with(tests))
        {
            files.push(path);
        }
    }
    files
}

/// The first segments of every `crate::..` path in the code of `file`: its tests and docs may import what they like.
fn imports(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let segment = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    code.split("crate::").skip(1).map(segment).collect()
}

#[test]
fn modules_import_downwards_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (module, allowed) in MAY_IMPORT {
        for file in files(&src.join(module)) {
            for import in imports(&file) {
                let same_layer = module == "layers" && import == "layers";
                assert!(
                    allowed.contains(&import.as_str()) && !same_layer,
                    "{} imports crate::{import}; {module} may import {allowed:?}",
                    file.display(),
                );
            }
        }
    }
}

#[test]
fn no_layer_reaches_another() {
    let layers = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/layers");
    for file in files(&layers) {
        let text = fs::read_to_string(&file).unwrap();
        let module = file.strip_prefix(&layers).unwrap().with_extension("");
        // The folder of a layer is one deep, and what `mod.rs` holds is the folder's.
        let depth = module.iter().filter(|part| *part != "mod").count();
        assert!(depth == 0 || !text.contains(&"super::".repeat(depth)), "{} climbs out of its folder", file.display());
    }
}

#[test]
fn only_the_clock_reads_time() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in files(&src) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let reads = code.lines().any(|line| {
            !line.trim_start().starts_with("//")
                && (line.contains("Instant::now()") || line.contains("SystemTime::now()"))
        });
        assert!(!reads || file.ends_with("rt/clock.rs"), "{} reads a clock", file.display());
    }
}

#[test]
fn every_example_belongs_to_a_crate() {
    // Only those that a manifest names are built, each with the dependencies of its crate.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifests: String = ["Cargo.toml", "crates/gateway/Cargo.toml", "crates/tonic/Cargo.toml"]
        .map(|manifest| fs::read_to_string(root.join(manifest)).unwrap())
        .concat();
    for entry in fs::read_dir(root.join("examples")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(
            manifests.contains(&format!("[[example]]\nname = \"{name}\"\n")),
            "no manifest names the example {name}"
        );
    }
}
