//! Compares the public API of each published library, one item per line, with the checked-in listing.
//!
//! rustdoc's JSON is unstable; `RUSTC_BOOTSTRAP` makes the stable toolchain write it. Only rustdoc may see that
//! variable: build scripts read it, and cargo would rebuild every dependency. So this program runs between cargo and
//! rustdoc. A toolchain with another JSON format than [`FORMAT`] is reported and not compared.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The JSON format that this package's version of `public-api` reads.
const FORMAT: u64 = 57;

/// Set when cargo calls this program instead of rustdoc.
pub(crate) const AS_RUSTDOC: &str = "XTASK_AS_RUSTDOC";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A published library of this workspace.
struct Library {
    name: String,
}

// === impl Library ===

impl Library {
    fn checked_in(&self) -> PathBuf {
        Path::new("api").join(&self.name).with_extension("txt")
    }

    /// One line per item, sorted. `None` if rustdoc's JSON has another format.
    fn listing(&self) -> Result<Option<String>> {
        let json = Path::new("target/doc").join(self.name.replace('-', "_")).with_extension("json");
        let head: serde_json::Value = serde_json::from_slice(&fs::read(&json)?)?;
        if head["format_version"].as_u64() != Some(FORMAT) {
            return Ok(None);
        }
        let api = public_api::Builder::from_rustdoc_json(json)
            .omit_auto_derived_impls(true)
            .omit_auto_trait_impls(true)
            .omit_blanket_impls(true)
            .build()?;
        let lines: BTreeSet<String> = api.items().map(ToString::to_string).collect();
        Ok(Some(lines.into_iter().map(|line| line + "\n").collect()))
    }
}

/// Passes cargo's arguments to rustdoc, with unstable options allowed.
pub(crate) fn unstable_rustdoc(args: impl Iterator<Item = OsString>) -> Result<()> {
    let status = Command::new("rustdoc").args(args).env("RUSTC_BOOTSTRAP", "1").status()?;
    if status.success() { Ok(()) } else { Err("rustdoc failed".into()) }
}

/// Writes rustdoc's JSON of all libraries into `target/doc`.
fn document() -> Result<()> {
    // As `cargo doc --no-deps --all-features`, whose dependencies CI has built by then.
    let status = Command::new("cargo")
        .args(["doc", "--quiet", "--no-deps", "--lib", "--all-features"])
        .env("RUSTDOC", env::current_exe()?)
        .env(AS_RUSTDOC, "1")
        .env("RUSTDOCFLAGS", "-Zunstable-options --output-format json --cap-lints allow")
        .status()?;
    if status.success() { Ok(()) } else { Err("cargo doc failed".into()) }
}

fn libraries() -> Result<Vec<Library>> {
    let output = Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let published = |package: &&serde_json::Value| package["publish"].is_null();
    let has_library = |package: &&serde_json::Value| {
        let kinds = package["targets"].as_array().into_iter().flatten().flat_map(|target| target["kind"].as_array());
        kinds.flatten().any(|kind| kind == "lib")
    };
    let name = |package: &serde_json::Value| package["name"].as_str().map(str::to_owned);
    Ok(packages.iter().filter(published).filter(has_library).filter_map(name).map(|name| Library { name }).collect())
}

fn unsupported(library: &Library) {
    println!("{}: not compared, this toolchain's rustdoc JSON is not of format {FORMAT}", library.name);
}

/// Fails if a listing differs from the checked-in one, and shows the differing lines.
pub(crate) fn check() -> Result<()> {
    document()?;
    let mut differences = String::new();
    for library in libraries()? {
        let Some(now) = library.listing()? else {
            unsupported(&library);
            continue;
        };
        let before = fs::read_to_string(library.checked_in()).unwrap_or_default();
        let (before, now): (BTreeSet<&str>, BTreeSet<&str>) = (before.lines().collect(), now.lines().collect());
        differences.extend(before.difference(&now).map(|line| format!("- {line}\n")));
        differences.extend(now.difference(&before).map(|line| format!("+ {line}\n")));
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the public API changed:\n{differences}If that is meant, run `cargo run -p xtask -- api --write` and commit api/."
    )
    .into())
}

/// Writes the listings.
pub(crate) fn write() -> Result<()> {
    document()?;
    fs::create_dir_all("api")?;
    for library in libraries()? {
        match library.listing()? {
            Some(listing) => fs::write(library.checked_in(), listing)?,
            None => unsupported(&library),
        }
    }
    Ok(())
}
