//! The Node versions and the frameworks that tests run with, fetched from npm once and kept below
//! the target directory.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The newest version, which the default tests run beside the installed one.
const NEWEST: u32 = 26;

/// One Node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) major: u32,
    pub(crate) path: PathBuf,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.major)
    }
}

/// Those that parametrised tests run with: `SEGUE_TEST_NODES` (major versions, with commas), else
/// the installed one and the newest.
pub(crate) fn nodes() -> Vec<Node> {
    let Ok(wanted) = std::env::var("SEGUE_TEST_NODES") else {
        let installed = installed();
        return if installed.major == NEWEST {
            vec![installed]
        } else {
            vec![installed, fetched(NEWEST)]
        };
    };
    wanted
        .split(',')
        .map(|major| {
            let major = major.trim().parse();
            fetched(major.expect("SEGUE_TEST_NODES lists major versions, such as 16,26"))
        })
        .collect()
}

/// Runs a test with each of them, also after it has failed with one, and then fails with the names
/// of those that it failed with.
#[track_caller]
pub(crate) fn each_node(test: impl Fn(&Node)) {
    let mut failed = Vec::new();
    for node in nodes() {
        eprintln!("{node}");
        // What a failed run has damaged is its own: each has a directory, a port and processes.
        if catch_unwind(AssertUnwindSafe(|| test(&node))).is_err() {
            failed.push(node.to_string());
        }
    }
    assert!(failed.is_empty(), "failed with {}", failed.join(", "));
}

/// The node on the PATH.
pub(crate) fn installed() -> Node {
    let path = on_path("node").expect("the tests need node on the PATH");
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .expect("run node");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let major = text.trim().trim_start_matches('v').split('.').next();
    let major = major.and_then(|major| major.parse().ok());
    let major = major.unwrap_or_else(|| panic!("node --version says {text:?}"));
    Node { major, path }
}

/// The path of a program, as a shell would find it.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// The newest release of a major version, from npm.
fn fetched(major: u32) -> Node {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => panic!("npm has no Node for {other}"),
    };
    let package = format!("node-linux-{architecture}");
    let directory = super::kept("test-nodes").join(major.to_string());
    let path = directory.join(format!("node_modules/{package}/bin/node"));
    once(&directory, |directory| {
        let wanted = format!("{package}@{major}");
        npm(
            directory,
            &["install", "--no-save", "--prefix", ".", &wanted],
            &wanted,
        );
    });
    Node { major, path }
}

/// A `node_modules` with the frameworks and libraries of the fixtures, at the versions of the lock file.
pub(crate) fn frameworks() -> PathBuf {
    packages("npm", "test-frameworks", |_| {})
}

/// A built Next.js site; its `node_modules` lie within. Only the long tests fetch so much.
pub(crate) fn next_site() -> PathBuf {
    let modules = packages("npm-next", "test-next", |directory| {
        let pages = super::fixtures().join("npm-next/pages");
        std::fs::create_dir_all(directory.join("pages")).expect("make the directory of pages");
        std::fs::copy(pages.join("index.js"), directory.join("pages/index.js"))
            .expect("copy the page");
        let output = Command::new(installed().path)
            .args(["node_modules/next/dist/bin/next", "build"])
            .env("NEXT_TELEMETRY_DISABLED", "1")
            .current_dir(directory)
            .output()
            .expect("run next build");
        assert!(
            output.status.success(),
            "next build: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    });
    modules
        .parent()
        .expect("node_modules lies in the site")
        .to_owned()
}

/// The `node_modules` of a folder of the fixtures; `prepare` completes it when it is new.
fn packages(source: &str, name: &str, prepare: impl FnOnce(&Path)) -> PathBuf {
    let source = super::fixtures().join(source);
    let directory = super::kept(name);
    let lock = std::fs::read(source.join("package-lock.json")).expect("read the lock file");
    let current = std::fs::read(directory.join("package-lock.json")).unwrap_or_default();
    if lock != current {
        // Another lock file: what is there is of no use. It may also not be there at all.
        let _ = std::fs::remove_file(directory.join("complete"));
    }
    once(&directory, |directory| {
        for name in ["package.json", "package-lock.json"] {
            std::fs::copy(source.join(name), directory.join(name)).expect("copy the manifest");
        }
        npm(
            directory,
            &["ci", "--ignore-scripts"],
            "what package-lock.json lists",
        );
        prepare(directory);
    });
    directory.join("node_modules")
}

/// Does the work unless it was done before, by this process or another.
fn once(directory: &Path, work: impl FnOnce(&Path)) {
    std::fs::create_dir_all(directory).expect("make the directory");
    let lock = File::create(directory.join("lock")).expect("make the lock");
    lock.lock().expect("lock the directory");
    let complete = directory.join("complete");
    if !complete.exists() {
        work(directory);
        File::create(complete).expect("note that it is complete");
    }
}

fn npm(directory: &Path, arguments: &[&str], what: &str) {
    let npm = on_path("npm").expect("the tests need npm on the PATH");
    let quiet: Vec<OsString> = ["--no-audit", "--no-fund", "--loglevel=error"]
        .iter()
        .map(OsString::from)
        .collect();
    let output = Command::new(npm)
        .args(arguments)
        .args(quiet)
        .current_dir(directory)
        .output();
    let output = output.expect("run npm");
    assert!(
        output.status.success(),
        "cannot fetch {what} from the npm registry ({}); is it reachable from here?\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
