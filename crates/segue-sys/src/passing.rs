//! Bytes over a Unix stream socket, with a descriptor beside them (SCM_RIGHTS; unix(7), cmsg(3)).
//! Neither call ever blocks, whatever the socket's flags are.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};

/// Sends as many of `bytes` as fit and says how many; `descriptor` goes with the first of them, so
/// it has been sent whenever anything has. A peer that is gone is `BrokenPipe`, without SIGPIPE.
pub fn send(
    socket: impl AsFd,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok(sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        flags,
    )?)
}

/// Receives what is there, at most `buffer`; 0 is the end of the stream.
///
/// Descriptors that come with the bytes are closed by the kernel, because nothing is there to take
/// them: a peer cannot fill our table with them.
pub fn receive_bytes(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (received, _) = recv(socket, buffer, RecvFlags::DONTWAIT)?;
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, recvmsg};

    fn receive_descriptors(socket: &UnixStream) -> Vec<OwnedFd> {
        let mut bytes = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [io::IoSliceMut::new(&mut bytes)];
        recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let rights = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => rights.collect(),
            _ => Vec::new(),
        });
        rights.collect()
    }

    #[test]
    fn a_descriptor_goes_with_the_first_byte() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"passed").unwrap();
        assert_eq!(send(&ours, b"hello", Some(file.as_fd())).unwrap(), 5);
        let [descriptor] = receive_descriptors(&theirs).try_into().unwrap();
        let mut text = String::new();
        let mut file = File::from(descriptor);
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "passed");

        assert_eq!(send(&ours, b"again", None).unwrap(), 5);
        assert!(receive_descriptors(&theirs).is_empty());
    }

    #[test]
    fn unwanted_descriptors_are_closed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&ours, b"x", Some(writer.as_fd())).unwrap();
        drop(writer);
        assert_eq!(receive_bytes(&theirs, &mut [0; 8]).unwrap(), 1);
        // The pipe is at its end only once nobody holds its other end.
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn nothing_blocks_and_nothing_signals() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let nothing = receive_bytes(&ours, &mut [0; 8]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        let full = loop {
            match send(&ours, &[0; 4096], None) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(theirs);
        let gone = send(&ours, b"x", None).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    }
}
