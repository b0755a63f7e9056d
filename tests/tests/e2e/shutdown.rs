//! The machine is shut down: pods end before it does. A real D-Bus, and a logind of ours on it.

use std::{path::PathBuf, process::Stdio, time::Duration};

use k8s_openapi::api::core::v1::{Event, Node as NodeObject, Pod};
use kube::{Api, Client, api::ListParams};
use kubewasm_tests::{
    cluster::programs,
    guests,
    node::{Node, Options},
    process::find_program,
    wait,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{
    pods::{Pods, is, phase, running},
    status::{self, end},
    suite::{SOON, await_ready, own_node, suite, with_temp_ns},
};

const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Everybody may say anything here.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>ADDRESS</listen>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// A bus with a logind. Both end when this is dropped.
struct Logind {
    address: String,
    _bus: Child,
    _logind: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Logind {
    async fn start() -> Self {
        let folder = suite().await.home.folder("logind").unwrap();
        let address = format!("unix:path={}", folder.join("bus").display());
        let config: PathBuf = folder.join("bus.conf");
        std::fs::write(&config, BUS.replace("ADDRESS", &address)).unwrap();
        let daemon = find_program("dbus-daemon").expect("scripts/setup.sh installs dbus-daemon");
        let mut bus = Command::new(daemon)
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // It says where it listens when it does.
        BufReader::new(bus.stdout.take().unwrap()).lines().next_line().await.unwrap();
        let python = programs::build("tools/logind/build.sh").await.unwrap();
        let mut logind = Command::new(python)
            .arg(guests::repository().join("tests/tools/logind/logind.py"))
            .envs([("DBUS_SYSTEM_BUS_ADDRESS", address.as_str()), ("INHIBIT_DELAY_MAX_SECONDS", "60")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (logind.stdin.take().unwrap(), logind.stdout.take().unwrap());
        let output = BufReader::new(output).lines();
        let mut started = Self { address, _bus: bus, _logind: logind, input, output };
        started.says("ready").await;
        started
    }

    async fn tell(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next thing that happens to it is this.
    async fn says(&mut self, expected: &str) {
        let line = tokio::time::timeout(SOON, self.output.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("it does not say {expected:?}")).unwrap();
        assert_eq!(line.as_deref(), Some(expected));
    }
}

/// A pod that is told to end and does not; its container is ended when its grace is over.
async fn stubborn(node: &Node, more: Value) -> Value {
    let mut spec = json!({
        "nodeSelector": { "kubernetes.io/hostname": node.name() },
        "terminationGracePeriodSeconds": 3,
        "containers": [{
            "name": "main", "image": suite().await.actor.tagged, "args": ["sleep", "600"],
            "env": [{ "name": "KUBEWASM_STOP_NOTICE", "value": "stdin" }],
        }],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// Pods end by priority, each with its grace, before the machine goes on to shut down; the node says so, and takes no others. A
/// shutdown that is called off is the end of that. Who is not logind is not believed.
#[tokio::test]
async fn pods_end_before_the_machine_does() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut logind = Logind::start().await;
        let options = Options::default()
            .env("DBUS_SYSTEM_BUS_ADDRESS", &logind.address)
            .config("shutdownGracePeriod", json!("50s"))
            .config("shutdownGracePeriodCriticalPods", json!("20s"));
        let node = own_node("closing-node", &options).await;
        logind.says("inhibited shutdown delay").await;
        pods.create("web", stubborn(&node, json!({})).await).await;
        let critical = json!({ "priorityClassName": "system-node-critical" });
        pods.create("critical", stubborn(&node, critical).await).await;
        for name in ["web", "critical"] {
            pods.until(name, "running", running).await;
        }

        logind.tell("forge").await;
        logind.says("forged").await;
        let log = suite().await.home.log(node.name());
        wait::until("the forged signal to be noticed", SOON, async || {
            let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
            let noticed = text.contains("somebody who is not logind tells of a shutdown");
            if noticed { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await
        .unwrap();
        for name in ["web", "critical"] {
            assert_eq!(phase(&pods.api().get(name).await.unwrap()), "Running");
        }

        logind.tell("shutdown").await;
        let text = "node is shutting down";
        ready(&client, node.name(), "False", "KubeletNotReady", text).await;
        let ends = |pod: &Pod| end(pod, "main").unwrap().finished_at.clone().unwrap().0;
        let mut ended = Vec::new();
        for name in ["web", "critical"] {
            let pod = pods.phase(name, "Failed").await;
            let status = pod.status.as_ref().unwrap();
            assert_eq!(
                (status.reason.as_deref(), status.message.as_deref()),
                (Some("Terminated"), Some(MESSAGE))
            );
            assert!(is(&pod, "DisruptionTarget"));
            let (_, reason, message) = status::condition(&pod, "DisruptionTarget");
            assert_eq!((reason, message), ("TerminationByKubelet", MESSAGE));
            ended.push(ends(&pod));
        }
        let between = ended[1].duration_since(ended[0]);
        assert!(between.as_secs() >= 2, "the critical pod has ended after {between}, with its own grace");
        logind.says("released").await;

        // Bound by hand: the scheduler does not give it any.
        let late = json!({ "nodeName": node.name(), "tolerations": [{ "operator": "Exists" }] });
        pods.create("late", stubborn(&node, late).await).await;
        let pod = pods.phase("late", "Failed").await;
        let status = pod.status.as_ref().unwrap();
        let rejected = "Pod was rejected: Pod was rejected as the node is shutting down.";
        assert_eq!(
            (status.reason.as_deref(), status.message.as_deref()),
            (Some("NodeShutdown"), Some(rejected))
        );

        logind.tell("cancel").await;
        logind.says("inhibited shutdown delay").await;
        await_ready(&client, node.name()).await.unwrap();
        pods.create("next", stubborn(&node, json!({})).await).await;
        pods.until("next", "running", running).await;
        for what in ["event", "cancellation"] {
            told(&client, node.name(), &format!("Shutdown manager detected shutdown {what}")).await;
        }
    })
    .await;
}

/// Waits for the condition `Ready` of a node, whose message begins like this.
pub(crate) async fn ready(client: &Client, node: &str, status: &str, reason: &str, message: &str) {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let says = |node: &NodeObject| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.filter(|condition| condition.type_ == "Ready").any(|condition| {
            condition.status == status
                && condition.reason.as_deref() == Some(reason)
                && condition.message.as_deref().is_some_and(|text| text.starts_with(message))
        })
    };
    let what = format!("Ready {status}: {message}");
    wait::object(nodes, node, &what, SOON, |node| node.is_some_and(says)).await.unwrap();
}

/// Waits for an Event of a node.
async fn told(client: &Client, node: &str, message: &str) {
    let events: Api<Event> = Api::default_namespaced(client.clone());
    let about = ListParams::default().fields(&format!("involvedObject.name={node},reason=Shutdown"));
    wait::until(message, Duration::from_secs(30), async || {
        let seen = events.list(&about).await.map_err(|error| error.to_string())?.items;
        let says = |event: &Event| event.message.as_deref() == Some(message);
        if seen.iter().any(says) { Ok(()) } else { Err(format!("{} others", seen.len())) }
    })
    .await
    .unwrap();
}
