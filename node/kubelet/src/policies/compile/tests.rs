//! NetworkPolicies against what is reached with them, in a cluster of a few pods. What rules are made from is asked for as
//! the keeper asks: what is not followed is not there.

mod oracle;
mod tables;

use serde_json::{Value, json};

use super::*;
use crate::policies::{
    policy::Labels,
    world::{Demand, PodScope},
};

/// A pod of the test's cluster.
#[derive(Clone, Debug)]
struct TestPod {
    namespace: String,
    name: String,
    labels: Labels,
    ip: IpAddr,
    /// Named ports: TCP.
    ports: Vec<(String, u16)>,
}

/// The test's cluster.
#[derive(Clone, Debug, Default)]
struct Cluster {
    namespaces: BTreeMap<String, Labels>,
    pods: Vec<TestPod>,
    /// Namespace, and the policy's spec.
    policies: Vec<(String, Value)>,
}

/// `a=1 b=2`
fn labels(text: &str) -> Labels {
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl TestPod {
    fn json(&self) -> Value {
        let port = |(name, number): &(String, u16)| json!({"name": name, "containerPort": number});
        let ports: Vec<_> = self.ports.iter().map(port).collect();
        json!({
            "metadata": {"namespace": self.namespace, "name": self.name, "uid": self.name, "labels": self.labels},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": ports}]},
        })
    }

    fn local(&self) -> LocalPod {
        LocalPod::of(&serde_json::from_value(self.json()).unwrap(), &Default::default())
    }

    fn peer(&self) -> PeerPod {
        PeerPod { namespace: self.namespace.clone(), ips: vec![self.ip], ports: self.local().ports }
    }
}

impl Cluster {
    /// Pods are `namespace/name labels…`, with addresses 10.0.0.1, .2, and so on, and a port `web`, 8000 and so on.
    fn new(namespaces: &[(&str, &str)], pods: &[&str]) -> Self {
        let pod = |(index, text): (u8, &&str)| {
            let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
            let (namespace, name) = name.split_once('/').unwrap();
            TestPod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                labels: labels(rest),
                ip: IpAddr::from([10, 0, 0, index]),
                ports: vec![("web".to_owned(), 8000 + u16::from(index))],
            }
        };
        Self {
            namespaces: namespaces.iter().map(|(name, text)| ((*name).to_owned(), labels(text))).collect(),
            pods: (1..).zip(pods).map(pod).collect(),
            policies: Vec::new(),
        }
    }

    fn with(mut self, namespace: &str, spec: Value) -> Self {
        self.policies.push((namespace.to_owned(), spec));
        self
    }

    fn pod(&self, name: &str) -> &TestPod {
        self.pods.iter().find(|pod| pod.name == name).unwrap()
    }

    /// What is known when all that is asked for by these pods has been read, and what was asked for.
    fn world(&self, local: &[LocalPod]) -> (World, Demand) {
        let mut world = World::default();
        for (index, (namespace, spec)) in self.policies.iter().enumerate() {
            let object =
                json!({"metadata": {"namespace": namespace, "name": format!("p{index}")}, "spec": spec});
            let policy = Policy::of(&serde_json::from_value(object).unwrap());
            world.policies.entry(namespace.clone()).or_default().push(Arc::new(policy));
        }
        loop {
            let demand = world.demand(local);
            let is_met = demand.namespaces == world.namespaces.is_some()
                && demand.scopes.iter().all(|scope| world.peers.contains_key(scope));
            if is_met {
                return (world, demand);
            }
            world.namespaces = demand.namespaces.then(|| Arc::new(self.namespaces.clone()));
            for scope in world.demand(local).scopes {
                let pods = self.pods.iter().filter(|pod| scope.has(pod));
                let pods = pods.map(|pod| (pod.name.clone(), pod.peer())).collect();
                world.peers.insert(scope, Arc::new(pods));
            }
        }
    }

    /// The rules of a pod.
    fn rules(&self, name: &str) -> PodRules {
        let pod = self.pod(name).local();
        let (world, _) = self.world(std::slice::from_ref(&pod));
        let Compiled { rules, missing } = Compiler::new(&world).rules(&pod);
        assert_eq!(missing, BTreeMap::new());
        rules
    }

    /// Whether one pod may connect to a port of another, by the rules of both.
    fn reaches(&self, from: &str, to: &str, port: u16) -> bool {
        let (source, target) = (self.pod(from).ip, self.pod(to).ip);
        self.rules(to).may_come(source, Protocol::Tcp, port)
            && self.rules(from).may_go((target, port).into(), Protocol::Tcp)
    }

    /// Who reaches a port of a pod, of those of other names.
    fn who_reaches(&self, to: &str, port: u16) -> String {
        let others = self.pods.iter().filter(|pod| pod.name != to && self.reaches(&pod.name, to, port));
        others.map(|pod| pod.name.as_str()).collect::<Vec<_>>().join(" ")
    }
}

impl PodScope {
    /// What the API server would say.
    fn has(&self, pod: &TestPod) -> bool {
        let is_here = self.namespace.as_ref().is_none_or(|namespace| *namespace == pod.namespace);
        is_here
            && self.selector.split(',').filter(|term| !term.is_empty()).all(|term| selects(term, &pod.labels))
    }
}

/// A term of a selector as it is written in a query; without sets.
fn selects(term: &str, labels: &Labels) -> bool {
    match (term.strip_prefix('!'), term.split_once('=')) {
        (Some(key), _) => !labels.contains_key(key),
        (None, Some((key, value))) => labels.get(key).is_some_and(|label| label == value),
        (None, None) => labels.contains_key(term),
    }
}
