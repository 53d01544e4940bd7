//! Where control sockets live when nobody says where: the runtime directory.
//!
//! `$XDG_RUNTIME_DIR/segue`, `/run/segue` for root, else `/tmp/segue-UID`. A supervisor takes the
//! first that it can have; a command looks into all of them, because the two may have been
//! started with different environments. A directory that another user made or may change is never used.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What the choice depends on.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) uid: u32,
    pub(crate) xdg_runtime_dir: Option<PathBuf>,
    /// `/run`, or its stand-in.
    pub(crate) run: PathBuf,
    /// `/tmp`, or its stand-in.
    pub(crate) tmp: PathBuf,
}

/// Why a directory cannot be trusted or had.
#[derive(Debug, Error)]
pub(crate) enum RuntimeError {
    #[error("{} belongs to uid {owner}, not to uid {uid}", path.display())]
    Foreign { path: PathBuf, owner: u32, uid: u32 },
    #[error("{} may be changed by others (mode {mode:03o}); chmod it to 700", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    #[error("cannot use {}: {source}", path.display())]
    System { path: PathBuf, source: io::Error },
}

/// No directory can be had.
#[derive(Debug, Error)]
#[error("no runtime directory: {}; name a socket with --control", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub(crate) struct NoDirectory(Vec<RuntimeError>);

impl Place {
    /// As this process finds it.
    pub(crate) fn of_this_process() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            run: PathBuf::from("/run"),
            tmp: PathBuf::from("/tmp"),
        }
    }

    /// The directory for a new socket, made if need be.
    ///
    /// # Errors
    /// None of the candidates can be had; each is named with its reason.
    pub(crate) fn directory(&self) -> Result<PathBuf, NoDirectory> {
        let mut reasons = Vec::new();
        for path in self.candidates() {
            match make(&path).and_then(|()| self.trust(&path)) {
                Ok(()) => return Ok(path),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(NoDirectory(reasons))
    }

    /// Every socket in the trusted candidates, sorted, and why some candidates were not looked into.
    pub(crate) fn sockets(&self) -> (Vec<PathBuf>, Vec<RuntimeError>) {
        let mut sockets = Vec::new();
        let mut distrusted = Vec::new();
        for directory in self.candidates() {
            match self.trust(&directory).and_then(|()| list(&directory)) {
                Ok(found) => sockets.extend(found),
                Err(RuntimeError::System { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(reason) => distrusted.push(reason),
            }
        }
        sockets.sort();
        sockets.dedup();
        (sockets, distrusted)
    }

    fn candidates(&self) -> Vec<PathBuf> {
        // A relative path is to be ignored (XDG Base Directory Specification). One that belongs to
        // somebody else has been handed down by su or sudo.
        let own = |path: &&PathBuf| {
            path.is_absolute() && fs::metadata(path).is_ok_and(|found| found.uid() == self.uid)
        };
        let xdg = self
            .xdg_runtime_dir
            .as_ref()
            .filter(own)
            .map(|path| path.join("segue"));
        let run = (self.uid == 0).then(|| self.run.join("segue"));
        let tmp = self.tmp.join(format!("segue-{}", self.uid));
        xdg.into_iter().chain(run).chain([tmp]).collect()
    }

    // Not followed if a symlink: in /tmp anybody may have made one.
    fn trust(&self, path: &Path) -> Result<(), RuntimeError> {
        let found = fs::symlink_metadata(path).map_err(|source| RuntimeError::System {
            path: path.to_owned(),
            source,
        })?;
        let path = path.to_owned();
        if !found.is_dir() {
            return Err(RuntimeError::NotADirectory(path));
        }
        if found.uid() != self.uid {
            return Err(RuntimeError::Foreign {
                path,
                owner: found.uid(),
                uid: self.uid,
            });
        }
        let mode = found.mode() & 0o777;
        if mode & 0o022 != 0 {
            return Err(RuntimeError::Open { path, mode });
        }
        Ok(())
    }
}

fn make(path: &Path) -> Result<(), RuntimeError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(RuntimeError::System {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, RuntimeError> {
    let failed = |source| RuntimeError::System {
        path: directory.to_owned(),
        source,
    };
    let mut sockets = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "sock")
        {
            sockets.push(path);
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn place(home: &Path) -> Place {
        fs::create_dir_all(home.join("run")).unwrap();
        fs::create_dir_all(home.join("tmp")).unwrap();
        Place {
            uid: rustix::process::geteuid().as_raw(),
            xdg_runtime_dir: None,
            run: home.join("run"),
            tmp: home.join("tmp"),
        }
    }

    #[test]
    fn the_first_that_can_be_had() {
        let home = tempfile::tempdir().unwrap();
        let mut place = place(home.path());
        let uid = place.uid;
        place.uid = 1000;
        let candidates = [home.path().join("tmp/segue-1000")];
        assert_eq!(place.candidates(), candidates);
        place.uid = 0;
        let candidates = [
            home.path().join("run/segue"),
            home.path().join("tmp/segue-0"),
        ];
        assert_eq!(place.candidates(), candidates);
        place.uid = uid;
        place.xdg_runtime_dir = Some(home.path().to_owned());
        assert_eq!(place.directory().unwrap(), home.path().join("segue"));
        for useless in ["relative", "/no/such/directory"] {
            place.xdg_runtime_dir = Some(useless.into());
            let directory = place.directory().unwrap();
            assert!(
                directory.starts_with(home.path()),
                "{useless}: {directory:?}"
            );
            assert_eq!(fs::metadata(directory).unwrap().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_directory_that_another_prepared_is_not_used() {
        let home = tempfile::tempdir().unwrap();
        let place = place(home.path());
        let directory = home.path().join("directory");
        fs::create_dir(&directory).unwrap();

        let link = home.path().join("link");
        symlink(&directory, &link).unwrap();
        assert!(matches!(
            place.trust(&link),
            Err(RuntimeError::NotADirectory(_))
        ));

        fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(matches!(
            place.trust(&directory),
            Err(RuntimeError::Open { mode: 0o777, .. })
        ));

        fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)).unwrap();
        place.trust(&directory).unwrap();
        let other = Place {
            uid: place.uid + 1,
            ..place
        };
        assert!(matches!(
            other.trust(&directory),
            Err(RuntimeError::Foreign { .. })
        ));
    }

    #[test]
    fn sockets_are_found_in_every_candidate() {
        let home = tempfile::tempdir().unwrap();
        let mut place = place(home.path());
        assert_eq!(place.sockets().0, Vec::<PathBuf>::new());
        let in_tmp = home.path().join(format!("tmp/segue-{}", place.uid));
        let in_xdg = home.path().join("segue");
        place.xdg_runtime_dir = Some(home.path().to_owned());
        for directory in [&in_tmp, &in_xdg] {
            make(directory).unwrap();
            fs::write(directory.join("notes.txt"), "").unwrap();
        }
        fs::write(in_tmp.join("a.sock"), "").unwrap();
        fs::write(in_xdg.join("b.sock"), "").unwrap();
        let (mut found, distrusted) = place.sockets();
        found.sort();
        assert_eq!(found, [in_xdg.join("b.sock"), in_tmp.join("a.sock")]);
        assert!(distrusted.is_empty());

        fs::set_permissions(&in_tmp, PermissionsExt::from_mode(0o777)).unwrap();
        let (found, distrusted) = place.sockets();
        assert_eq!(found, [in_xdg.join("b.sock")]);
        assert_eq!(distrusted.len(), 1);
    }
}
