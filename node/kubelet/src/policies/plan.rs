//! What follows from what is known: rules for the provider, and what is said to people. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    compile::{Compiler, Missing},
    follow::Trouble,
    world::{LocalPod, World},
};
use crate::runtime::NetworkRules;

/// How a node is given the rights.
pub(super) const ADVICE: &str = "bind the ClusterRole kubewasm-network-policies (manifests/cluster/network-policies.yaml) to \
                                 this node's user, or start the node with --network-policies=off";

/// What the provider has been told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The rules of pods, also of those that may do everything. Of others, nothing is known yet.
    pub(super) rules: NetworkRules,
    /// UIDs of the pods of which all is known that there is to be known.
    pub(super) settled: BTreeSet<String>,
    /// Why there are others; for people.
    pub(super) waiting: String,
    /// What is to be said of pods, by UID.
    pub(super) warnings: BTreeMap<String, String>,
}

type LocalPods = BTreeMap<String, Arc<LocalPod>>;

impl Plan {
    /// The node may not read policies: none is enforced, and every pod is told.
    pub(super) fn unenforced(pods: &LocalPods, trouble: &Trouble) -> Self {
        let message = format!("NetworkPolicies are not enforced for this pod: {}; {ADVICE}", trouble.message);
        Self {
            rules: pods.keys().map(|uid| (uid.clone(), Arc::default())).collect(),
            settled: pods.keys().cloned().collect(),
            warnings: pods.keys().map(|uid| (uid.clone(), message.clone())).collect(),
            ..Self::default()
        }
    }

    /// Policies have not been read: what holds for pods goes on to hold, and no other begins.
    pub(super) fn unread(self, pods: &LocalPods, trouble: Option<&Trouble>) -> Self {
        let Self { mut rules, mut settled, .. } = self;
        rules.retain(|uid, _| pods.contains_key(uid));
        settled.retain(|uid| pods.contains_key(uid));
        let waiting = trouble.map(|trouble| trouble.message.clone()).unwrap_or_default();
        Self { rules, settled, waiting, warnings: BTreeMap::new() }
    }

