//! Becoming another program: same process, same children, other code.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Replaces the program of this process (execve(2)). Pid, parent, children, pending signals and the
/// calling thread's signal mask stay; all other threads end, and descriptors are closed that are
/// close-on-exec, which is all of ours but those of `keep`.
///
/// # Errors
/// Returns only with the kernel's error, or `InvalidInput` for a NUL byte in a string; nothing has
/// changed then.
pub fn exec(
    program: &Path,
    argv: &[OsString],
    env: &[(OsString, OsString)],
    keep: &[&OwnedFd],
) -> io::Result<Infallible> {
    let program = c_string(program.as_os_str())?;
    let argv = c_strings(argv.iter().map(OsString::as_os_str))?;
    let pairs: Vec<OsString> = env
        .iter()
        .map(|(name, value)| {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            pair
        })
        .collect();
    let env = c_strings(pairs.iter().map(OsString::as_os_str))?;
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        let pointers = strings.iter().map(|string| string.as_ptr());
        pointers.chain([std::ptr::null()]).collect()
    };
    let (argv_pointers, env_pointers) = (pointers(&argv), pointers(&env));
    let before: Vec<FdFlags> = keep.iter().map(fcntl_getfd).collect::<Result<_, _>>()?;
    for (descriptor, flags) in keep.iter().zip(&before) {
        fcntl_setfd(descriptor, *flags - FdFlags::CLOEXEC)?;
    }
    // SAFETY: all three are NUL-terminated and, the lists, NULL-terminated; what they point to
    // lives until the end of this function, if that is ever reached.
    unsafe {
        libc::execve(
            program.as_ptr(),
            argv_pointers.as_ptr(),
            env_pointers.as_ptr(),
        )
    };
    let error = io::Error::last_os_error();
    for (descriptor, flags) in keep.iter().zip(before) {
        let _ = fcntl_setfd(descriptor, flags);
    }
    Err(error)
}

/// A descriptor that names an executable file, whatever becomes of its path (O_PATH).
///
/// # Errors
/// As open(2).
pub fn open_program(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Whether two descriptors name one file.
///
/// # Errors
/// As fstat(2).
pub fn is_same_file(one: impl AsFd, other: impl AsFd) -> io::Result<bool> {
    let (one, other) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

fn c_string(string: &OsStr) -> io::Result<CString> {
    CString::new(string.as_bytes()).map_err(|nul| io::Error::new(io::ErrorKind::InvalidInput, nul))
}

fn c_strings<'a>(strings: impl Iterator<Item = &'a OsStr>) -> io::Result<Vec<CString>> {
    strings.map(c_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_that_fails_changes_nothing() {
        let (reader, _writer) = io::pipe().unwrap();
        let kept = OwnedFd::from(reader);
        let error = exec(Path::new("/no/such/program"), &[], &[], &[&kept]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(fcntl_getfd(&kept).unwrap().contains(FdFlags::CLOEXEC));
        let error = exec(Path::new("/dev/null"), &["a\0b".into()], &[], &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
