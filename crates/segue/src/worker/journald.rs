//! systemd's journal as the place of an app's lines: one stream, of which each line is an entry with the
//! app's name as its identifier and with the priority that it begins with (sd-daemon(3)).
//!
//! What is said first is what systemd says for a service's stdout: seven lines with the identifier, the
//! unit, the usual priority, whether lines begin with one, and three times whether to pass them on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

/// Where the journal takes streams.
const SOCKET: &str = "/run/systemd/journal/stdout";

/// What lines are called in messages about them.
pub(super) const NAME: &str = "the journal";

#[derive(Clone, Debug)]
pub(super) struct Journald {
    socket: PathBuf,
    identifier: String,
}

impl Journald {
    /// Lines of the app of that name.
    pub(super) fn of(app: &str) -> Self {
        Self {
            socket: SOCKET.into(),
            identifier: app.to_owned(),
        }
    }

    /// A new stream. Never waits.
    ///
    /// # Errors
    /// There is no journal, or it does not take a stream now.
    pub(super) fn connect(&self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let stream =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&stream, &SocketAddrUnix::new(&self.socket)?)?;
        rustix::net::shutdown(&stream, Shutdown::Read)?;
        let greeting = format!("{}\n\n6\n1\n0\n0\n0\n", self.identifier);
        // It fits into any buffer that is new.
        let written = rustix::io::write(stream.as_fd(), greeting.as_bytes())?;
        match written == greeting.len() {
            true => Ok(stream),
            false => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    #[cfg(test)]
    pub(super) fn at(socket: &std::path::Path, app: &str) -> Self {
        Self {
            socket: socket.to_owned(),
            ..Self::of(app)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::super::layout::Layout;
    use super::super::writer::{Stream, Writer};
    use super::*;

    const GREETING: &str = "web\n\n6\n1\n0\n0\n0\n";

    #[test]
    fn lines_go_to_a_stream_and_to_the_next_one_when_the_journal_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("stdout");
        let journald = Journald::at(&socket, "web");
        assert!(journald.connect().is_err(), "nobody is there");
        let listener = UnixListener::bind(&socket).unwrap();
        let null = || std::fs::File::create("/dev/null").unwrap().into();
        let writer = Writer::over(null(), null(), Layout::default(), None).unwrap();
        let layout = Layout {
            app: "web".into(),
            ..Layout::default()
        };
        let writer = writer.to_journal(layout, journald).unwrap();
        assert_eq!(writer.for_worker(Stream::Err), Stream::Log);
        let (mut first, _) = listener.accept().unwrap();
        writer.push(Stream::Log, b"<6>web.0 | one\n");
        assert!(writer.flush(Duration::from_secs(10)));
        let mut read = vec![0; GREETING.len() + 15];
        first.read_exact(&mut read).unwrap();
        assert_eq!(read, format!("{GREETING}<6>web.0 | one\n").as_bytes());

        // What is written into nothing is lost, and said.
        drop(first);
        writer.push(Stream::Log, b"<6>web.0 | two\n");
        assert!(writer.flush(Duration::from_secs(10)));
        writer.push(Stream::Log, b"<6>web.0 | three\n");
        assert!(writer.flush(Duration::from_secs(10)));
        drop(writer);
        let (mut second, _) = listener.accept().unwrap();
        let mut read = String::new();
        second.read_to_string(&mut read).unwrap();
        let said =
            "segue: … 1 lines lost: the journal could not be written: Broken pipe (os error 32)";
        assert_eq!(read, format!("{GREETING}{said}\n<6>web.0 | three\n"));
    }
}
