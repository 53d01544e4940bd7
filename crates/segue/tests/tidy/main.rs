//! The rules of the house that no compiler or lint checks, applied to the workspace: floors, the
//! size and the names of files, what every file and manifest must say, and documents that must
//! follow the code. The rules themselves are tried on small strings in `trial.rs`.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read the workspace fails right there"
)]

mod rules;
mod source;
mod trial;

use std::fs;
use std::path::{Path, PathBuf};

use rules::{FLOORS, file_complaints, flag_complaints, floor_complaints, manifest_complaints};
use source::{protocol_paths, relative_links, without_variables};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Every file below `folder` with this extension: path relative to `folder`, and text.
fn files(folder: &Path, extension: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with('.')
                || matches!(name.as_str(), "target" | "node_modules" | "corpus")
            {
                continue;
            }
            if path.is_dir() {
                walk(&path, found)
            } else {
                found.push(path)
            }
        }
    }
    let mut paths = Vec::new();
    walk(folder, &mut paths);
    paths.sort();
    paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == extension))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (
                path.strip_prefix(folder)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned(),
                text,
            )
        })
        .collect()
}

fn crate_names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(workspace().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn all_docs() -> String {
    files(&workspace().join("docs"), "md")
        .into_iter()
        .map(|(_, text)| text)
        .collect()
}

#[track_caller]
fn assert_tidy(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n\n  {}\n", complaints.join("\n  "));
}

#[test]
fn imports_go_down() {
    let sources = files(&workspace().join("crates/segue/src"), "rs");
    assert!(
        sources.len() > 5,
        "the sources of the binary crate have moved"
    );
    assert_tidy(
        sources
            .iter()
            .flat_map(|(path, text)| floor_complaints(path, text))
            .collect(),
    );
}

#[test]
fn crates_name_only_what_they_may() {
    let mut complaints = Vec::new();
    for name in crate_names() {
        let manifest =
            fs::read_to_string(workspace().join("crates").join(&name).join("Cargo.toml")).unwrap();
        complaints.extend(manifest_complaints(&name, &manifest));
    }
    assert_tidy(complaints);
}

#[test]
fn files_are_short_documented_and_named() {
    let sources = files(&workspace().join("crates"), "rs");
    assert_tidy(
        sources
            .iter()
            .flat_map(|(path, text)| file_complaints(path, text))
            .collect(),
    );
}

#[test]
fn unsafe_code_lives_in_one_crate() {
    let mut complaints = Vec::new();
    for (path, text) in files(&workspace().join("crates"), "rs") {
        if path.starts_with("segue-sys/") {
            continue;
        }
        let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
        if is_root && !text.contains("#![forbid(unsafe_code)]") {
            complaints.push(format!(
                "{path}: add `#![forbid(unsafe_code)]`: only segue-sys may need unsafe code"
            ));
        }
        // Tests and examples are denied it by the lints of the workspace, unless they except themselves.
        let exception = ["expect", "allow"].map(|level| format!("{level}(unsafe_code"));
        if exception.iter().any(|exception| text.contains(exception)) {
            complaints.push(format!(
                "{path}: excepts itself from the ban on unsafe code: put the call into segue-sys"
            ));
        }
    }
    assert_tidy(complaints);
}

#[test]
fn every_flag_is_in_the_manual() {
    let docs = all_docs();
    let sources = files(&workspace().join("crates/segue/src"), "rs");
    assert_tidy(
        sources
            .iter()
            .flat_map(|(path, text)| flag_complaints(path, text, &docs))
            .collect(),
    );
}

#[test]
fn every_protocol_path_is_documented() {
    let root = workspace();
    let document = fs::read_to_string(root.join("docs/control-protocol.md")).unwrap_or_default();
    let document = without_variables(&document);
    let mut complaints = Vec::new();
    for folder in ["crates/segue-wire/src/control", "crates/segue/src/control"] {
        for (path, text) in files(&root.join(folder), "rs") {
            if path.ends_with("tests.rs") {
                continue;
            }
            for named in protocol_paths(&text)
                .iter()
                .filter(|named| !document.contains(named.as_str()))
            {
                complaints.push(format!(
                    "{folder}/{path}: `{named}` is not in docs/control-protocol.md"
                ));
            }
        }
    }
    assert_tidy(complaints);
}

#[test]
fn the_map_shows_every_crate_and_part() {
    let map = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let parts = FLOORS.iter().map(|row| row.0.to_owned());
    let missing = crate_names()
        .into_iter()
        .chain(parts)
        .filter(|name| !map.contains(&format!("`{name}`")));
    assert_tidy(
        missing
            .map(|name| format!("ARCHITECTURE.md does not say what `{name}` is"))
            .collect(),
    );
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = workspace();
    let mut complaints = Vec::new();
    for (path, text) in files(&root, "md") {
        let folder = root.join(&path).parent().unwrap().to_owned();
        for target in relative_links(&text)
            .into_iter()
            .filter(|target| !folder.join(target).exists())
        {
            complaints.push(format!("{path}: links to `{target}`, which does not exist"));
        }
    }
    assert_tidy(complaints);
}

#[test]
fn continuous_integration_runs_what_the_readme_says() {
    let read = |path: &str| fs::read_to_string(workspace().join(path)).unwrap();
    for command in ["cargo run --release -- demo", "cargo test"] {
        assert!(
            read("README.md")
                .lines()
                .any(|line| line.starts_with(command)),
            "README.md lost `{command}`"
        );
    }
    assert!(
        read(".ci/run").contains("\ncargo test"),
        ".ci/run does not run plain `cargo test`"
    );
}
