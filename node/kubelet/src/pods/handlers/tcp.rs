//! tcpSocket: a connection can be opened. It is closed at once, and nothing is sent.

use std::{net::SocketAddr, time::Duration};

use super::{
    ProbeOutcome,
    dial::{describe, dial},
};

pub(super) async fn probe(address: SocketAddr, timeout: Duration) -> ProbeOutcome {
    match dial(address, timeout).await {
        Ok(_) => ProbeOutcome::success(),
        Err(error) => ProbeOutcome::Failure(describe(address, &error)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn an_open_port_succeeds_and_a_closed_one_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe(address, SECOND).await, ProbeOutcome::success());
        drop(listener);
        let expected = format!("dial tcp {address}: connect: connection refused");
        assert_eq!(probe(address, SECOND).await, ProbeOutcome::Failure(expected));
    }

    #[tokio::test]
    async fn a_port_that_takes_no_more_connections_is_not_waited_for() {
        // The kernel takes as many connections as may wait to be accepted, one here, and leaves others waiting.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let _waits = TcpStream::connect(address).await.unwrap();
        let expected = format!("dial tcp {address}: i/o timeout");
        assert_eq!(probe(address, SECOND / 10).await, ProbeOutcome::Failure(expected));
    }
}
