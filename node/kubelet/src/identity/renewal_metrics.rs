//! Renewals of the node's certificates, by the names of upstream's `pkg/kubelet/certificate`.

use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::{
    metrics::{gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::pair::Pair;

/// Seconds that a certificate has lived; upstream's.
const LIVES: [f64; 10] = [
    60.0,
    3600.0,
    14_400.0,
    86_400.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
    124_416_000.0,
];

/// What came of renewals. Clones share it.
///
/// Failures are counters by their meaning. Their names have no `_total`, which one of OpenMetrics cannot be without.
#[derive(Clone, Debug)]
pub struct RenewalMetrics {
    client_failures: Gauge,
    serving_failures: Gauge,
    serving_lives: Histogram,
}

impl Default for RenewalMetrics {
    fn default() -> Self {
        Self {
            client_failures: Gauge::default(),
            serving_failures: Gauge::default(),
            serving_lives: Histogram::new(LIVES),
        }
    }
}

impl RenewalMetrics {
    /// Shows them among the metrics of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Counter of certificate renewal errors";
        let failures = [
            ("kubelet_certificate_manager_client_expiration_renew_errors", &self.client_failures),
            ("kubelet_server_expiration_renew_errors", &self.serving_failures),
        ];
        for (name, failures) in failures {
            registry.register(name, help, failures.clone());
        }
        registry.register(
            "kubelet_certificate_manager_server_rotation_seconds",
            "Histogram of the number of seconds the previous certificate lived before being rotated",
            self.serving_lives.clone(),
        );
    }

    /// The client certificate could not be renewed.
    pub(super) fn client_failed(&self) {
        self.client_failures.inc();
    }

    /// There was no serving certificate to be had of the cluster.
    pub(super) fn serving_failed(&self) {
        self.serving_failures.inc();
    }

    /// The cluster has signed another serving certificate in the place of this one.
    pub(super) fn serving_replaced(&self, old: &Pair, now: Timestamp) {
        let Ok((from, _)) = old.validity() else { return };
        let lived = Duration::try_from(now.duration_since(from)).unwrap_or_default();
        self.serving_lives.observe(lived.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::{self, Format};

    #[test]
    fn failures_and_lives_are_told_by_upstreams_names() {
        let metrics = RenewalMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let text = |registry: &Registry| exposition::registry(registry, Format::Classic).unwrap();
        assert!(
            text(&registry).contains("kubelet_server_expiration_renew_errors 0\n"),
            "told before there is one"
        );
        metrics.client_failed();
        metrics.serving_failed();
        metrics.serving_failed();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        let signed = params.self_signed(&key).unwrap();
        let pair = Pair::from_pem(signed.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        metrics.serving_replaced(&pair, "2026-01-01T02:00:00Z".parse().unwrap());
        for line in [
            "kubelet_certificate_manager_client_expiration_renew_errors 1",
            "kubelet_server_expiration_renew_errors 2",
            "kubelet_certificate_manager_server_rotation_seconds_sum 7200.0",
            "kubelet_certificate_manager_server_rotation_seconds_bucket{le=\"3600.0\"} 0",
        ] {
            assert!(text(&registry).contains(&format!("{line}\n")), "{line} in {}", text(&registry));
        }
    }
}
