//! The control socket's place in the file system: made, kept private, replaced when stale, removed when ours.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use thiserror::Error;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// How long another process may hold the directory while it makes its own socket.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Why there is no control socket.
#[derive(Debug, Error)]
pub(crate) enum BindError {
    #[error("another supervisor listens at {}; stop it, or give this one another --name or --control", .0.display())]
    Taken(PathBuf),
    #[error("{} exists and is not a socket; remove it, or choose another path with --control", .0.display())]
    NotASocket(PathBuf),
    #[error("{} is too long for a socket, the kernel allows 107 bytes; choose a shorter path with --control", .0.display())]
    TooLong(PathBuf),
    #[error("{} is kept locked by another process; find it with fuser, or choose another path with --control", .0.display())]
    Locked(PathBuf),
    #[error("cannot {doing} {}: {source}; choose another path with --control", path.display())]
    System {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// A socket that listens, and knows its file.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// Whether a socket can be made here, as far as can be told without making it.
///
/// # Errors
/// That another supervisor listens there, or that it is another file.
pub(crate) fn check(path: &Path) -> Result<(), BindError> {
    match look(path) {
        Ok(Resident::Alive) => Err(BindError::Taken(path.to_owned())),
        Ok(Resident::OtherFile) => Err(BindError::NotASocket(path.to_owned())),
        Ok(Resident::Nobody | Resident::Stale) | Err(_) => Ok(()),
    }
}

/// The file of a socket of ours. It is removed by [`SocketFile::remove`] alone, so that a process which ends
/// without a word leaves it to be recognised as stale.
#[derive(Clone, Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
}

impl ControlSocket {
    /// Makes the socket, mode 0600, in a directory that is made with mode 0700 if it does not exist.
    /// A file left behind by a supervisor that is gone is replaced. Blocks for at most two seconds.
    ///
    /// # Errors
    /// See [`BindError`]; each says what to do.
    pub(crate) fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |doing| {
            move |source: io::Error| BindError::System {
                doing,
                path: path.to_owned(),
                source,
            }
        };
        let address = SocketAddrUnix::new(path).map_err(|_| BindError::TooLong(path.to_owned()))?;
        let directory = directory_of(path);
        if let Err(source) = DirBuilder::new().mode(0o700).create(directory)
            && source.kind() != io::ErrorKind::AlreadyExists
        {
            let path = directory.to_owned();
            return Err(BindError::System {
                doing: "make the directory",
                path,
                source,
            });
        }
        // Two that start at once must not both take a stale file away.
        let _lock = lock(directory)?;
        match look(path).map_err(failed("look who listens at"))? {
            Resident::Nobody => {}
            Resident::Stale => fs::remove_file(path).map_err(failed("replace the stale socket"))?,
            Resident::Alive => return Err(BindError::Taken(path.to_owned())),
            Resident::OtherFile => return Err(BindError::NotASocket(path.to_owned())),
        }

        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| failed("make")(errno.into()))?;
        // The file takes over the mode of the socket it is made from (unix_bind in the kernel's
        // net/unix/af_unix.c), so that it is never open to others, not even for a moment.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("protect")(errno.into()))?;
        bind(&socket, &address).map_err(|errno| failed("make")(errno.into()))?;
        listen(&socket, BACKLOG).map_err(|errno| failed("listen at")(errno.into()))?;
        let file = SocketFile {
            path: path.to_owned(),
        };
        Ok(Self {
            listener: socket.into(),
            file,
        })
    }

    /// One that a predecessor has made, and that has been listening all the while.
    pub(crate) fn adopt(listener: OwnedFd, path: PathBuf) -> Self {
        Self {
            listener: listener.into(),
            file: SocketFile { path },
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The listener, non-blocking, and its file.
    pub(crate) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl SocketFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, unless a successor has put its own socket there. To be called when our listener
    /// is closed: what then refuses connections is nobody's. The inode would not tell: it is used again
    /// at once for the next file.
    ///
    /// # Errors
    /// The directory cannot be changed.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let directory = File::open(directory_of(&self.path))?;
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            // Somebody is about to replace it.
            return Ok(());
        }
        match look(&self.path)? {
            Resident::Stale => fs::remove_file(&self.path),
            Resident::Nobody | Resident::Alive | Resident::OtherFile => Ok(()),
        }
    }
}

/// What is at a path.
enum Resident {
    Nobody,
    /// A socket that nobody listens at.
    Stale,
    Alive,
    OtherFile,
}

fn look(path: &Path) -> io::Result<Resident> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Resident::Nobody),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Ok(Resident::OtherFile),
        Ok(_) => {}
    }
    // Non-blocking: a supervisor that is stopped, its queue full, must not stop us too.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => Ok(Resident::Stale),
        Err(Errno::NOENT) => Ok(Resident::Nobody),
        Ok(()) | Err(Errno::AGAIN) => Ok(Resident::Alive),
        Err(errno) => Err(errno.into()),
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Locks a directory; the lock ends with the file.
fn lock(directory: &Path) -> Result<File, BindError> {
    let failed = |source| BindError::System {
        doing: "open",
        path: directory.to_owned(),
        source,
    };
    let file = File::open(directory).map_err(failed)?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(Errno::AGAIN | Errno::INTR) => return Err(BindError::Locked(directory.to_owned())),
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_socket_is_private_and_goes_with_its_owner() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("segue/web.sock");
        let (listener, file) = ControlSocket::bind(&path).unwrap().into_parts();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        UnixStream::connect(&path).unwrap();
        assert!(matches!(
            ControlSocket::bind(&path),
            Err(BindError::Taken(_))
        ));
        drop(listener);
        file.remove().unwrap();
        assert!(!path.exists());
        file.remove().unwrap();
    }

    #[test]
    fn a_stale_file_is_replaced_and_its_old_owner_keeps_off() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("web.sock");
        let (old_listener, old) = ControlSocket::bind(&path).unwrap().into_parts();
        drop(old_listener);
        let (new_listener, new) = ControlSocket::bind(&path).unwrap().into_parts();
        old.remove().unwrap();
        UnixStream::connect(&path).unwrap();
        drop(new_listener);
        new.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_supervisor_that_hangs_is_alive() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("web.sock");
        let (listener, _file) = ControlSocket::bind(&path).unwrap().into_parts();
        // Nobody accepts: the queue gets full.
        listen(&listener, 1).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        let mut queued = Vec::new();
        loop {
            let socket = socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::NONBLOCK,
                None,
            );
            let socket = socket.unwrap();
            match connect(&socket, &address) {
                Ok(()) => queued.push(socket),
                Err(errno) => {
                    assert_eq!(errno, Errno::AGAIN);
                    break;
                }
            }
        }
        assert!(matches!(
            ControlSocket::bind(&path),
            Err(BindError::Taken(_))
        ));
    }

    #[test]
    fn other_files_are_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("web.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            ControlSocket::bind(&path),
            Err(BindError::NotASocket(_))
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let long = home.path().join("x".repeat(120));
        assert!(matches!(
            ControlSocket::bind(&long),
            Err(BindError::TooLong(_))
        ));
        let deep = home.path().join("no/such/web.sock");
        let error = ControlSocket::bind(&deep).unwrap_err().to_string();
        assert!(error.starts_with("cannot make the directory"), "{error}");
    }
}
