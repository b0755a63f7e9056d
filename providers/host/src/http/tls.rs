//! TLS of a server: handshakes, with the certificate that is the newest when they begin.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{ServerConfig, crypto::ring::Ticketer, server::NoServerSessionStorage, sign::SingleCertAndKey};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    certificate::{CertificateId, InvalidCertificate, ServerCertificate, provider},
    connection::LATE,
    served::Served,
};
use crate::traffic::{Counted, Traffic};

/// Bytes that wait to be sent or read, each way: the largest record of TLS.
const BUFFER: usize = 16 << 10;
/// Bytes that are counted for each connection besides what one without TLS is counted.
pub(super) const HELD_PER_CONNECTION: u64 = 2 * BUFFER as u64;
/// What is spoken, the better first: the first one counts that a client speaks, too.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What somebody is told who does not speak TLS: the words of Go's server.
const PLAIN: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n\
    Client sent an HTTP request to an HTTPS server.\n";
/// Bytes of such a request, and the time, that are waited for before its connection ends: closed with anything unread, it
/// would be reset, and the answer lost.
const REST: (u64, Duration) = (64 << 10, Duration::from_secs(1));

/// What has come of a certificate for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateOutcome {
    /// Handshakes from now on have it.
    Applied,
    /// They had it already.
    Unchanged,
    /// This server does not speak TLS, and does not begin to.
    NotServed,
}

/// The server's side of TLS.
#[derive(Debug)]
pub(super) struct ServerTls(RwLock<(CertificateId, Arc<ServerConfig>)>);

/// There is no connection.
#[derive(Debug, thiserror::Error)]
enum NoHandshake {
    /// The client has gone without a byte, as whoever looks if somebody listens.
    #[error("the client has said nothing")]
    Silent,
    #[error("the client does not speak TLS")]
    Plain,
    #[error("the handshake took too long")]
    TooSlow,
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// A configuration of its own for each certificate, with keys of its own for tickets: what was agreed under an earlier one is
/// not taken up again. Tickets keep nothing here.
fn config(certificate: &ServerCertificate) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let resolver = SingleCertAndKey::from(Arc::clone(&certificate.certified));
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new()?;
    Ok(config)
}

impl ServerTls {
    pub(super) fn new(certificate: &ServerCertificate) -> Result<Self, InvalidCertificate> {
        let unusable = |error: rustls::Error| InvalidCertificate::Unusable(error.to_string());
        let config = config(certificate).map_err(unusable)?;
        Ok(Self(RwLock::new((certificate.id, Arc::new(config)))))
    }

    /// Makes this the certificate of handshakes that begin from now on. Connections go on as they are.
    pub(super) fn set(
        &self,
        certificate: &ServerCertificate,
    ) -> Result<CertificateOutcome, InvalidCertificate> {
        let Self(next) = Self::new(certificate)?;
        let next = next.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.0 == next.0 {
            return Ok(CertificateOutcome::Unchanged);
        }
        *known = next;
        Ok(CertificateOutcome::Applied)
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).1)
    }

    /// Makes a connection of TLS of one that was accepted, within the time for a request's head. When the server ends
    /// meanwhile, it has a moment to be made.
    pub(super) async fn handshake(
        &self,
        served: &Served,
        stream: TcpStream,
        ends: &CancellationToken,
    ) -> Option<TlsStream<Counted<TcpStream>>> {
        let peer = stream.peer_addr();
        let too_late = async {
            ends.cancelled().await;
            sleep(LATE).await;
        };
        let made = tokio::select! {
            made = timeout(served.settings.header_timeout, accept(self.config(), stream, served.account().traffic())) => {
                made.unwrap_or(Err(NoHandshake::TooSlow))
            }
            () = too_late => Err(NoHandshake::TooSlow),
        };
        match made {
            Ok(stream) => Some(stream),
            Err(NoHandshake::Silent) => None,
            Err(error) => {
                served.metrics.handshake_failed();
                tracing::debug!(?peer, %error, "a handshake has failed");
                None
            }
        }
    }
}

async fn accept(
    config: Arc<ServerConfig>,
    mut stream: TcpStream,
    traffic: &Arc<Traffic>,
) -> Result<TlsStream<Counted<TcpStream>>, NoHandshake> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(NoHandshake::Silent);
    }
    // No record of TLS begins with a letter, and each method of HTTP does.
    if first[0].is_ascii_alphabetic() {
        stream.write_all(PLAIN).await?;
        stream.shutdown().await?;
        let (most, time) = REST;
        let rest = async { tokio::io::copy(&mut stream.take(most), &mut tokio::io::sink()).await };
        // Whoever does not go is left.
        let _ = timeout(time, rest).await;
        return Err(NoHandshake::Plain);
    }
    let with_bounds = |connection: &mut rustls::ServerConnection| connection.set_buffer_limit(Some(BUFFER));
    Ok(TlsAcceptor::from(config).accept_with(Counted::new(stream, traffic), with_bounds).await?)
}
