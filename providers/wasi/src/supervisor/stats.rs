//! What workers say of what they host: what was used, and what was refused.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use kubewasm_kubelet::runtime::NetworkRefusals;

use super::{STATS, Supervisor};
use crate::{instance::InstanceStats, protocol::wire};

/// Texts of one pod, and their length in characters, that are taken from a worker.
const TEXTS: usize = 2;
const TEXT: usize = 400;

impl Supervisor {
    /// What all instances that run have used. Those of a worker that does not answer are missing.
    pub async fn stats(&self) -> Vec<InstanceStats> {
        let readable = |group: &str, stats| {
            let stats = InstanceStats::try_from(stats)
                .inspect_err(|error| tracing::error!(group, %error, "a worker cannot be understood"))
                .ok()?;
            // Of what is not its group's, it has nothing to say.
            let claim = self.view().claim_on(&stats.id).filter(|claim| claim.group == group)?;
            Some(InstanceStats { pod_uid: claim.pod_uid, ..stats })
        };
        let of_group = |(group, answer): (String, wire::StatsResponse)| {
            let stats = answer.instances.into_iter();
            stats.filter_map(|stats| readable(&group, stats)).collect::<Vec<_>>()
        };
        let mut answers = self.ask_stats().await;
        for (group, answer) in &mut answers {
            if let Some(instantiations) = answer.instantiations.take() {
                self.common.tally.has_made(group, instantiations.into());
            }
        }
        answers.into_iter().flat_map(of_group).collect()
    }

    /// What was refused of pods' traffic. That of a worker that does not answer is missing.
    pub async fn refusals(&self) -> Vec<NetworkRefusals> {
        let answers = self.ask_stats().await;
        let (claims, _) = self.claims();
        let claimed: HashSet<_> = claims.into_iter().map(|(_, claim)| (claim.group, claim.pod_uid)).collect();
        let mut by_pod: HashMap<String, NetworkRefusals> = HashMap::new();
        for (group, answer) in answers {
            for refusals in answer.refusals {
                let key = (group.clone(), refusals.pod_uid);
                // Of what is not its group's, it has nothing to say.
                if !claimed.contains(&key) {
                    continue;
                }
                let (_, pod_uid) = key;
                let pod = by_pod.entry(pod_uid).or_default();
                pod.ingress = pod.ingress.saturating_add(refusals.ingress);
                pod.egress = pod.egress.saturating_add(refusals.egress);
                let texts = refusals.last.iter().take(TEXTS - pod.last.len().min(TEXTS));
                pod.last.extend(texts.map(|text| text.chars().take(TEXT).collect()));
            }
        }
        by_pod.into_iter().map(|(pod_uid, pod)| NetworkRefusals { pod_uid, ..pod }).collect()
    }

    /// Asks all workers, by group.
    async fn ask_stats(&self) -> Vec<(String, wire::StatsResponse)> {
        let kept = self.groups.lock().await;
        let groups: Vec<_> = kept.values().map(|kept| Arc::clone(&kept.group)).collect();
        drop(kept);
        let answers = groups.iter().map(async |group| {
            let mut client = group.client().await.ok()?;
            let answer = tokio::time::timeout(STATS, client.worker.stats(wire::StatsRequest {})).await;
            match answer {
                Ok(Ok(answer)) => Some((group.name().to_owned(), answer.into_inner())),
                Ok(Err(error)) => {
                    tracing::debug!(group = %group.name(), %error, "a worker does not say what is used");
                    None
                }
                Err(_) => {
                    tracing::warn!(group = %group.name(), "a worker takes too long to say what is used");
                    None
                }
            }
        });
        futures::future::join_all(answers).await.into_iter().flatten().collect()
    }
}
