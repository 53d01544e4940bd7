//! A file that lines are written to, whatever becomes of it: what cannot be written is counted, and
//! said in the file itself when it can be again. Waits for its reader; belongs to a thread that may.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Why nothing more is written.
pub(super) enum Stopped {
    /// Nobody reads any more, and nobody will.
    Closed,
    /// So many bytes are left.
    Paused { left: usize },
}

/// What a pipe or a terminal takes without waiting once it takes anything at all (pipe(7), PIPE_BUF).
const PIECE: usize = 4096;

/// A file that is written to until it is closed, through errors that may pass.
pub(super) struct Sink<'a> {
    file: &'a OwnedFd,
    wake: &'a OwnedFd,
    lost: u64,
    why: Option<Errno>,
    mid_line: bool,
}

impl<'a> Sink<'a> {
    pub(super) fn new(file: &'a OwnedFd, wake: &'a OwnedFd) -> Self {
        Self {
            file,
            wake,
            lost: 0,
            why: None,
            mid_line: false,
        }
    }

    /// Writes a chunk of lines; what an error takes is counted, and said when it is over.
    pub(super) fn write(&mut self, chunk: &[u8], name: &str) -> Result<(), Stopped> {
        if let Some(why) = self.why {
            let newline = if self.mid_line { "\n" } else { "" };
            let note = format!(
                "{newline}segue: … {} lines lost: {name} could not be written: {}\n",
                self.lost,
                io::Error::from(why)
            );
            let noted = self
                .write_all(note.as_bytes())
                .map_err(|stopped| match stopped {
                    // All of the chunk; the note is lost.
                    Stopped::Paused { .. } => Stopped::Paused { left: chunk.len() },
                    Stopped::Closed => Stopped::Closed,
                });
            if noted? {
                (self.lost, self.why) = (0, None);
            } else {
                self.lost += count_lines(chunk);
                return Ok(());
            }
        }
        self.write_all(chunk)?;
        Ok(())
    }

    /// Whether all of it was written.
    fn write_all(&mut self, mut rest: &[u8]) -> Result<bool, Stopped> {
        while !rest.is_empty() {
            let mut polled = [
                PollFd::new(self.file, PollFlags::OUT),
                PollFd::new(self.wake, PollFlags::IN),
            ];
            if poll(&mut polled, None).is_ok() && polled[1].revents().contains(PollFlags::IN) {
                return Err(Stopped::Paused { left: rest.len() });
            }
            let piece = rest.get(..PIECE).unwrap_or(rest);
            match rustix::io::write(self.file, piece) {
                Ok(written) => {
                    let (done, left) = rest.split_at(written.min(rest.len()));
                    self.mid_line = done.last().map_or(self.mid_line, |last| *last != b'\n');
                    rest = left;
                }
                Err(Errno::INTR) => {}
                // Somebody else who has the file open made it non-blocking, and was quicker.
                Err(Errno::AGAIN) => {}
                Err(Errno::PIPE | Errno::BADF) => return Err(Stopped::Closed),
                // A full disk may get room again; a terminal that has gone will not, but costs
                // no more than this.
                Err(errno) => {
                    if self.why.is_none() {
                        self.lost = count_lines(rest);
                        self.why = Some(errno);
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

pub(super) fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, pipe};

    use rustix::event::EventfdFlags;

    use super::*;

    #[test]
    fn a_full_disk_is_waited_out_and_told() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let full = OwnedFd::from(full);
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let mut sink = Sink::new(&full, &wake);
        for _ in 0..3 {
            assert!(sink.write(b"a\nb\n", "stdout").is_ok());
        }
        let (mut reader, end) = pipe().unwrap();
        let end = OwnedFd::from(end);
        let mut sink = Sink { file: &end, ..sink };
        assert!(sink.write(b"c\n", "stdout").is_ok());
        drop(end);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(
            text,
            "segue: … 6 lines lost: stdout could not be written: No space left on device (os error 28)\nc\n"
        );
    }
}
