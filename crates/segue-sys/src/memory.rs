//! Files in memory that live as long as somebody holds a descriptor of them (memfd_create(2)), and
//! memory that a process can do without.

use std::ffi::{c_int, c_void};
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

/// Gives back the pages of this program and its libraries that can be read again from their files:
/// those of segments that are never written to. What is needed comes back page by page, mostly from
/// the page cache. For a process that sleeps most of the time.
pub fn forget_code() {
    // SAFETY: the callback matches its declaration and takes no data.
    unsafe { libc::dl_iterate_phdr(Some(forget_object), std::ptr::null_mut()) };
}

/// For each loaded object (dl_iterate_phdr(3)).
unsafe extern "C" fn forget_object(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut c_void,
) -> c_int {
    // SAFETY: the loader passes a valid object, unchanged while it calls.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: so many program headers lie there for as long as the object is loaded.
    let headers =
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let page = rustix::param::page_size() as u64;
    for header in headers {
        // A writable segment has relocations, also where it was made read-only later.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = info.dlpi_addr + header.p_vaddr;
        // Whole pages only: the others belong to the neighbours too.
        let from = start.next_multiple_of(page);
        let to = (start + header.p_memsz) / page * page;
        if let (Ok(from), Ok(length)) = (
            usize::try_from(from),
            usize::try_from(to.saturating_sub(from)),
        ) {
            // SAFETY: a private mapping of a file that has never been written to reads the same
            // after its pages are dropped (madvise(2)). One that cannot be dropped stays.
            unsafe { libc::madvise(from as *mut c_void, length, libc::MADV_DONTNEED) };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of files that this process has mapped, in KiB.
    fn mapped() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:"));
        line.unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    }

    #[test]
    fn code_that_was_forgotten_still_runs() {
        let before = mapped();
        forget_code();
        let after = mapped();
        assert!(after < before, "{before} KiB became {after} KiB");
        assert_eq!(read_all(&create("test").unwrap()).unwrap(), b"");
    }

    #[test]
    fn what_is_written_is_read() {
        let file = create("test").unwrap();
        assert_eq!(read_all(&file).unwrap(), b"");
        file.write_all_at(b"one two", 0).unwrap();
        file.write_all_at(b"TWO", 4).unwrap();
        assert_eq!(read_all(&file).unwrap(), b"one TWO");
    }
}
