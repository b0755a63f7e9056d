//! The rules of all pods of a host, and the firewalls of those that have guests.
//!
//! Rules come as a table with numbers, which the entries of pods name: what holds for a thousand pods is there once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kubewasm_rules::{PodRules, Rule};

use super::firewall::{Firewall, Refusals};

/// Firewalls without guests that are kept, because of what they have refused.
const IDLE: usize = 1024;

/// The firewalls of a host, by pod.
#[derive(Debug, Default)]
pub struct Firewalls(Mutex<FirewallTable>);

#[derive(Debug, Default)]
struct FirewallTable {
    rules: HashMap<u64, Arc<Rule>>,
    pods: HashMap<String, PodRuleKeys>,
    /// Those of pods that have guests, or had some and may have others.
    live: HashMap<String, Arc<Firewall>>,
    /// With how many of them it is looked which have guests.
    sweep_at: usize,
}

/// The rules of a pod, by their numbers. As with [`PodRules`], `None` is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRuleKeys {
    /// What may come in.
    pub ingress: Option<Vec<u64>>,
    /// What may go out.
    pub egress: Option<Vec<u64>>,
}

/// A change of the rules. A pod that is in none keeps what held for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleChanges {
    /// Rules that are new, with their numbers.
    pub rules: Vec<(u64, Rule)>,
    /// Numbers of those that nobody names any more.
    pub removed_rules: Vec<u64>,
    /// What holds for pods from now on.
    pub pods: Vec<(String, PodRuleKeys)>,
    /// Pods that are gone.
    pub removed_pods: Vec<String>,
}

impl Firewalls {
    fn table(&self) -> MutexGuard<'_, FirewallTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That of a pod: one for all of its guests.
    pub fn of(&self, pod: &str) -> Arc<Firewall> {
        let mut table = self.table();
        if let Some(firewall) = table.live.get(pod) {
            return Arc::clone(firewall);
        }
        let firewall = Arc::new(Firewall::default());
        if let Some(keys) = table.pods.get(pod) {
            firewall.set(Arc::new(table.resolve(keys)));
        }
        if table.live.len() >= table.sweep_at {
            table.live.retain(|_, firewall| Arc::strong_count(firewall) > 1);
            table.sweep_at = table.live.len().saturating_mul(2).max(IDLE);
        }
        table.live.insert(pod.to_owned(), Arc::clone(&firewall));
        firewall
    }

    /// Applies a change. `is_whole`: there are no other rules than these.
    pub fn apply(&self, changes: RuleChanges, is_whole: bool) {
        let RuleChanges { rules, removed_rules, pods, removed_pods } = changes;
        let mut table = self.table();
        if is_whole {
            table.rules.clear();
            table.pods.clear();
        }
        table.rules.extend(rules.into_iter().map(|(number, rule)| (number, Arc::new(rule))));
        for (pod, keys) in pods {
            if let Some(firewall) = table.live.get(&pod) {
                firewall.set(Arc::new(table.resolve(&keys)));
            }
            table.pods.insert(pod, keys);
        }
        for pod in &removed_pods {
            table.pods.remove(pod);
            if table.live.get(pod).is_some_and(|firewall| Arc::strong_count(firewall) == 1) {
                table.live.remove(pod);
            }
        }
        for number in &removed_rules {
            table.rules.remove(number);
        }
    }

    /// What was refused of pods, of those of which something was.
    pub fn refusals(&self) -> Vec<(String, Refusals)> {
        let table = self.table();
        let all = table.live.iter().map(|(pod, firewall)| (pod.clone(), firewall.refusals()));
        all.filter(|(_, refusals)| refusals.ingress + refusals.egress > 0).collect()
    }
}

impl FirewallTable {
    /// A rule that is not there allows nothing.
    fn resolve(&self, keys: &PodRuleKeys) -> PodRules {
        let all = |keys: &Option<Vec<u64>>| {
            let keys = keys.as_ref()?;
            Some(keys.iter().filter_map(|key| self.rules.get(key).cloned()).collect())
        };
        PodRules { ingress: all(&keys.ingress), egress: all(&keys.egress) }
    }
}

#[cfg(test)]
mod tests {
    use kubewasm_rules::{Peers, Ports, Protocol};

    use super::*;

    fn everything() -> Rule {
        Rule { peers: Peers::Any, ports: Ports::Any }
    }

    fn may_come(firewall: &Firewall) -> bool {
        firewall.rules().may_come("192.0.2.1".parse().unwrap(), Protocol::Tcp, 80)
    }

    fn of_pod(pod: &str, ingress: Option<Vec<u64>>) -> Vec<(String, PodRuleKeys)> {
        vec![(pod.to_owned(), PodRuleKeys { ingress, egress: None })]
    }

    #[test]
    fn rules_hold_for_guests_that_run_and_for_those_that_come() {
        let firewalls = Firewalls::default();
        let one = firewalls.of("one");
        assert!(may_come(&one), "nothing is said of it");
        let mut pods = of_pod("one", Some(Vec::new()));
        pods.extend(of_pod("other", Some(vec![7])));
        let changes = RuleChanges { rules: vec![(7, everything())], pods, ..RuleChanges::default() };
        firewalls.apply(changes, true);
        let other = firewalls.of("other");
        assert!(!may_come(&one) && may_come(&other));
        assert!(Arc::ptr_eq(&one, &firewalls.of("one")));
        let changes = RuleChanges {
            pods: of_pod("one", Some(vec![7])),
            removed_pods: vec!["other".to_owned()],
            ..RuleChanges::default()
        };
        firewalls.apply(changes, false);
        assert!(may_come(&one) && may_come(&other));
        firewalls.apply(RuleChanges { pods: of_pod("one", Some(vec![8])), ..RuleChanges::default() }, false);
        assert!(!may_come(&one), "a rule that is not there allows nothing");
    }

    /// Another agent has not heard of a pod yet that runs.
    #[test]
    fn who_is_not_named_keeps_what_held() {
        let firewalls = Firewalls::default();
        let one = firewalls.of("one");
        firewalls
            .apply(RuleChanges { pods: of_pod("one", Some(Vec::new())), ..RuleChanges::default() }, true);
        firewalls.apply(RuleChanges::default(), true);
        assert!(!may_come(&one));
        assert!(Arc::ptr_eq(&one, &firewalls.of("one")));
        drop(one);
        let removed_pods = vec!["one".to_owned()];
        firewalls.apply(RuleChanges { removed_pods, ..RuleChanges::default() }, false);
        assert!(may_come(&firewalls.of("one")), "its guests are gone, and so is what is known of it");
        assert_eq!(firewalls.refusals(), []);
    }

    #[test]
    fn firewalls_without_guests_do_not_pile_up() {
        let firewalls = Firewalls::default();
        let kept: Vec<_> = (0..10).map(|n| firewalls.of(&format!("kept {n}"))).collect();
        for n in 0..10 * IDLE {
            firewalls.of(&n.to_string());
        }
        assert!(firewalls.table().live.len() <= IDLE + kept.len());
        assert!(
            kept.iter().enumerate().all(|(n, one)| Arc::ptr_eq(one, &firewalls.of(&format!("kept {n}"))))
        );
    }
}
