//! Which file of a crate imports which, read from its source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The segments of a path, from the crate's root on.
pub(super) type ModulePath = Vec<String>;

/// The files of a crate, by the module that each is.
pub(super) struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

#[derive(Default)]
struct Module {
    /// What is compiled for users, without comments.
    code: String,
    /// The paths in its code.
    names: BTreeSet<ModulePath>,
    /// What it only exports for others, by the name.
    exports: BTreeMap<String, ModulePath>,
    /// The files in its folder that are compiled for tests only.
    tests: BTreeSet<String>,
}

/// How a path is used.
#[derive(PartialEq)]
enum Usage {
    Export,
    Import,
}

// === impl Crate ===

impl Crate {
    /// The crate with this folder of sources. Code that is compiled for tests only is left out.
    pub(super) fn read(src: &Path) -> Self {
        let read = |file: PathBuf| {
            let path = module_path(file.strip_prefix(src).unwrap());
            let module = Module::read(&fs::read_to_string(&file).unwrap(), &path);
            (path, module)
        };
        let mut modules: BTreeMap<_, _> = files(src).into_iter().map(read).collect();
        let tests: Vec<ModulePath> = modules.iter().flat_map(|(path, module)| module.tests(path)).collect();
        modules.retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
        Self { modules }
    }

    /// The code of each module that users compile, without comments.
    pub(super) fn code(&self) -> impl Iterator<Item = (&ModulePath, &str)> {
        self.modules.iter().map(|(path, module)| (path, module.code.as_str()))
    }

    /// What each module imports, by the modules in which that is defined.
    pub(super) fn imports(&self) -> BTreeMap<&ModulePath, BTreeSet<&ModulePath>> {
        let imports = |(path, module): (_, &Module)| {
            let targets = module.names.iter().filter_map(|name| self.definition(name, 0));
            (path, targets.filter(|target| *target != path).collect())
        };
        self.modules.iter().map(imports).collect()
    }

    /// The modules that import each other in a circle, each circle once.
    pub(super) fn circles(&self) -> Vec<Vec<String>> {
        let imports = self.imports();
        let reached: BTreeMap<_, _> = imports.keys().map(|path| (*path, reachable(&imports, path))).collect();
        let mut left: BTreeSet<&ModulePath> = imports.keys().copied().collect();
        let mut circles = Vec::new();
        while let Some(path) = left.pop_first() {
            let circle: Vec<_> = reached[path].iter().filter(|other| reached[*other].contains(path)).collect();
            left.retain(|other| !circle.contains(&other));
            if !circle.is_empty() {
                circles.push(circle.into_iter().map(|path| path.join("::")).collect());
            }
        }
        circles
    }

    /// The module in which a name is defined.
    fn definition(&self, name: &[String], exports: u32) -> Option<&ModulePath> {
        let longest = (0..=name.len()).rev().find(|&n| self.modules.contains_key(&name[..n]))?;
        let (path, module) = self.modules.get_key_value(&name[..longest])?;
        let export = name.get(longest).and_then(|next| module.exports.get(next));
        match export {
            Some(export) if exports < 8 => self.definition(export, exports + 1),
            _ => Some(path),
        }
    }
}

/// What a module imports, and what that imports.
fn reachable<'a>(
    imports: &BTreeMap<&'a ModulePath, BTreeSet<&'a ModulePath>>,
    from: &'a ModulePath,
) -> BTreeSet<&'a ModulePath> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(path) = next.pop() {
        next.extend(imports[path].iter().filter(|target| reached.insert(**target)).copied());
    }
    reached
}

// === impl Module ===

impl Module {
    fn read(text: &str, path: &ModulePath) -> Self {
        let mut module = Self::default();
        let code = module.without_tests(&without_comments(text));
        for (at, usage) in paths(&code) {
            let within = enclosing_module(path, &code[..at]);
            let mut found = Vec::new();
            expand(&code[at..], &mut Vec::new(), &mut found);
            for (name, alias) in found {
                let Some(name) = absolute(&within, &name) else { continue };
                if usage == Usage::Export {
                    module.exports.insert(alias.unwrap_or_else(|| name.last().unwrap().clone()), name);
                } else {
                    module.names.insert(name);
                }
            }
        }
        Self { code, ..module }
    }

