//! Runs the preload script's own test suite, which is written in JavaScript, under the node on PATH.
//! Other versions: `SEGUE_TEST_NODES=/path/to/node:/path/to/another node --test preload/test/`.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

#[test]
fn the_preload_scripts_own_tests_pass() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let suite = root.join("preload/test");
    let mut files: Vec<_> = std::fs::read_dir(&suite)
        .expect("the suite lies in preload/test")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".test.cjs"))
        .collect();
    files.sort();
    assert!(files.len() > 3, "the suite is not whole: {files:?}");
    let output = Command::new("node")
        .arg("--test")
        .args(&files)
        .current_dir(&root)
        // The runner of the end-to-end tests means versions by it, this suite executables.
        .env_remove("SEGUE_TEST_NODES")
        .output()
        .expect("node 18 or newer is on PATH");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
