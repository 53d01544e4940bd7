//! A file that lines are written to, whatever becomes of it: what cannot be written is counted, and
//! said in the file itself when it can be again. Waits for its reader; belongs to a thread that may.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::layout::Layout;
use super::rolling::ends_mid_line;

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
    file: OwnedFd,
    /// Its writes are as long as we like and wait for a disk at most.
    is_regular: bool,
    /// Another file may take its place: it is never given up.
    may_change: bool,
    wake: &'a OwnedFd,
    lost: u64,
    why: Option<Errno>,
    mid_line: bool,
    /// Bytes in the file, as far as we know: others may write to it.
    size: u64,
}

impl<'a> Sink<'a> {
    pub(super) fn new(file: OwnedFd, may_change: bool, wake: &'a OwnedFd) -> Self {
        let size = regular_size(&file);
        Self {
            is_regular: size.is_some(),
            // A predecessor may have ended there.
            mid_line: may_change && size.is_some_and(|size| ends_mid_line(&file, size)),
            size: size.unwrap_or(0),
            file,
            may_change,
            wake,
            lost: 0,
            why: None,
        }
    }

    pub(super) const fn file(&self) -> &OwnedFd {
        &self.file
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Somebody has emptied it.
    pub(super) const fn begin_anew(&mut self) {
        self.size = 0;
    }

    pub(super) const fn is_mid_line(&self) -> bool {
        self.mid_line
    }

    /// Whether another file may take the next line.
    pub(super) const fn can_rotate(&self) -> bool {
        self.is_regular && self.may_change && !self.mid_line && self.why.is_none()
    }

    /// Writes to another file from now on. To be called between two lines, unless the rest of one is
    /// lost.
    pub(super) fn change(&mut self, file: OwnedFd) {
        let size = regular_size(&file);
        self.is_regular = size.is_some();
        self.size = size.unwrap_or(0);
        self.file = file;
        self.mid_line = false;
    }

    /// Why lines are being lost, and how many have been.
    pub(super) fn trouble(&self) -> Option<(Errno, u64)> {
        Some((self.why?, self.lost))
    }

    /// So many lines more are lost, while others are.
    pub(super) fn lose(&mut self, lines: u64) {
        self.lost += lines;
    }

    /// Writes a chunk of lines; what an error takes is counted, and said when it is over.
    pub(super) fn write(
        &mut self,
        chunk: &[u8],
        name: &str,
        layout: &Layout,
    ) -> Result<(), Stopped> {
        if let Some(why) = self.why {
            let mut note = if self.mid_line {
                vec![b'\n']
            } else {
                Vec::new()
            };
            note.extend(layout.note(&format!(
                "… {} lines lost: {name} could not be written: {}",
                self.lost,
                io::Error::from(why)
            )));
            let noted = self.write_all(&note).map_err(|stopped| match stopped {
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
                PollFd::new(&self.file, PollFlags::OUT),
                PollFd::new(self.wake, PollFlags::IN),
            ];
            let is_woken = |polled: &[PollFd<'_>; 2]| {
                let [_, wake] = polled;
                wake.revents().contains(PollFlags::IN)
            };
            if !self.is_regular && poll(&mut polled, None).is_ok() && is_woken(&polled) {
                return Err(Stopped::Paused { left: rest.len() });
            }
            let piece = match self.is_regular {
                true => rest,
                false => rest.get(..PIECE).unwrap_or(rest),
            };
            match rustix::io::write(&self.file, piece) {
                Ok(written) => {
                    let (done, left) = rest.split_at(written.min(rest.len()));
                    self.mid_line = done.last().map_or(self.mid_line, |last| *last != b'\n');
                    self.size += done.len() as u64;
                    rest = left;
                }
                Err(Errno::INTR) => {}
                // Somebody else who has the file open made it non-blocking, and was quicker.
                Err(Errno::AGAIN) => {}
                Err(Errno::PIPE | Errno::BADF) if !self.may_change => {
                    return Err(Stopped::Closed);
                }
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

/// How large it is, if it is a file that has a size.
fn regular_size(file: &OwnedFd) -> Option<u64> {
    let found = rustix::fs::fstat(file).ok()?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => u64::try_from(found.st_size).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, pipe};

    use rustix::event::EventfdFlags;

    use super::*;

    fn wake() -> OwnedFd {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap()
    }

    fn full() -> OwnedFd {
        let full = File::options().write(true).open("/dev/full").unwrap();
        full.into()
    }

    const LOST: &str = "segue: … 6 lines lost: stdout could not be written: No space left on device (os error 28)\nc\n";

    #[test]
    fn a_full_disk_is_waited_out_and_told() {
        let wake = wake();
        let mut sink = Sink::new(full(), false, &wake);
        for _ in 0..3 {
            assert!(sink.write(b"a\nb\n", "stdout", &Layout::default()).is_ok());
        }
        assert_eq!(sink.trouble(), Some((Errno::NOSPC, 6)));
        let (mut reader, end) = pipe().unwrap();
        sink.change(end.into());
        assert!(sink.write(b"c\n", "stdout", &Layout::default()).is_ok());
        assert_eq!(sink.trouble(), None);
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, LOST);
    }

    #[test]
    fn only_a_file_that_cannot_change_is_given_up() {
        let wake = wake();
        for (may_change, gives_up) in [(false, true), (true, false)] {
            let (reader, end) = pipe().unwrap();
            let mut sink = Sink::new(end.into(), may_change, &wake);
            drop(reader);
            let written = sink.write(b"a\n", "it", &Layout::default());
            assert_eq!(matches!(written, Err(Stopped::Closed)), gives_up);
            assert_eq!(sink.trouble().is_some(), may_change);
        }
    }
}
