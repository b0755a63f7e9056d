//! Which pods end when, and what they are given. Pure.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::config::KubeletConfiguration;

/// Priority of the cluster's own pods, and the least that these have.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// One of `shutdownGracePeriodByPodPriority`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ShutdownGracePeriodByPodPriority {
    /// The least priority of the pods that it is about.
    pub priority: i32,
    /// Seconds that they are given.
    pub shutdown_grace_period_seconds: u32,
}

/// What pods are given from some priority on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownPeriod {
    /// The least priority.
    pub priority: i32,
    /// For all of them together.
    pub grace: Duration,
}

/// The periods of a configuration, ascending by priority; none when the node's shutdown is not waited for.
///
/// # Errors
/// Which fields do not go together.
pub fn periods(config: &KubeletConfiguration) -> Result<Vec<ShutdownPeriod>, String> {
    let (all, critical) = (config.shutdown_grace_period, config.shutdown_grace_period_critical_pods);
    let by_priority = &config.shutdown_grace_period_by_pod_priority;
    if !by_priority.is_empty() {
        if !(all.is_zero() && critical.is_zero()) {
            return Err("shutdownGracePeriodByPodPriority goes without shutdownGracePeriod and \
                        shutdownGracePeriodCriticalPods: say it either way"
                .to_owned());
        }
        let period = |group: &ShutdownGracePeriodByPodPriority| ShutdownPeriod {
            priority: group.priority,
            grace: Duration::from_secs(group.shutdown_grace_period_seconds.into()),
        };
        let mut periods: Vec<_> = by_priority.iter().map(period).collect();
        periods.sort_by_key(|period| period.priority);
        if let Some(pair) = periods.windows(2).find(|pair| pair[0].priority == pair[1].priority) {
            return Err(format!(
                "shutdownGracePeriodByPodPriority has the priority {} twice",
                pair[0].priority
            ));
        }
        return Ok(periods);
    }
    for (field, period) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
        if !period.is_zero() && period < Duration::from_secs(1) {
            return Err(format!("{field} must be zero or at least 1s"));
        }
    }
    let others = all.checked_sub(critical).ok_or(
        "shutdownGracePeriodCriticalPods is part of shutdownGracePeriod, and must not be longer than that",
    )?;
    if all.is_zero() {
        return Ok(Vec::new());
    }
    let whole = |period: Duration| Duration::from_secs(period.as_secs());
    Ok(vec![
        ShutdownPeriod { priority: 0, grace: whole(others) },
        ShutdownPeriod { priority: SYSTEM_CRITICAL, grace: whole(critical) },
    ])
}

/// The pods by the period that they are given. What is below the lowest priority goes with that.
pub(super) fn groups(
    periods: &[ShutdownPeriod],
    pods: impl IntoIterator<Item = Arc<Pod>>,
) -> Vec<(ShutdownPeriod, Vec<Arc<Pod>>)> {
    let mut groups: Vec<_> = periods.iter().map(|period| (*period, Vec::new())).collect();
    for pod in pods {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let index = periods.iter().rposition(|period| period.priority <= priority).unwrap_or(0);
        if let Some((_, group)) = groups.get_mut(index) {
            group.push(pod);
        }
    }
    groups
}

/// What a pod wants at the most.
pub(crate) fn grace(pod: &Pod) -> Duration {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    Duration::from_secs(u64::try_from(seconds.unwrap_or(30)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(config: Value) -> Result<Vec<(i32, u64)>, String> {
        let config: KubeletConfiguration = serde_json::from_value(config).unwrap();
        Ok(periods(&config)?.iter().map(|period| (period.priority, period.grace.as_secs())).collect())
    }

    #[test]
    fn critical_pods_end_last_and_have_a_part_of_the_whole() {
        assert_eq!(read(json!({})), Ok(vec![]));
        let whole = json!({"shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s"});
        assert_eq!(read(whole), Ok(vec![(0, 20), (SYSTEM_CRITICAL, 10)]));
        let by_priority = json!({"shutdownGracePeriodByPodPriority": [
            {"priority": 100, "shutdownGracePeriodSeconds": 5}, {"priority": 0, "shutdownGracePeriodSeconds": 60},
        ]});
        assert_eq!(read(by_priority), Ok(vec![(0, 60), (100, 5)]));
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        for (config, expected) in [
            (json!({"shutdownGracePeriodCriticalPods": "10s"}), "must not be longer"),
            (json!({"shutdownGracePeriod": "500ms"}), "shutdownGracePeriod must be zero or at least 1s"),
            (
                json!({
                    "shutdownGracePeriod": "30s",
                    "shutdownGracePeriodByPodPriority": [{"priority": 1, "shutdownGracePeriodSeconds": 1}],
                }),
                "goes without",
            ),
            (
                json!({"shutdownGracePeriodByPodPriority": [
                    {"priority": 1, "shutdownGracePeriodSeconds": 1}, {"priority": 1, "shutdownGracePeriodSeconds": 2},
                ]}),
                "the priority 1 twice",
            ),
        ] {
            let error = read(config).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn pods_go_with_the_highest_priority_that_they_reach() {
        let period = |priority| ShutdownPeriod { priority, grace: Duration::ZERO };
        let periods = [period(0), period(1000), period(SYSTEM_CRITICAL)];
        let pod = |priority: i32| {
            let pod = json!({"metadata": {"uid": priority.to_string()}, "spec": {"priority": priority, "containers": []}});
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        let priorities = [-5, 0, 999, 1000, 1001, SYSTEM_CRITICAL, i32::MAX];
        let groups: Vec<Vec<String>> = groups(&periods, priorities.map(pod))
            .into_iter()
            .map(|(_, pods)| pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect())
            .collect();
        assert_eq!(groups, [vec!["-5", "0", "999"], vec!["1000", "1001"], vec!["2000000000", "2147483647"]]);
    }
}
