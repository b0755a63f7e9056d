//! A message with descriptors, over a Unix socket.
//!
//! ```text
//!   [length, number of descriptors]   8 bytes, with the first descriptors
//!   one byte                          with the next ones, for as long as there are any
//!   the message
//! ```

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Descriptors that go with one piece; the kernel takes 253.
const TOGETHER: usize = 250;
/// Most descriptors of a message: more than a container may have mounts.
const DESCRIPTORS_LIMIT: usize = 1024;
/// Longest message, in bytes: more than as many mounts take with the longest paths there are.
const LENGTH_LIMIT: usize = 16 << 20;

/// Sends a message. Blocking.
pub(crate) fn send(socket: &UnixStream, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let count = |number: usize, limit: usize| match u32::try_from(number) {
        Ok(count) if number <= limit => Ok(count),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long")),
    };
    let mut head = [0; 8];
    head[..4].copy_from_slice(&count(message.len(), LENGTH_LIMIT)?.to_le_bytes());
    head[4..].copy_from_slice(&count(fds.len(), DESCRIPTORS_LIMIT)?.to_le_bytes());
    let mut pieces = fds.chunks(TOGETHER);
    let first = pieces.next().unwrap_or_default();
    let sent = send_with(socket, &head, first)?;
    (&*socket).write_all(head.get(sent..).unwrap_or_default())?;
    for piece in pieces {
        send_with(socket, &[0], piece)?;
    }
    (&*socket).write_all(message)
}

/// Receives a message; one that is longer than any that is sent is an error. Blocking.
pub(crate) fn receive(socket: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut fds = Vec::new();
    let mut head = [0; 8];
    let received = receive_with(socket, &mut head, &mut fds)?;
    (&*socket).read_exact(head.get_mut(received..).unwrap_or_default())?;
    let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
    let number = |bytes| usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
    let (length, count) = (number([l0, l1, l2, l3]), number([c0, c1, c2, c3]));
    if length > LENGTH_LIMIT || count > DESCRIPTORS_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    while fds.len() < count {
        let before = fds.len();
        receive_with(socket, &mut [0], &mut fds)?;
        if fds.len() == before {
            // The limit of open files, most of the time: the kernel leaves out what finds no room.
            return Err(io::Error::other("descriptors are missing; is the limit of open files too low?"));
        }
    }
    let mut message = vec![0; length];
    (&*socket).read_exact(&mut message)?;
    Ok((message, fds))
}

/// Sends bytes with descriptors over any Unix socket, and says how many bytes went.
pub(crate) fn send_with(socket: &impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    Ok(rustix::io::retry_on_intr(|| {
        sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
    })?)
}

/// Receives bytes with descriptors over any Unix socket, and says how many bytes came: none at its end.
pub(crate) fn receive_with(
    socket: &impl AsFd,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use rustix::fs::fstat;

    use super::*;

    #[test]
    fn messages_arrive_with_their_descriptors_in_order() {
        let files: Vec<_> = (0..600).map(|_| tempfile::tempfile().unwrap()).collect();
        for count in [0, 1, TOGETHER, TOGETHER + 1, 600] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let message = vec![7; 300_000];
            let fds: Vec<_> = files[..count].iter().map(AsFd::as_fd).collect();
            let (found, received) = std::thread::scope(|scope| {
                scope.spawn(|| send(&ours, &message, &fds).unwrap());
                receive(&theirs).unwrap()
            });
            assert_eq!((found, received.len()), (message, count));
            for (sent, received) in fds.iter().zip(&received) {
                assert_eq!(fstat(sent).unwrap().st_ino, fstat(received).unwrap().st_ino);
            }
        }
    }

    #[test]
    fn what_ends_early_or_has_no_end_is_an_error() {
        for (bytes, expected) in [
            (&[][..], io::ErrorKind::UnexpectedEof),
            (&[1, 0, 0, 0, 0, 0, 0, 0], io::ErrorKind::UnexpectedEof),
            (&[255; 8], io::ErrorKind::InvalidData),
            (&[0, 0, 0, 0, 1, 0, 0, 0], io::ErrorKind::Other),
        ] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (&ours).write_all(bytes).unwrap();
            drop(ours);
            assert_eq!(receive(&theirs).unwrap_err().kind(), expected, "{bytes:?}");
        }
    }
}
