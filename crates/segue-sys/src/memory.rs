//! Files in memory that live as long as somebody holds a descriptor of them (memfd_create(2)).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::MemfdFlags;

/// An empty one, close-on-exec. The name is for people, in `/proc/PID/fd`.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn create(name: &str) -> io::Result<File> {
    let descriptor: OwnedFd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
    Ok(descriptor.into())
}

/// All of it, wherever its position is.
///
/// # Errors
/// As pread(2).
pub fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        let at = u64::try_from(filled).map_err(io::Error::other)?;
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        match file.read_at(rest, at) {
            // It has become shorter meanwhile.
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let file = create("test").unwrap();
        assert_eq!(read_all(&file).unwrap(), b"");
        file.write_all_at(b"one two", 0).unwrap();
        file.write_all_at(b"TWO", 4).unwrap();
        assert_eq!(read_all(&file).unwrap(), b"one TWO");
    }
}
