//! Pods whose networks the provider makes.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;

/// The networks of a provider that answers as it is told to.
#[derive(Debug)]
pub(super) struct Networks {
    answers: Mutex<VecDeque<Result<SandboxAddresses, SandboxError>>>,
    /// Those that cannot be taken away from now on, each once.
    staying: Mutex<Vec<String>>,
    /// The next container does not start, because that of its pod is gone.
    is_gone: AtomicBool,
    /// UIDs of pods that have one.
    pub(super) made: watch::Sender<Vec<String>>,
}

impl Default for Networks {
    fn default() -> Self {
        let (made, _) = watch::channel(Vec::new());
        Self { answers: Mutex::default(), staying: Mutex::default(), is_gone: AtomicBool::default(), made }
    }
}

impl Networks {
    pub(super) fn start(&self) -> Result<(), StartError> {
        let is_gone = self.is_gone.swap(false, Ordering::SeqCst);
        if is_gone { Err(StartError::Run("the network namespace is gone".into())) } else { Ok(()) }
    }

    pub(super) fn set_up(&self, sandbox: &PodSandbox) -> Result<SandboxAddresses, SandboxError> {
        let none = || Err(SandboxError::Failed("it was not told to make one".into()));
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or_else(none)?;
        self.made.send_modify(|made| made.push(sandbox.pod_uid.clone()));
        Ok(answer)
    }

    pub(super) fn tear_down(&self, uid: &str) -> Result<(), RuntimeError> {
        let mut staying = self.staying.lock().unwrap();
        if let Some(index) = staying.iter().position(|other| other == uid) {
            staying.remove(index);
            return Err(RuntimeError("a plugin does not let go of it".into()));
        }
        self.made.send_modify(|made| made.retain(|other| other != uid));
        Ok(())
    }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn world(answers: impl IntoIterator<Item = Result<SandboxAddresses, SandboxError>>) -> World {
    let world = World::with_addresses(&[], false, PodAddresses::of_sandboxes());
    *world.api.services.lock().unwrap() = Some(Vec::new());
    world.node.send_replace(NodeFacts { host_ips: ips(&["192.0.2.1"]), ..NodeFacts::default() });
    *world.runtime.networks.answers.lock().unwrap() = answers.into_iter().collect();
    world
}

fn made(addresses: &[&str]) -> Result<SandboxAddresses, SandboxError> {
    Ok(SandboxAddresses { addresses: ips(addresses), was_lost: false })
}

/// Nothing of a pod begins before its network is there, and the network goes when nothing of the pod runs any more.
#[tokio::test]
async fn a_pod_waits_for_its_network_and_says_why() {
    let not_ready = Err(SandboxError::NotReady("cni plugin not initialized".into()));
    let mut world =
        world([not_ready, Err(SandboxError::Failed("no luck".into())), made(&["fd00::5", "10.0.0.5"])]);
    let waiting = pod("waiting", "waiting", json!({}));
    world.set(waiting.clone()).await;
    assert_eq!(
        world.event("waiting", "NetworkNotReady").await,
        "network is not ready: container runtime network not ready: NetworkReady=false \
         reason:NetworkPluginNotReady message:cni plugin not initialized"
    );
    let message = world.event("waiting", "FailedCreatePodSandBox").await;
    assert_eq!(message, "Failed to create pod sandbox: no luck");
    assert_eq!(world.runtime.started.lock().unwrap().len(), 0);
    world.told("waiting", "Running").await;
    let written = world.written.borrow().clone();
    let conditions = |status: &PodStatus| {
        let all = status.conditions.clone().unwrap_or_default();
        all.into_iter().find(|c| c.type_ == "PodReadyToStartContainers").map(|c| c.status)
    };
    assert_eq!(conditions(&written[0].1).as_deref(), Some("False"));
    let (_, status) = written.last().unwrap();
    let seen: Vec<_> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    assert_eq!(
        (seen.as_slice(), status.host_ip.as_deref()),
        (&["fd00::5", "10.0.0.5"][..], Some("192.0.2.1"))
    );
    assert_eq!(conditions(status).as_deref(), Some("True"));

    world.runtime.networks.staying.lock().unwrap().push("waiting".to_owned());
    world.delete(waiting).await;
    let mut stopped = world.runtime.stopped.subscribe();
    tokio::time::timeout(PATIENCE, stopped.wait_for(|all| !all.is_empty())).await.unwrap().unwrap();
    assert_eq!(*world.runtime.networks.made.borrow(), ["waiting"], "it still runs");
    world.let_end("waiting").await;
    let message = world.event("waiting", "FailedKillPod").await;
    assert_eq!(
        message,
        "error killing pod: failed to \"KillPodSandbox\" for \"waiting\" with KillPodSandboxError: \
         \"a plugin does not let go of it\""
    );
    world.let_go().await;
    assert_eq!(*world.runtime.networks.made.borrow(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_of_the_nodes_network_gets_none() {
    let mut world = world([]);
    let mut host = pod("host", "host", json!({}));
    host["spec"]["hostNetwork"] = json!(true);
    world.set(host).await;
    world.told("host", "Running").await;
    let (_, status) = world.written.borrow().last().cloned().unwrap();
    assert_eq!(status.pod_ip.as_deref(), Some("192.0.2.1"));
}

/// A network that was lost is made anew, with other addresses, as those of the pod that has run before.
#[tokio::test]
async fn a_pod_whose_network_was_lost_has_another_one() {
    let lost = Ok(SandboxAddresses { addresses: ips(&["10.0.0.6"]), was_lost: true });
    let mut world = world([lost]);
    let old = PodState { addresses: ips(&["10.0.0.5"]), ..PodState::default() };
    world.records.save("old", &old, false, clock::now()).unwrap();
    world.set(pod("old", "old", json!({}))).await;
    let message = world.event("old", "SandboxChanged").await;
    assert_eq!(message, "Pod sandbox changed, it will be killed and re-created.");
    world.told("old", "Running").await;
    assert_eq!(world.records.load("old", clock::now()).unwrap().unwrap().addresses, ips(&["10.0.0.6"]));
}

/// The provider is asked again when something could not be started, and only then.
#[tokio::test]
async fn a_start_that_fails_is_a_reason_to_look_for_the_network() {
    let lost = Ok(SandboxAddresses { addresses: ips(&["10.0.0.6"]), was_lost: true });
    let mut world = world([made(&["10.0.0.5"]), lost]);
    world.runtime.networks.is_gone.store(true, Ordering::SeqCst);
    world.set(pod("p", "p", json!({}))).await;
    world.event("p", "SandboxChanged").await;
    assert_eq!(world.runtime.started.lock().unwrap().len(), 1, "and nothing is started meanwhile");
    assert_eq!(world.runtime.networks.made.borrow().len(), 2);
    world.told("p", "Running").await;
}

/// An agent was killed before it had a record of the pod, and the pod is gone.
#[tokio::test]
async fn a_network_of_a_pod_that_nobody_knows_is_taken_away() {
    let world = world([]);
    let networks = &world.runtime.networks.made;
    networks.send_replace(vec!["nobodys".to_owned()]);
    world.synced(PodSource::Api, &[]).await;
    world.synced(PodSource::File, &[]).await;
    let mut left = networks.subscribe();
    tokio::time::timeout(PATIENCE, left.wait_for(Vec::is_empty)).await.unwrap().unwrap();
}
