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
    use tokio::net::TcpListener;

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
}
