//! The directory of a demo: releases, the `current` symlink, the control socket, captured output.
//! Private to the user, gone when the demo is. It starts nothing.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context;

const APP: &str = include_str!("app.js");

const BROKEN: &str = "\
'use strict';
throw new Error('no database: this release is broken on purpose');
";

/// Removed, with everything in it, when dropped.
#[derive(Debug)]
pub(super) struct Stage {
    directory: PathBuf,
}

impl Stage {
    pub(super) fn set() -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("segue-demo-{}", std::process::id()));
        // Fails if it exists, so that nobody else can have prepared it.
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { directory })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn control(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// The working directory of the app: a symlink that follows the latest release.
    pub(super) fn current(&self) -> PathBuf {
        self.directory.join("current")
    }

    /// A file that takes the output of a process.
    pub(super) fn output(&self, name: &str) -> anyhow::Result<(PathBuf, File)> {
        let path = self.directory.join(name);
        let file =
            File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok((path, file))
    }

    pub(super) fn deploy(&self, version: &str) -> anyhow::Result<()> {
        self.release(version, APP)
    }

    pub(super) fn deploy_broken(&self, version: &str) -> anyhow::Result<()> {
        self.release(version, BROKEN)
    }

    fn release(&self, version: &str, app: &str) -> anyhow::Result<()> {
        let release = self.directory.join(version);
        let write = || -> io::Result<()> {
            fs::create_dir(&release)?;
            fs::write(release.join("app.js"), app)?;
            fs::write(release.join("VERSION"), version)
        };
        write().with_context(|| format!("cannot write the release {}", release.display()))?;
        self.point_to(version)
    }

    /// Makes `current` mean this release, in one step.
    pub(super) fn point_to(&self, version: &str) -> anyhow::Result<()> {
        let next = self.directory.join("next");
        symlink(version, &next)
            .and_then(|()| fs::rename(&next, self.current()))
            .with_context(|| format!("cannot point {} to {version}", self.current().display()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Nothing is left to do about a directory that cannot be removed.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_follow_each_other_and_nothing_stays() {
        let stage = Stage::set().unwrap();
        let version = || fs::read_to_string(stage.current().join("VERSION")).unwrap();
        stage.deploy("v1").unwrap();
        assert_eq!(version(), "v1");
        stage.deploy_broken("v2").unwrap();
        assert_eq!(version(), "v2");
        stage.point_to("v1").unwrap();
        assert_eq!(version(), "v1");
        let directory = stage.directory().to_owned();
        drop(stage);
        assert!(!directory.exists());
    }
}
