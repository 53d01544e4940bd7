//! The tables and rules of the house, each a function from text to complaints. A complaint
//! says where, what, and what to do. Nothing is read from disk here.

use crate::source::{
    Flag, dependencies, flags, imports, lines_apart, module_path, section_has, unit_of,
};

/// Most lines of a file without its tests, and of its tests.
pub(crate) const LONGEST: usize = 600;

/// Floor of each part of the binary crate. A file may import only from lower floors.
pub(crate) const FLOORS: &[(&str, u8)] = &[
    ("main", 6),
    ("foreground", 5),
    ("supervisor", 4),
    ("cli", 4),
    ("worker", 3),
    ("listener", 3),
    ("keeper", 3),
    ("control", 3),
    ("control::server", 3),
    ("control::client", 2),
    ("control::find", 2),
    ("control::runtime", 2),
    ("control::convert", 2),
    ("control::names", 2),
    ("control::wording", 2),
    ("config", 2),
    ("telemetry", 2),
    ("service", 2),
    ("exit", 2),
    ("handoff", 2),
];

/// Imports between neighbours on one floor that are meant, each with its reason. Parts of one
/// module need no row.
const SIDEWAYS: &[(&str, &str, &str)] = &[
    (
        "control::wording",
        "config",
        "quantities are written in one way",
    ),
    ("telemetry", "config", "quantities are written in one way"),
    (
        "config",
        "handoff",
        "what is configured is written down for a successor",
    ),
    (
        "control::client",
        "config",
        "the settings say where the control socket is",
    ),
    (
        "telemetry",
        "control::wording",
        "a log line and an event say the same words",
    ),
];

/// Imports that the floors would allow and the design does not.
pub(crate) const BANNED: &[(&str, &str, &str)] = &[
    (
        "cli",
        "worker",
        "a command speaks to a supervisor only through control::client",
    ),
    (
        "cli",
        "listener",
        "a command speaks to a supervisor only through control::client",
    ),
    (
        "cli",
        "control::server",
        "a command speaks to a supervisor only through control::client",
    ),
    (
        "worker",
        "listener",
        "the supervisor alone brings workers and sockets together",
    ),
    (
        "listener",
        "worker",
        "the supervisor alone brings workers and sockets together",
    ),
];

/// Which of our crates each crate may name: as a dependency, and for its tests only.
pub(crate) const CRATES: &[(&str, &[&str], &[&str])] = &[
    ("segue-core", &[], &[]),
    ("segue-wire", &[], &[]),
    ("segue-sys", &[], &["segue-wire"]),
    // Itself, with every feature: a test run need not ask for them.
    ("segue-load", &[], &["segue-load"]),
    ("segue-sim", &["segue-core", "segue-wire"], &[]),
    (
        "segue",
        &["segue-core", "segue-wire", "segue-sys", "segue-load"],
        &["segue-sim"],
    ),
];

/// File names that say nothing.
pub(crate) const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "manager", "misc", "shared", "stuff",
];

fn siblings(one: &str, other: &str) -> bool {
    one.split("::").next() == other.split("::").next()
}

pub(crate) fn floor_of(unit: &str) -> Option<u8> {
    FLOORS.iter().find(|row| row.0 == unit).map(|row| row.1)
}

