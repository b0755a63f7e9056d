//! A TCP connection within a time, and what to say when there is none. The words are those of Go's
//! dialer, which users of probes know and search for.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

/// Connects, or fails with what [`describe`] can put into words.
pub(super) async fn dial(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// `dial tcp 10.1.0.7:80: connect: connection refused`.
pub(super) fn describe(address: SocketAddr, error: &io::Error) -> String {
    // A timeout of ours has no number; that of the system has one, and a text.
    if error.raw_os_error().is_none() && error.kind() == io::ErrorKind::TimedOut {
        return format!("dial tcp {address}: i/o timeout");
    }
    format!("dial tcp {address}: connect: {}", system_text(error))
}

/// The system's text as Go writes it: in small letters, without the number.
pub(super) fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_those_of_go() {
        let table = [
            (io::Error::from_raw_os_error(libc_errno::ECONNREFUSED), "connect: connection refused"),
            (io::Error::from_raw_os_error(libc_errno::EHOSTUNREACH), "connect: no route to host"),
            (io::Error::from_raw_os_error(libc_errno::ETIMEDOUT), "connect: connection timed out"),
            (io::ErrorKind::TimedOut.into(), "i/o timeout"),
        ];
        for (error, expected) in table {
            let v4 = describe("10.1.0.7:80".parse().unwrap(), &error);
            assert_eq!(v4, format!("dial tcp 10.1.0.7:80: {expected}"));
            let v6 = describe("[fd00::7]:80".parse().unwrap(), &error);
            assert_eq!(v6, format!("dial tcp [fd00::7]:80: {expected}"));
        }
    }

    /// The numbers of these errors, from rustix.
    mod libc_errno {
        use rustix::io::Errno;
        pub(super) const ECONNREFUSED: i32 = Errno::CONNREFUSED.raw_os_error();
        pub(super) const EHOSTUNREACH: i32 = Errno::HOSTUNREACH.raw_os_error();
        pub(super) const ETIMEDOUT: i32 = Errno::TIMEDOUT.raw_os_error();
    }
}
