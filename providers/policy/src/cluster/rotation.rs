//! When certificates are made, shown and forgotten: the next step from how things are.
//!
//! ```text
//!   nothing ─► next: made ─► all webhooks know its authority, for a while ─► it is the current one
//!                                 ▲                                               │
//!            after two thirds of its life, or when it is for other hosts          ▼
//!   current ──────────────────────┘      the authority before is forgotten ◄─ all replicas show it, for a while
//! ```
//!
//! "For a while", because an API server that has written a webhook configuration does not say when it has read it itself, nor when
//! the others have.

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{
    certificate::{CertificateError, ServingPair, bundle, contains},
    secret::Certificates,
};

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct RotationTimes {
    /// How long a certificate is good.
    pub life: Duration,
    /// How long API servers may need to see what is written.
    pub settle: Duration,
}

impl Default for RotationTimes {
    fn default() -> Self {
        Self { life: Duration::from_secs(90 * 86_400), settle: Duration::from_secs(30) }
    }
}

/// What is the case outside.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// The names and addresses of the server.
    pub hosts: &'a [String],
    /// The authorities in every webhook configuration of ours, in PEM.
    pub bundles: Vec<&'a str>,
    /// The fingerprint of the certificate that each replica shows; none where it shows none.
    pub shown: Vec<Option<&'a str>>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RotationStep {
    /// Nothing before so long.
    Wait(Duration),
    /// To write this.
    Write(Certificates),
}

/// Something that has to be the case for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Settling {
    /// All webhooks know the authority of the certificate with this fingerprint.
    Known(String),
    /// All replicas show it.
    Shown(String),
}

/// Decides on certificates. It remembers since when things are as they are: a new leader begins to count anew.
#[derive(Debug)]
pub struct Rotation {
    times: RotationTimes,
    since: Option<(Settling, Instant)>,
}

/// Which part of its life a certificate waits for webhooks that do not know its authority.
const PATIENCE: u32 = 6;
/// What is looked at again at the latest.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

impl Rotation {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(times: RotationTimes) -> Self {
        Self { times, since: None }
    }

    /// What is to be done now.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn step(
        &mut self,
        certificates: &Certificates,
        surroundings: &Surroundings<'_>,
        now: SystemTime,
        instant: Instant,
    ) -> Result<RotationStep, CertificateError> {
        let Surroundings { hosts, bundles, shown } = surroundings;
        let Certificates { current, next, previous } = certificates;
        if let Some(next) = next {
            let fingerprint = next.fingerprint();
            let is_known = bundles.iter().all(|bundle| contains(bundle, next.authority()));
            // One webhook that cannot be written must not cost all others a certificate that is good.
            let patience = next.made()?.checked_add(self.times.life / PATIENCE).unwrap_or(now);
            if !is_known
                && let Ok(left) = patience.duration_since(now)
                && !left.is_zero()
            {
                self.since = None;
                return Ok(RotationStep::Wait(left.min(LONGEST_WAIT)));
            }
            if !is_known {
                tracing::warn!(
                    "not all webhooks could be told of the new certificate's authority; it is shown all the same"
                );
            }
            // Whom there is nothing to tell need not be waited for.
            let wait = match bundles[..] {
                [] => Duration::ZERO,
                _ => self.left(Settling::Known(fingerprint), instant),
            };
            if wait > Duration::ZERO {
                return Ok(RotationStep::Wait(wait));
            }
            let before = current.as_ref().map(ServingPair::authority);
            return Ok(RotationStep::Write(Certificates {
                current: Some(next.clone()),
                next: None,
                previous: bundle(before.into_iter().chain([previous.as_str()])),
            }));
        }
        let Some(current) = current else {
            // Where the Secret was removed, replicas still show what was in it, and webhooks know by whom that is signed.
            return Ok(RotationStep::Write(Certificates {
                current: None,
                next: Some(ServingPair::make(hosts, now, self.times.life)?),
                previous: bundle(bundles.iter().copied().chain([previous.as_str()])),
            }));
        };
        let until_renewal = match current.renewal() {
            Ok(renewal) if current.covers(hosts) => renewal.duration_since(now).unwrap_or_default(),
            _ => Duration::ZERO,
        };
        if until_renewal.is_zero() {
            let next = Some(ServingPair::make(hosts, now, self.times.life)?);
            return Ok(RotationStep::Write(Certificates { next, ..certificates.clone() }));
        }
        if previous.is_empty() {
            return Ok(RotationStep::Wait(until_renewal.min(LONGEST_WAIT)));
        }
        let fingerprint = current.fingerprint();
        if !shown.iter().all(|shown| *shown == Some(fingerprint.as_str())) {
            self.since = None;
            return Ok(RotationStep::Wait(until_renewal.min(LONGEST_WAIT)));
        }
        let wait = self.left(Settling::Shown(fingerprint), instant);
        if wait > Duration::ZERO {
            return Ok(RotationStep::Wait(wait.min(until_renewal)));
        }
        Ok(RotationStep::Write(Certificates { previous: String::new(), ..certificates.clone() }))
    }

    /// How long this has yet to be the case.
    fn left(&mut self, settling: Settling, now: Instant) -> Duration {
        let since = match &self.since {
            Some((before, since)) if *before == settling => *since,
            _ => {
                self.since = Some((settling, now));
                now
            }
        };
        self.times.settle.saturating_sub(now.saturating_duration_since(since))
    }
}
