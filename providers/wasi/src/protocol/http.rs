//! What is counted of requests, and certificates, between worker and agent.

use std::time::Duration;

use kubewasm_host::http::{HttpStats, ServerCertificate};

use super::{WireError, wire};

impl From<&ServerCertificate> for wire::TlsCertificate {
    fn from(certificate: &ServerCertificate) -> Self {
        let chain = certificate.chain_der().map(<[u8]>::to_vec).collect();
        Self { chain, key: certificate.key_der().to_vec() }
    }
}

impl TryFrom<wire::TlsCertificate> for ServerCertificate {
    type Error = WireError;

    fn try_from(wire::TlsCertificate { chain, key }: wire::TlsCertificate) -> Result<Self, WireError> {
        Self::from_der(chain, key).map_err(|_| WireError("a certificate with its key is none"))
    }
}

impl From<&HttpStats> for wire::HttpStats {
    fn from(stats: &HttpStats) -> Self {
        Self {
            answers: stats.answers.into(),
            duration_nanos: u64::try_from(stats.duration.as_nanos()).unwrap_or(u64::MAX),
            buckets: stats.buckets.into(),
            in_flight: stats.in_flight,
            queued: stats.queued,
            instances: stats.instances,
            connections: stats.connections,
            rejected: stats.rejected,
            failures: stats.failures,
            timeouts: stats.timeouts,
            handshake_failures: stats.handshake_failures,
        }
    }
}

impl From<wire::HttpStats> for HttpStats {
    fn from(stats: wire::HttpStats) -> Self {
        Self {
            answers: fixed(&stats.answers),
            duration: Duration::from_nanos(stats.duration_nanos),
            buckets: fixed(&stats.buckets),
            in_flight: stats.in_flight,
            queued: stats.queued,
            instances: stats.instances,
            connections: stats.connections,
            rejected: stats.rejected,
            failures: stats.failures,
            timeouts: stats.timeouts,
            handshake_failures: stats.handshake_failures,
        }
    }
}

/// So many numbers: a worker of another version may tell more, or fewer.
fn fixed<const N: usize>(numbers: &[u64]) -> [u64; N] {
    std::array::from_fn(|index| numbers.get(index).copied().unwrap_or_default())
}