/// Complaints about imports of one file of the binary crate; `path` is relative to its `src`.
pub(crate) fn floor_complaints(path: &str, text: &str) -> Vec<String> {
    let modules = module_path(path);
    let from = if modules.is_empty() {
        "main".to_owned()
    } else {
        unit_of(&modules)
    };
    let Some(from_floor) = floor_of(&from) else {
        return vec![format!(
            "{path}: `{from}` has no floor: add it to FLOORS in tests/tidy/rules.rs and to ARCHITECTURE.md"
        )];
    };
    let mut complaints = Vec::new();
    for (line, to) in imports(&modules, text) {
        let place = format!("{path}:{line}: `{from}` imports `{to}`");
        let Some(to_floor) = floor_of(&to) else {
            complaints.push(format!(
                "{place}, which has no floor: add it to FLOORS, or move the item below"
            ));
            continue;
        };
        let named = |table: &[(&str, &str, &'static str)]| {
            table
                .iter()
                .find(|(a, b, _)| *a == from && *b == to)
                .map(|row| row.2)
        };
        if from == to {
            continue;
        } else if let Some(reason) = named(BANNED) {
            complaints.push(format!("{place}: {reason}"));
        } else if to_floor > from_floor {
            complaints.push(format!(
                "{place}, up from floor {from_floor} to {to_floor}: pass the thing down as an argument, or move it below"
            ));
        } else if to_floor == from_floor && !siblings(&from, &to) && named(SIDEWAYS).is_none() {
            complaints.push(format!(
                "{place}, its neighbour on floor {from_floor}: let the floor above join them, or argue a row in SIDEWAYS"
            ));
        }
    }
    complaints
}

/// Complaints about how a Rust file is written: its first line, its length, its name.
pub(crate) fn file_complaints(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//!") {
        complaints.push(format!(
            "{path}:1: no module documentation: open with `//!`, what the file owns and what it must not do"
        ));
    }
    let (code, tests) = lines_apart(text);
    if code > LONGEST {
        complaints.push(format!(
            "{path}: {code} lines without tests, {LONGEST} are the limit: split it by subject"
        ));
    }
    if tests > LONGEST {
        complaints.push(format!(
            "{path}: {tests} lines of tests, {LONGEST} are the limit: give them a file of their own"
        ));
    }
    for part in path.split('/').map(|part| part.trim_end_matches(".rs")) {
        if EMPTY_NAMES.contains(&part) {
            complaints.push(format!(
                "{path}: `{part}` says nothing: name the file after what it owns"
            ));
        }
    }
    complaints
}

/// Complaints about a crate's manifest.
pub(crate) fn manifest_complaints(name: &str, manifest: &str) -> Vec<String> {
    let Some((_, allowed, allowed_in_tests)) = CRATES.iter().find(|row| row.0 == name) else {
        return vec![format!(
            "{name}: a new crate: add it to CRATES in tests/tidy/rules.rs and to ARCHITECTURE.md, with its reason to exist"
        )];
    };
    let mut complaints = Vec::new();
    for (section, dependency) in dependencies(manifest) {
        let for_tests = section == "dev-dependencies";
        if name == "segue-core" && !for_tests {
            complaints.push(format!(
                "{name}: depends on `{dependency}`: the core has no dependencies"
            ));
        } else if dependency.starts_with("segue-")
            && !allowed.contains(&dependency.as_str())
            && !(for_tests && allowed_in_tests.contains(&dependency.as_str()))
        {
            complaints.push(format!("{name}: [{section}] names `{dependency}`, which CRATES in tests/tidy/rules.rs does not allow"));
        }
    }
    if name != "segue-sys" && !section_has(manifest, "lints", "workspace = true") {
        complaints.push(format!(
            "{name}: without `[lints] workspace = true` the lints of the house do not apply"
        ));
    }
    if name == "segue" && !section_has(manifest, "package", "default-run = \"segue\"") {
        complaints.push(format!(
            "{name}: without `default-run = \"segue\"` a plain `cargo run -- demo` stops working once another crate has a binary"
        ));
    }
    complaints
}

/// Complaints about the flags that a file defines and the manual does not describe, or describes
/// with another default.
pub(crate) fn flag_complaints(path: &str, text: &str, manual: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for Flag { long, default } in flags(text) {
        let name = format!("`--{long}`");
        let rows: Vec<&str> = manual.lines().filter(|line| line.contains(&name)).collect();
        if rows.is_empty() {
            complaints.push(format!(
                "{path}: {name} is nowhere in docs/: describe it in docs/manual.md"
            ));
        } else if let Some(default) = default.map(|default| format!("`{default}`"))
            && !rows
                .iter()
                .any(|row| row.starts_with('|') && row.contains(&default))
        {
            complaints.push(format!("{path}: the default of {name} is {default}, and docs/ has no table row that says so"));
        }
    }
    complaints
}
