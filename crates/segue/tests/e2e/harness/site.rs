//! A place for one app: releases side by side and the `current` symlink that a deployment turns.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::port::Port;

/// What the releases hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// A fixture, run by Node; the name of its script in every release.
    Fixture { script: String },
    /// The stand-in worker; a release is what it does.
    Standin,
}

/// A directory of its own, with two ports.
#[derive(Debug)]
pub(crate) struct Site {
    directory: TempDir,
    pub(crate) program: Program,
    pub(crate) port: Port,
    pub(crate) other_port: Port,
}

impl Site {
    pub(crate) fn new(program: Program) -> Self {
        let directory = tempfile::Builder::new().prefix("segue-e2e-").tempdir();
        let site = Self {
            directory: directory.expect("make a temporary directory"),
            program,
            port: Port::lease(),
            other_port: Port::lease(),
        };
        std::fs::create_dir(site.path("releases")).expect("make the directory of releases");
        site
    }

    /// A path in the test's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Lets other users read the directory, for supervisors that run as one.
    pub(crate) fn open_to_all(&self) {
        use std::os::unix::fs::PermissionsExt;
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(self.directory.path(), all).expect("open the directory");
    }

    /// Writes a release: `what` is the fixture's file name, or the stand-in's words.
    pub(crate) fn write(&self, version: &str, what: &str) -> PathBuf {
        let release = self.path("releases").join(version);
        std::fs::create_dir(&release).expect("make a release");
        let fixtures = super::fixtures();
        let put = |from: &str, to: &str| {
            std::fs::copy(fixtures.join(from), release.join(to))
                .unwrap_or_else(|error| panic!("copy the fixture {from}: {error}"));
        };
        std::fs::write(release.join("VERSION"), version).expect("write the version");
        match &self.program {
            Program::Fixture { script } => {
                for name in ["echo.js", "plain.js", "tls-key.pem", "tls-cert.pem"] {
                    put(name, name);
                }
                put(what, script);
            }
            Program::Standin => {
                let places = if what.contains("port=") || what.contains("never-ask") {
                    String::new()
                } else {
                    format!("port={} ", self.port.number())
                };
                std::fs::write(release.join("behaviour"), places + what)
                    .expect("write the behaviour");
            }
        }
        release
    }

    /// Turns `current` to a release, atomically as deployment tools do.
    pub(crate) fn turn(&self, version: &str) {
        let fresh = self.path("current.new");
        symlink(Path::new("releases").join(version), &fresh).expect("make a symlink");
        std::fs::rename(fresh, self.path("current")).expect("turn the symlink");
    }

    /// Writes a release and turns to it.
    pub(crate) fn deploy(&self, version: &str, what: &str) {
        self.write(version, what);
        self.turn(version);
    }
}
