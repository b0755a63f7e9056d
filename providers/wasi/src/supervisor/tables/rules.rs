//! The rules of pods, as entries of tables. What many pods share is one entry, with a number.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use kubewasm_host::PodRuleKeys;
use kubewasm_kubelet::runtime::NetworkRules;
use kubewasm_rules::{Addresses, Peers, Ports, Rule};

use super::LoggedTable;
use crate::protocol::OutgoingRules;

/// The newest rules, and how they have come about.
#[derive(Debug, Default)]
pub(super) struct RuleLog {
    /// Of those that some pod has.
    numbers: HashMap<Arc<Rule>, u64>,
    last: u64,
    rules: LoggedTable<Rule>,
    pods: LoggedTable<PodRuleKeys>,
}

impl RuleLog {
    /// Makes these the rules of pods, at a revision. A pod and its node reach each other. False when they were these before.
    pub(super) fn set(&mut self, rules: &NetworkRules, node: Addresses, revision: u64) -> bool {
        let node = Arc::new(Rule { peers: Peers::These(node), ports: Ports::Any });
        let before = std::mem::take(&mut self.numbers);
        let (mut rule_table, mut pod_table) = (BTreeMap::new(), BTreeMap::new());
        for (pod, rules) in rules {
            let mut keys = |rules: &Option<Vec<Arc<Rule>>>| {
                let rules = rules.as_ref()?.iter().chain([&node]);
                let keys = rules.map(|rule| {
                    let number = self.numbers.get(rule).copied().unwrap_or_else(|| {
                        let number = before.get(rule).copied().unwrap_or_else(|| {
                            self.last += 1;
                            self.last
                        });
                        self.numbers.insert(Arc::clone(rule), number);
                        number
                    });
                    rule_table.entry(number.to_string()).or_insert_with(|| Arc::clone(rule));
                    number
                });
                Some(keys.collect())
            };
            let keys = PodRuleKeys { ingress: keys(&rules.ingress), egress: keys(&rules.egress) };
            pod_table.insert(pod.clone(), Arc::new(keys));
        }
        let rules_changed = self.rules.set(&rule_table, revision);
        self.pods.set(&pod_table, revision) || rules_changed
    }

    /// Whether all removals since a revision are known.
    pub(super) fn remembers(&self, base: u64) -> bool {
        self.rules.remembers(base) && self.pods.remembers(base)
    }

    /// What has changed since a revision; everything since none.
    pub(super) fn since(&self, base: Option<u64>) -> OutgoingRules {
        let ((rules, removed_rules), (pods, removed_pods)) = (self.rules.since(base), self.pods.since(base));
        OutgoingRules { rules, removed_rules, pods, removed_pods }
    }
}

#[cfg(test)]
mod tests {
    use kubewasm_rules::{PodRules, PortRange, Protocol};

    use super::*;

    fn rule(port: u16) -> Arc<Rule> {
        let range = PortRange { protocol: Protocol::Tcp, first: port, last: port };
        Arc::new(Rule { peers: Peers::Any, ports: Ports::These(vec![range]) })
    }

    fn node() -> Addresses {
        std::iter::once("192.0.2.1".parse::<std::net::IpAddr>().unwrap()).collect()
    }

    fn pods(all: &[(&str, Option<&[u16]>)]) -> NetworkRules {
        let rules = |ports: &[u16]| ports.iter().copied().map(rule).collect();
        let pod = |ports: &Option<&[u16]>| Arc::new(PodRules { ingress: ports.map(rules), egress: None });
        all.iter().map(|(uid, ports)| ((*uid).to_owned(), pod(ports))).collect()
    }

    /// Rules that are set, numbers of those that are removed, and the rules of pods.
    type Told = (Vec<(String, u16)>, Vec<String>, Vec<(String, Vec<u64>)>);

    /// Rules by their numbers and the ports that they are about; 0 is the node's.
    fn told(log: &RuleLog, base: Option<u64>) -> Told {
        let OutgoingRules { rules, removed_rules, pods, .. } = log.since(base);
        let port = |rule: &Rule| match &rule.ports {
            Ports::These(ranges) => ranges[0].first,
            Ports::Any => 0,
        };
        let rules = rules.iter().map(|(number, rule)| (number.clone(), port(rule))).collect();
        let pods = pods.iter().map(|(pod, keys)| (pod.clone(), keys.ingress.clone().unwrap_or_default()));
        (rules, removed_rules, pods.collect())
    }

    #[test]
    fn equal_rules_are_told_once_and_what_has_not_changed_is_not_told_again() {
        let numbered =
            |all: &[(u64, u16)]| all.iter().map(|(n, port)| (n.to_string(), *port)).collect::<Vec<_>>();
        let of_pods = |all: &[(&str, &[u64])]| {
            all.iter().map(|(pod, keys)| ((*pod).to_owned(), keys.to_vec())).collect::<Vec<_>>()
        };
        let mut log = RuleLog::default();
        assert!(log.set(&pods(&[("a", Some(&[80])), ("b", Some(&[80, 81])), ("c", None)]), node(), 1));
        let expected = (
            numbered(&[(1, 80), (2, 0), (3, 81)]),
            Vec::new(),
            of_pods(&[("a", &[1, 2]), ("b", &[1, 3, 2]), ("c", &[])]),
        );
        assert_eq!(told(&log, None), expected);
        assert!(!log.set(&pods(&[("a", Some(&[80])), ("b", Some(&[80, 81])), ("c", None)]), node(), 2));
        assert!(log.set(&pods(&[("a", Some(&[80])), ("b", Some(&[82])), ("c", None)]), node(), 2));
        let expected = (numbered(&[(4, 82)]), vec!["3".to_owned()], of_pods(&[("b", &[4, 2])]));
        assert_eq!(told(&log, Some(1)), expected);
        assert!(log.remembers(1));
        assert!(log.set(&pods(&[("a", Some(&[80]))]), Addresses::default(), 3), "the node's have changed");
        assert_eq!(log.since(Some(2)).removed_pods.len(), 2);
    }
}
