//! What every end-to-end test stands on: a directory, a port and a supervisor of its own, clients
//! that do not forgive, and waits that have an end and a name.
//!
//! Nothing here sleeps for luck: waits end with an event, a line of output, a changed status or a
//! failed test that shows the supervisor's whole output.

pub(crate) mod command;
pub(crate) mod everything;
pub(crate) mod http;
pub(crate) mod load;

pub(crate) mod main_process;
pub(crate) mod nodes;
pub(crate) mod output;
pub(crate) mod port;
pub(crate) mod primary;
pub(crate) mod process;
pub(crate) mod record;
pub(crate) mod run;
pub(crate) mod screen;
pub(crate) mod site;
pub(crate) mod systemd;
pub(crate) mod terminal;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// The directory of the fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A directory below cargo's target directory, kept between test runs.
pub(crate) fn kept(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("the temporary directory lies in the target directory");
    target.join(name)
}

/// The stand-in worker: an example of this package, beside the binary in `examples`. `cargo test`
/// builds it, but `cargo test --test e2e` does not, and would run a stale one.
pub(crate) fn standin() -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| build_example("standin"));
    BUILT.clone()
}

/// A binary that reads the state as well as segue does, and then does not do its work.
pub(crate) fn impostor() -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| build_example("impostor"));
    BUILT.clone()
}

fn build_example(example: &str) -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_segue")).parent();
    let profile = profile.expect("the binary lies in the directory of its profile");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--package",
        env!("CARGO_PKG_NAME"),
        "--example",
        example,
    ]);
    command
        .args(["--profile", name, "--target-dir"])
        .arg(kept(""));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let path = profile.join("examples").join(example);
    let output = command.output().expect("run cargo");
    assert!(
        output.status.success() && path.is_file(),
        "{command:?} does not make {}:\n{}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    path
}

/// Held by tests that load the whole machine, so that they do not starve one another.
pub(crate) fn heavy() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    // A test that failed while it held the lock has damaged nothing.
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held by tests that wait longer than they load: beside one of those above there is one of these.
pub(crate) fn lasting() -> MutexGuard<'static, ()> {
    static LASTING: Mutex<()> = Mutex::new(());
    LASTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The certificate of the fixtures that speak TLS, in PEM.
pub(crate) fn certificate() -> Vec<u8> {
    std::fs::read(fixtures().join("tls-cert.pem")).expect("read the certificate")
}

/// Says why a test does not apply here, so that nobody takes it for passed.
pub(crate) fn skip(why: &str) {
    // Written past the test harness, which would keep it to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
