//! What the node holds, looked at when monitoring asks: volumes that are set up, and certificates that will expire.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};

use crate::{
    identity::{Connection, serving::Serving},
    pods::{
        PodIndex, Volumes,
        status::is_terminal,
        volumes::{MountedVolumes, desired},
    },
};

/// Where it is looked at.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) index: PodIndex,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) connection: Connection,
    pub(crate) serving: Arc<Serving>,
}

impl Collector for Held {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let help = "Number of volumes in Volume Manager";
        let mut family =
            encoder.encode_descriptor("volume_manager_total_volumes", help, None, MetricType::Gauge)?;
        let states = [
            ("actual_state_of_world", MountedVolumes::counts(self.volumes.mounted())),
            ("desired_state_of_world", self.desired()),
        ];
        for (state, counts) in states {
            for (plugin, count) in counts {
                let labels = [("plugin_name", plugin.as_str()), ("state", state)];
                let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
                count.encode(family.encode_family(&labels)?)?;
            }
        }
        let certificates = [
            (
                "kubelet_certificate_manager_client_ttl_seconds",
                "Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate \
                 expiry (negative if already expired)",
                self.connection.certificate_expiry(),
            ),
            (
                "kubelet_certificate_manager_server_ttl_seconds",
                "Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until \
                 certificate expiry (negative if already expired)",
                self.serving.certificate_expiry(),
            ),
        ];
        for (name, help, expiry) in certificates {
            let Some(expiry) = expiry else { continue };
            let left = ConstGauge::new(expiry.duration_since(Timestamp::now()).as_secs());
            left.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

impl Held {
    /// The volumes that pods want, by plugin.
    fn desired(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for pod in self.index.pods().iter().filter(|pod| !is_terminal(pod.status.as_ref())) {
            for (plugin, count) in desired(pod) {
                *counts.entry(plugin).or_default() += count;
            }
        }
        counts
    }
}
