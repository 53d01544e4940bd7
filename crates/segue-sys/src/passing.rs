//! Bytes over a Unix stream socket, with a descriptor beside them (SCM_RIGHTS; unix(7), cmsg(3)).
//! Neither call ever blocks, whatever the socket's flags are.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};

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

/// The same, and keeps the descriptor that came with the bytes, `CLOEXEC`. One read gives the bytes
/// of one message with descriptors at most (`unix_stream_read_generic`); of several with one
/// message the first is kept. None comes where this process has no room for more.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    receive_with(socket, buffer, RecvFlags::empty())
}

/// The same, and leaves everything where it is: the next call gives it again, with another copy of
/// the descriptor.
pub fn peek(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    receive_with(socket, buffer, RecvFlags::PEEK)
}

/// [`peek`] that leaves descriptors in the socket.
pub fn peek_bytes(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let (received, _) = recv(socket, buffer, flags)?;
    Ok(received)
}

/// Sends one packet over a `SOCK_SEQPACKET` socket, whole or not at all.
pub fn send_packet(
    socket: impl AsFd,
    packet: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    // The kernel cuts no packet in two.
    send(socket, packet, descriptor).map(drop)
}

/// Receives one packet from a `SOCK_SEQPACKET` socket; a longer one is cut. `None` at the end, for
/// which an empty packet is taken as well.
pub fn receive_packet(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<Option<(&[u8], Option<OwnedFd>)>> {
    let (length, descriptor) = receive(socket, buffer)?;
    let packet = buffer.get(..length).unwrap_or_default();
    Ok((length > 0).then_some((packet, descriptor)))
}

fn receive_with(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => rights.collect(),
        _ => Vec::new(),
    });
    let first = descriptors.next();
    // What does not fit is closed by the kernel, but the space is rounded up and holds two.
    descriptors.for_each(drop);
    Ok((received.bytes, first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::unix::net::UnixStream;

    fn send_many(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        let flags = SendFlags::empty();
        let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).unwrap();
        assert_eq!(sent, bytes.len());
    }

    #[test]
    fn a_descriptor_goes_with_the_first_byte() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"passed").unwrap();
        assert_eq!(send(&ours, b"hello", Some(file.as_fd())).unwrap(), 5);
        let mut bytes = [0; 64];
        let (count, descriptor) = receive(&theirs, &mut bytes).unwrap();
        let descriptor = descriptor.unwrap();
        assert_eq!(count, 5);
        assert!(
            rustix::io::fcntl_getfd(&descriptor)
                .unwrap()
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
        let mut text = String::new();
        let mut file = File::from(descriptor);
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "passed");

        assert_eq!(send(&ours, b"again", None).unwrap(), 5);
        assert!(matches!(receive(&theirs, &mut bytes), Ok((5, None))));
        drop(ours);
        assert!(matches!(receive(&theirs, &mut bytes), Ok((0, None))));
    }

    #[test]
    fn of_several_one_is_kept() {
        for count in [2, 3, 8] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (mut reader, writer) = io::pipe().unwrap();
            let file = tempfile::tempfile().unwrap();
            let mut descriptors = vec![writer.as_fd(); count];
            descriptors[0] = file.as_fd();
            send_many(&ours, b"x", &descriptors);
            drop(writer);
            let (_, kept) = receive(&theirs, &mut [0; 8]).unwrap();
            File::from(kept.unwrap()).write_all(b"it").unwrap();
            assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0, "{count}");
        }
    }

    #[test]
    fn bytes_of_two_messages_with_descriptors_are_not_mixed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send(&ours, b"plain ", None).unwrap();
        send(&ours, b"one", Some(file.as_fd())).unwrap();
        send(&ours, b"two", Some(file.as_fd())).unwrap();
        let mut bytes = [0; 64];
        let mut seen = Vec::new();
        while let Ok((count, descriptor)) = receive(&theirs, &mut bytes) {
            seen.push((
                String::from_utf8_lossy(&bytes[..count]).into_owned(),
                descriptor.is_some(),
            ));
        }
        let text: String = seen.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(text, "plain onetwo");
        let with: Vec<&(String, bool)> = seen.iter().filter(|(_, with)| *with).collect();
        assert_eq!(with.len(), 2);
        assert!(with[0].0.ends_with("one") && with[1].0 == "two", "{seen:?}");
    }

    #[test]
    fn what_is_looked_at_stays_where_it_is() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&ours, b"one", Some(writer.as_fd())).unwrap();
        send(&ours, b"two", None).unwrap();
        drop(writer);
        let mut bytes = [0; 64];
        for _ in 0..2 {
            let (count, descriptor) = peek(&theirs, &mut bytes).unwrap();
            // Not beyond a message with a descriptor.
            assert_eq!(&bytes[..count], b"one");
            assert!(descriptor.is_some());
        }
        assert_eq!(peek_bytes(&theirs, &mut bytes).unwrap(), 3);
        assert_eq!(receive_bytes(&theirs, &mut bytes[..3]).unwrap(), 3);
        assert_eq!(
            reader.read(&mut [0; 1]).unwrap(),
            0,
            "nobody has it any more"
        );
        assert_eq!(peek_bytes(&theirs, &mut bytes).unwrap(), 3);
        assert_eq!(&bytes[..3], b"two");
    }

    #[test]
    fn packets_are_whole() {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let file = tempfile::tempfile().unwrap();
        send_packet(&ours, b"first", Some(file.as_fd())).unwrap();
        send_packet(&ours, b"second", None).unwrap();
        let mut bytes = [0; 64];
        let (packet, descriptor) = receive_packet(&theirs, &mut bytes).unwrap().unwrap();
        assert_eq!((packet, descriptor.is_some()), (&b"first"[..], true));
        let (packet, descriptor) = receive_packet(&theirs, &mut bytes).unwrap().unwrap();
        assert_eq!((packet, descriptor.is_some()), (&b"second"[..], false));
        drop(ours);
        assert!(receive_packet(&theirs, &mut bytes).unwrap().is_none());
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
