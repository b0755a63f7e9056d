//! Renewing the client certificate while the node runs.

use std::{path::PathBuf, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{
    CertificateRequestError, Connection, IdentityError, PENDING_CLIENT_KEY,
    csr::{self, Purpose},
    kubeconfig,
    pair::Pair,
    pending::PendingKey,
};
use crate::retry::{self, Backoff};

/// How long one request may take.
pub(super) const WAIT: Duration = Duration::from_mins(15);
/// The least time between two certificates: where clocks disagree, or lives are very short, each is due at once.
pub(super) const APART: Duration = Duration::from_secs(10);
/// The longest sleep: a clock that was set meanwhile is noticed after it.
const LONGEST_SLEEP: Duration = Duration::from_mins(10);

/// When to renew a certificate: somewhere between 70 % and 90 % of its life, so that a fleet that was
/// set up at once does not renew at once. `spread` is from 0 to 1.
pub(super) fn renew_at(validity: (Timestamp, Timestamp), spread: f64) -> Timestamp {
    let (from, to) = validity;
    let life = to.duration_since(from).as_secs_f64().max(0.0);
    let age =
        SignedDuration::try_from_secs_f64(life * (0.7 + 0.2 * spread.clamp(0.0, 1.0))).unwrap_or_default();
    from.checked_add(age).unwrap_or(to)
}

/// Waits for a time of the clock; false when cancelled.
pub(super) async fn sleep_until(time: Timestamp, cancel: &CancellationToken) -> bool {
    loop {
        let left = Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default();
        if left.is_zero() {
            return !cancel.is_cancelled();
        }
        if !retry::sleep(left.min(LONGEST_SLEEP), cancel).await {
            return false;
        }
    }
}

/// The waits between requests that failed: 2 s, doubling to 32 s.
pub(super) fn backoff() -> Backoff {
    Backoff::new(Duration::from_secs(2), Duration::from_secs(32))
}

/// Keeps the client certificate of a [`Connection`] fresh.
#[derive(Debug)]
pub struct Rotation {
    file: PathBuf,
    node_name: String,
    connection: Connection,
    /// Credentials to ask with once the certificate has expired.
    bootstrap: Option<PathBuf>,
    current: Pair,
}

impl Rotation {
    pub(super) fn of_client(
        file: PathBuf,
        node_name: &str,
        connection: Connection,
        bootstrap: Option<PathBuf>,
    ) -> Result<Self, IdentityError> {
        let current = Pair::read(&file, &file)?;
        Ok(Self { file, node_name: node_name.to_owned(), connection, bootstrap, current })
    }

    /// Renews until cancelled. Failures are logged and tried again; when the certificate has expired meanwhile, the API
    /// server takes no request with it any more, and the bootstrap credentials are asked with, where there are any, as
    /// after a restart.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut backoff = backoff();
        loop {
            let Ok(validity) = self.current.validity() else { return };
            if !sleep_until(renew_at(validity, rand::random()), &cancel).await {
                return;
            }
            match self.renew(&cancel).await {
                Ok(()) => {
                    backoff.reset();
                    if !retry::sleep(APART, &cancel).await {
                        return;
                    }
                }
                Err(IdentityError::Request(CertificateRequestError::Cancelled)) => return,
                Err(err) => {
                    self.connection.renewals().client_failed();
                    if self.current.is_valid(Timestamp::now()) {
                        tracing::warn!(error = %err, expires = %validity.1, "cannot renew the client certificate; trying again");
                    } else {
                        tracing::error!(
                            error = %err, expired = %validity.1,
                            "the client certificate has expired and cannot be renewed: see that the credentials in \
                             --bootstrap-kubeconfig are good, and restart the node where it was started without; trying \
                             again",
                        );
                    }
                    if !retry::sleep(backoff.next(), &cancel).await {
                        return;
                    }
                }
            }
        }
    }

    async fn renew(&mut self, cancel: &CancellationToken) -> Result<(), IdentityError> {
        let key_file = self.file.with_file_name(PENDING_CLIENT_KEY);
        let pending = PendingKey::open(key_file.clone(), Some(&self.current))?;
        let client = match &self.bootstrap {
            Some(bootstrap) if !self.current.is_valid(Timestamp::now()) => {
                Connection::new(kubeconfig::load(bootstrap).await?.access)?.client()
            }
            _ => self.connection.unlimited_client(),
        };
        let answer =
            csr::obtain(&client, &self.node_name, &Purpose::Client, pending.key(), WAIT, cancel).await;
        let pair = pending.settle(answer, &self.file)?;
        self.connection.replace_certificate(&pair);
        PendingKey::remove(&key_file)?;
        let until = pair.validity().map(|(_, until)| until.to_string()).unwrap_or_default();
        tracing::info!(until, "renewed the client certificate");
        self.current = pair;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_late_in_its_life() {
        let from: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let validity = (from, from + SignedDuration::from_hours(100));
        for (spread, hours) in [(0.0, 70), (0.5, 80), (1.0, 90), (7.0, 90)] {
            assert_eq!(renew_at(validity, spread), from + SignedDuration::from_hours(hours), "{spread}");
        }
        assert_eq!(renew_at((validity.1, validity.0), 0.5), validity.1, "a life that ends before it begins");
    }

    #[tokio::test]
    async fn a_time_in_the_past_is_there_already() {
        let cancel = CancellationToken::new();
        assert!(sleep_until(Timestamp::UNIX_EPOCH, &cancel).await);
        cancel.cancel();
        assert!(!sleep_until(Timestamp::UNIX_EPOCH, &cancel).await);
        assert!(!sleep_until(Timestamp::MAX, &cancel).await);
    }
}