    /// Takes out what follows `#[cfg(test)]`, and notes which files that is. Loom tests, and the model of a backend, which tests of
    /// other crates use too, are compiled for tests only.
    fn without_tests(&mut self, code: &str) -> String {
        let marks = ["#[cfg(any(test, feature = \"model\"))]", "#[cfg(all(test, buttress_loom))]"];
        let code = &marks.iter().fold(code.to_owned(), |code, mark| code.replace(mark, "#[cfg(test)]"));
        let (first, rest) = code.split_once("#[cfg(test)]").unwrap_or((code, ""));
        let mut kept = first.to_owned();
        for part in rest.split("#[cfg(test)]") {
            let end = part.find([';', '{']).unwrap_or(part.len());
            if part[end..].starts_with('{') {
                kept.push_str(&part[end + block(&part[end..])..]);
                continue;
            }
            let mut words = part[..end].split_whitespace().rev();
            let name = words.next().filter(|_| words.next() == Some("mod"));
            self.tests.extend(name.map(str::to_owned));
            kept.push_str(part.get(end + 1..).unwrap_or_default());
        }
        kept
    }

    fn tests(&self, path: &ModulePath) -> Vec<ModulePath> {
        // With `#[path]` a file lies beside its module.
        let places = |name: &String| {
            [path.clone(), path[..path.len().saturating_sub(1)].to_vec()].map(|mut at| {
                at.push(name.clone());
                at
            })
        };
        self.tests.iter().flat_map(places).collect()
    }
}

/// The length of the block that begins here.
fn block(code: &str) -> usize {
    let mut open = 0;
    for (at, brace) in code.match_indices(['{', '}']) {
        open += if brace == "{" { 1 } else { -1 };
        if open == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// Where a path begins that starts at the crate, this module, or the one above.
fn paths(code: &str) -> Vec<(usize, Usage)> {
    let mut paths = Vec::new();
    for root in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let before = &code[..at];
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let before = before.trim_end();
            if before.ends_with("(in") {
                continue;
            }
            let statement = &before[before.rfind([';', '}', '{', ']']).map_or(0, |end| end + 1)..];
            let is_export = statement.trim_start().starts_with("pub") && statement.ends_with("use");
            paths.push((at, if is_export { Usage::Export } else { Usage::Import }));
        }
    }
    paths
}

/// The paths of `a::{b, c::d as e}`, each with its alias. Returns how much of the code that was.
fn expand(code: &str, prefix: &mut ModulePath, found: &mut Vec<(ModulePath, Option<String>)>) -> usize {
    let depth = prefix.len();
    let mut at = blank(code);
    loop {
        if code[at..].starts_with('{') {
            loop {
                // Behind the brace, or a comma.
                at += 1;
                at += expand(&code[at..], prefix, found);
                at += blank(&code[at..]);
                if !code[at..].starts_with(',') {
                    prefix.truncate(depth);
                    return code.len().min(at + 1);
                }
            }
        }
        let segment = word(&code[at..]);
        if segment.is_empty() {
            at += usize::from(code[at..].starts_with('*'));
            break;
        }
        at += segment.len();
        if segment != "self" || depth == 0 {
            prefix.push(segment.to_owned());
        }
        if !code[at..].starts_with("::") {
            break;
        }
        at += 2;
    }
    let alias = code[at..].strip_prefix(" as ").map(|rest| word(rest).to_owned());
    at += alias.as_ref().map_or(0, |alias| alias.len() + " as ".len());
    if at > blank(code) {
        found.push((prefix.clone(), alias));
    }
    prefix.truncate(depth);
    at
}

fn word(code: &str) -> &str {
    &code[..code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len())]
}

fn blank(code: &str) -> usize {
    code.len() - code.trim_start().len()
}

/// The module that the code at the end of `before` is in: the file's, or one that is written within it.
fn enclosing_module(file: &ModulePath, before: &str) -> ModulePath {
    let mut open: Vec<Option<String>> = Vec::new();
    for (at, brace) in before.match_indices(['{', '}']) {
        if brace == "}" {
            open.pop();
            continue;
        }
        let mut words = before[..at].split_whitespace().rev();
        let name = words.next().filter(|_| words.next() == Some("mod"));
        open.push(name.map(str::to_owned));
    }
    file.iter().cloned().chain(open.into_iter().flatten()).collect()
}

/// A path that starts in this module, from the crate's root on.
fn absolute(module: &ModulePath, name: &[String]) -> Option<ModulePath> {
    let mut path = module.clone();
    let mut rest = name;
    match rest[0].as_str() {
        "crate" => {
            path.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        _ => {}
    }
    while rest.first().is_some_and(|first| first == "super") {
        path.pop()?;
        rest = &rest[1..];
    }
    path.extend_from_slice(rest);
    Some(path)
}

fn module_path(file: &Path) -> ModulePath {
    let path = file.with_extension("");
    let parts = path.iter().map(|part| part.to_str().unwrap().to_owned());
    parts.filter(|part| !["mod", "lib", "main"].contains(&part.as_str())).collect()
}

fn without_comments(text: &str) -> String {
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