    /// What follows for each pod. What cannot be read yet leaves a pod that is settled with what holds for it; what the
    /// node has no right to read allows nobody. `trouble` tells why something is missing.
    pub(super) fn next(
        self,
        pods: &LocalPods,
        world: &World,
        trouble: impl Fn(&Missing) -> Option<Trouble>,
    ) -> Self {
        let mut next = Self::default();
        let mut compiler = Compiler::new(world);
        for (uid, pod) in pods {
            let compiled = compiler.rules(pod);
            let mut is_unread = false;
            let mut warnings = Vec::new();
            for (missing, policies) in &compiled.missing {
                match trouble(missing) {
                    Some(Trouble { message, is_forbidden: true }) => {
                        let names: Vec<&str> = policies.iter().map(String::as_str).collect();
                        warnings.push(format!("{} ({message})", names.join(", ")));
                    }
                    trouble => {
                        is_unread = true;
                        next.waiting = trouble.map(|trouble| trouble.message).unwrap_or_default();
                    }
                }
            }
            if !warnings.is_empty() {
                let message = format!(
                    "nobody is allowed by rules of these NetworkPolicies, because what they are about cannot be read: {}; {ADVICE}",
                    warnings.join("; ")
                );
                next.warnings.insert(uid.clone(), message);
            }
            let was_settled = self.settled.contains(uid);
            if was_settled || !is_unread {
                next.settled.insert(uid.clone());
            }
            let rules = if is_unread && was_settled {
                self.rules.get(uid).cloned()
            } else {
                let rules = compiled.rules;
                // An equal value is the same one: whoever compares sees it at once.
                let known = self.rules.get(uid).filter(|known| ***known == rules);
                Some(known.cloned().unwrap_or_else(|| Arc::new(rules)))
            };
            next.rules.extend(rules.map(|rules| (uid.clone(), rules)));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::policy::Policy, *};

    fn pods(uids: &[&str]) -> LocalPods {
        let pod = json!({"metadata": {"namespace": "ns"}, "spec": {"containers": []}});
        let pod = LocalPod::of(&serde_json::from_value(pod).unwrap(), &Default::default());
        uids.iter().map(|uid| ((*uid).to_owned(), Arc::new(pod.clone()))).collect()
    }

    fn world(spec: serde_json::Value) -> World {
        let policy = json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": spec});
        let policy = Policy::of(&serde_json::from_value(policy).unwrap());
        World { policies: [("ns".to_owned(), vec![Arc::new(policy)])].into(), ..World::default() }
    }

    fn from_pods() -> World {
        world(
            json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"a": "b"}}}]}]}),
        )
    }

    fn forbidden() -> Trouble {
        Trouble { message: "pods is forbidden".to_owned(), is_forbidden: true }
    }

    #[test]
    fn a_new_pod_waits_for_what_its_rules_are_about_and_others_go_on() {
        let plan = Plan::default().next(&pods(&["old"]), &World::default(), |_| None);
        assert!(plan.settled.contains("old") && plan.rules["old"].allow_everything());
        let plan = plan.next(&pods(&["old", "new"]), &from_pods(), |_| None);
        assert_eq!(plan.settled, ["old".to_owned()].into());
        assert!(plan.rules["old"].allow_everything(), "what held before");
        assert!(plan.rules["new"].ingress.is_some() && plan.warnings.is_empty());
        let away = Trouble { message: "connection refused".to_owned(), is_forbidden: false };
        let plan = plan.next(&pods(&["old", "new"]), &from_pods(), |_| Some(away.clone()));
        assert_eq!((plan.settled.len(), plan.waiting.as_str()), (1, "connection refused"));

        let mut read = from_pods();
        let scopes = read.demand(pods(&["old"]).values().map(AsRef::as_ref)).scopes;
        read.peers = scopes.into_iter().map(|scope| (scope, Arc::default())).collect();
        let plan = plan.next(&pods(&["old", "new"]), &read, |_| None);
        assert_eq!((plan.settled.len(), plan.rules.len(), plan.waiting.as_str()), (2, 2, ""));
        let plan = plan.next(&pods(&["new"]), &World::default(), |_| None);
        assert_eq!((plan.settled.len(), plan.rules.len()), (1, 1), "a pod is gone");
        assert!(plan.rules["new"].allow_everything(), "so is the policy");
    }

    #[test]
    fn what_the_node_may_not_read_allows_nobody_and_is_told() {
        let plan = Plan::default().next(&pods(&["u"]), &from_pods(), |_| Some(forbidden()));
        let rules = plan.rules["u"].clone();
        assert!(!rules.may_come("192.0.2.1".parse().unwrap(), kubewasm_rules::Protocol::Tcp, 80));
        assert!(plan.settled.contains("u"));
        let warning = &plan.warnings["u"];
        assert!(
            warning.contains("ns/p (pods is forbidden)") && warning.contains("kubewasm-network-policies")
        );
    }

    #[test]
    fn without_the_right_to_read_policies_none_is_enforced_and_that_is_told() {
        let plan = Plan::default().unread(&pods(&["u"]), None);
        assert_eq!(plan, Plan::default());
        let plan = Plan::unenforced(&pods(&["u"]), &forbidden());
        assert!(plan.settled.contains("u") && plan.rules["u"].allow_everything());
        assert!(
            plan.warnings["u"]
                .starts_with("NetworkPolicies are not enforced for this pod: pods is forbidden")
        );
        let plan = plan.unread(&pods(&["u", "v"]), Some(&forbidden()));
        assert_eq!((plan.settled.len(), plan.waiting.as_str()), (1, "pods is forbidden"));
        assert!(!plan.rules.contains_key("v"), "an earlier agent may have told of it");
    }
}
