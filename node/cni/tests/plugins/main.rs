//! Sandboxes of the reference plugins (bridge, host-local, portmap, firewall, bandwidth), on a node of each test's own. Shell scripts
//! in their chain do what no plugin of good standing does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::{fs, net::SocketAddr, process::Command, time::Duration};

use kubewasm_cni::{Bandwidth, PortMapping, SandboxError};
use kubewasm_network::pinned;
use serde_json::{Value, json};

use world::{NETWORK, NODE_IP, World, ask, ask_from, on_node, request, serve};

const A: &str = "uid-of-a";
const B: &str = "uid-of-b";

fn texts(addresses: &[std::net::IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// Waits for what happens beside the test.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited)
        .await
        .unwrap_or_else(|_| panic!("{what} does not come"));
}

#[test]
fn pods_have_addresses_ports_and_a_loopback_of_their_own() {
    on_node(async |world| {
        let portmap =
            json!({ "type": "portmap", "backend": "nftables", "capabilities": { "portMappings": true } });
        world.configure(NETWORK, "1.0.0", &[world.bridge(), portmap]);
        let agent = world.agent().await;
        assert_eq!(agent.problem().await, None);
        let port = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: "tcp".to_owned(),
            host_ip: String::new(),
        };
        let mut with_port = request("a");
        with_port.port_mappings = vec![port];
        let a = agent.set_up(with_port).await.unwrap();
        let b = agent.set_up(request("b")).await.unwrap();
        assert_eq!(texts(&a), ["10.89.0.2", "fd00:89::2"]);
        assert_eq!(texts(&b), ["10.89.0.3", "fd00:89::3"]);
        serve(&agent, A, 80, "a");
        serve(&agent, B, 80, "b");
        for (addresses, name) in [(&a, "a"), (&b, "b")] {
            for ip in addresses {
                assert_eq!(ask(SocketAddr::new(*ip, 80)).unwrap(), name, "from the node");
                assert_eq!(ask_from(&agent, A, SocketAddr::new(*ip, 80)).unwrap(), name, "from a pod");
            }
        }
        assert_eq!(ask_from(&agent, B, ([127, 0, 0, 1], 80).into()).unwrap(), "b");
        assert_eq!(
            ask(SocketAddr::new(NODE_IP.parse().unwrap(), 8080)).unwrap(),
            "a",
            "by the port of the node"
        );

        for uid in [A, B] {
            agent.tear_down(uid).await.unwrap();
            agent.tear_down(uid).await.unwrap();
            assert_eq!(agent.namespace_of(uid), None);
        }
        world.assert_empty();
        assert_eq!(agent.pods(), Vec::<String>::new());
        assert!(ask(SocketAddr::new(NODE_IP.parse().unwrap(), 8080)).is_err());
    });
}

#[test]
fn the_next_agent_finds_what_is_there() {
    on_node(async |world| {
        world.script("look", "");
        world.configure(NETWORK, "1.0.0", &[world.bridge(), json!({ "type": "look" })]);
        let first = world.agent().await;
        let addresses = first.set_up(request("a")).await.unwrap();
        let namespace = first.namespace_of(A).unwrap();
        drop(first);
        let next = world.agent().await;
        assert_eq!((next.pods(), next.namespace_of(A)), (vec![A.to_owned()], None));
        assert!(!next.is_lost(A).await.unwrap());
        assert_eq!(next.addresses_of(A), [] as [std::net::IpAddr; 0]);
        assert_eq!(next.set_up(request("a")).await.unwrap(), addresses);
        assert_eq!((next.namespace_of(A), next.addresses_of(A)), (Some(namespace), addresses.clone()));
        until("a look at what is there", || world.asked("look") == ["ADD", "CHECK"]).await;
        assert_eq!(next.set_up(request("a")).await.unwrap(), addresses);
        assert_eq!(world.leases(NETWORK).len(), 2);
        // Without an agent that has seen it.
        world.agent().await.tear_down(A).await.unwrap();
        world.assert_empty();
        assert_eq!(world.asked("look"), ["ADD", "CHECK", "DEL"], "one look for each agent");
    });
}

/// What is written down of a sandbox.
fn record(world: &World) -> std::path::PathBuf {
    let files = world.files(&world.options.state_dir);
    assert_eq!(files.len(), 1, "{files:?}");
    world.options.state_dir.join(&files[0])
}

/// An agent that was killed after the plugins had done their work has not written down what came of it.
#[test]
fn what_was_begun_by_an_agent_that_is_gone_is_removed_and_made_anew() {
    on_node(async |world| {
        world.script("look", "");
        world.configure(NETWORK, "1.0.0", &[world.bridge(), json!({ "type": "look" })]);
        world.agent().await.set_up(request("a")).await.unwrap();
        let mut text: Value = serde_json::from_slice(&fs::read(record(&world)).unwrap()).unwrap();
        text["added"] = Value::Null;
        fs::write(record(&world), text.to_string()).unwrap();
        let next = world.agent().await;
        assert!(!next.is_lost(A).await.unwrap(), "it never was there");
        let addresses = next.set_up(request("a")).await.unwrap();
        assert_eq!(world.asked("look"), ["ADD", "DEL", "ADD"]);
        assert_eq!(world.leases(NETWORK), addresses, "those of before are given back");
        next.tear_down(A).await.unwrap();
        world.assert_empty();
    });
}

/// As after a start of the machine.
#[test]
fn a_sandbox_whose_namespace_is_gone_gives_its_addresses_back() {
    on_node(async |world| {
        world.configure(NETWORK, "0.4.0", &[world.bridge()]);
        let agent = world.agent().await;
        let mut before = Vec::new();
        for name in ["a", "b"] {
            before.extend(agent.set_up(request(name)).await.unwrap());
            pinned::unpin(&agent.namespace_of(&format!("uid-of-{name}")).unwrap()).unwrap();
        }
        let next = world.agent().await;
        assert!(next.is_lost(A).await.unwrap());
        next.tear_down(A).await.unwrap();
        let again = next.set_up(request("b")).await.unwrap();
        assert!(!next.is_lost(B).await.unwrap());
        assert!(again.iter().all(|ip| !before.contains(ip)), "{again:?}: the last that were given back");
        assert_eq!(world.leases(NETWORK), again);
        serve(&next, B, 80, "b");
        assert_eq!(ask(SocketAddr::new(again[0], 80)).unwrap(), "b");
        next.tear_down(B).await.unwrap();
        assert_eq!(world.leases(NETWORK).len(), 0);
    });
}

#[test]
fn what_has_failed_leaves_nothing_behind() {
    on_node(async |world| {
        let fail = |verbs: &str| {
            let script = format!(
                r#"case $CNI_COMMAND in {verbs}) echo '{{"code": 100, "msg": "no luck", "details": "today"}}'; exit 1 ;; esac"#
            );
            world.script("fail", &script);
        };
        fail("ADD");
        world.configure(NETWORK, "1.0.0", &[world.bridge(), json!({ "type": "fail" })]);
        let agent = world.agent().await;
        let error = agent.set_up(request("a")).await.unwrap_err();
        let id = match &error {
            SandboxError::SetUp { id, .. } => id.clone(),
            _ => panic!("{error}"),
        };
        assert_eq!(
            error.to_string(),
            format!(
                "failed to setup network for sandbox \"{id}\": plugin type=\"fail\" failed (add): no luck; today"
            )
        );
        world.assert_empty();
        assert_eq!(agent.pods(), Vec::<String>::new());

        // What cannot be removed at once is removed before the next attempt.
        fail("ADD|DEL");
        agent.set_up(request("a")).await.unwrap_err();
        assert_eq!((agent.pods(), world.leases(NETWORK).len()), (vec![A.to_owned()], 2));
        let error = agent.tear_down(A).await.unwrap_err().to_string();
        assert!(error.contains("failed to destroy network for sandbox"), "{error}");
        assert!(error.ends_with("plugin type=\"fail\" failed (delete): no luck; today"), "{error}");
        fail("NOTHING");
        let addresses = agent.set_up(request("a")).await.unwrap();
        assert_eq!(world.leases(NETWORK), addresses);
        agent.tear_down(A).await.unwrap();
        world.assert_empty();
    });
}

/// Whoever waits for it may have gone: it is ended all the same, and what comes next waits for it.
#[test]
fn what_was_begun_goes_on_where_nobody_waits_for_it() {
    on_node(async |world| {
        world.script("slow", "[ $CNI_COMMAND != ADD ] || while [ ! -e $dir/go ]; do sleep 0.1; done");
        world.configure(NETWORK, "1.0.0", &[world.bridge(), json!({ "type": "slow" })]);
        let agent = world.agent().await;
        let waiting = tokio::spawn({
            let agent = agent.clone();
            async move { agent.set_up(request("a")).await }
        });
        until("the slow plugin", || world.asked("slow") == ["ADD"]).await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        let removed = tokio::spawn({
            let agent = agent.clone();
            async move { agent.tear_down(A).await }
        });
        fs::write(world.path("go"), "").unwrap();
        removed.await.unwrap().unwrap();
        assert_eq!(world.asked("slow"), ["ADD", "DEL"]);
        world.assert_empty();
    });
}

#[test]
fn pods_wait_for_a_network_and_are_removed_from_the_one_that_they_have() {
    on_node(async |world| {
        let agent = world.agent().await;
        let expected = "Network plugin returns error: cni plugin not initialized";
        assert_eq!(agent.problem().await.as_deref(), Some(expected));
        let error = agent.set_up(request("a")).await.unwrap_err();
        assert!(matches!(&error, SandboxError::NotReady(_)) && error.to_string() == expected, "{error}");
        assert_eq!(agent.pods(), Vec::<String>::new());

        world.configure(NETWORK, "1.0.0", &[json!({ "type": "absent" })]);
        let problem = agent.problem().await.unwrap();
        assert!(problem.contains("failed to find plugin \"absent\" in path ["), "{problem}");
        world.configure(NETWORK, "0.3.0", &[json!({ "type": "look" })]);
        world.script("look", "");
        let problem = agent.problem().await.unwrap();
        assert!(problem.contains("not version 0.3.0 of the network's configuration"), "{problem}");

        world.configure(NETWORK, "1.0.0", &[world.bridge()]);
        assert_eq!(agent.problem().await, None);
        agent.set_up(request("a")).await.unwrap();
        // Another network takes its place, with the same addresses, by other books.
        world.configure("other", "1.0.0", &[world.bridge()]);
        agent.set_up(request("b")).await.unwrap();
        assert_eq!((world.leases(NETWORK).len(), world.leases("other").len()), (2, 2));
        agent.tear_down(A).await.unwrap();
        assert_eq!((world.leases(NETWORK).len(), world.leases("other").len()), (0, 2));
        fs::remove_file(world.options.conf_dir.join("10-test.conflist")).unwrap();
        agent.tear_down(B).await.unwrap();
        assert_eq!(world.leases("other").len(), 0);
        world.assert_empty();
    });
}

/// Plugins that say so are not ready.
#[test]
fn plugins_may_say_that_they_are_not_ready() {
    on_node(async |world| {
        world.script(
            "busy",
            r#"[ $CNI_COMMAND != STATUS ] || { echo '{"code": 50, "msg": "no controller"}'; exit 1; }"#,
        );
        world.configure(NETWORK, "1.1.0", &[world.bridge(), json!({ "type": "busy" })]);
        let problem = world.agent().await.problem().await;
        let expected = "Network plugin returns error: plugin type=\"busy\" failed (status): no controller";
        assert_eq!(problem.as_deref(), Some(expected));
        world.configure(NETWORK, "1.0.0", &[world.bridge(), json!({ "type": "busy" })]);
        assert_eq!(world.agent().await.problem().await, None, "it is not asked");
    });
}

/// Once an agent has started, plugins hear which sandboxes there are, unless somebody else has some.
#[test]
fn plugins_are_told_once_which_sandboxes_there_are() {
    on_node(async |world| {
        world.script("books", "[ $CNI_COMMAND != GC ] || echo \"$input\" > $dir/valid");
        world.configure(NETWORK, "1.1.0", &[world.bridge(), json!({ "type": "books" })]);
        let told = || -> Option<Value> { serde_json::from_slice(&fs::read(world.path("valid")).ok()?).ok() };
        let first = world.agent().await;
        first.set_up(request("a")).await.unwrap();
        until("what the first one says", || told().is_some()).await;
        fs::remove_file(world.path("valid")).unwrap();
        let id = record(&world).file_stem().unwrap().to_str().unwrap().to_owned();
        let next = world.agent().await;
        assert_eq!(next.problem().await, None);
        until("what the next one says", || told().is_some()).await;
        let valid = json!([{ "containerID": id, "ifname": "eth0" }]);
        assert_eq!(told().unwrap()["cni.dev/valid-attachments"], valid);
        let asked = world.asked("books").len();

        fs::create_dir(&world.options.others_dir).unwrap();
        fs::write(world.options.others_dir.join(format!("{NETWORK}-0123-eth0")), "{}").unwrap();
        let third = world.agent().await;
        assert_eq!(third.problem().await, None);
        // It has nothing to tell any more when it has removed one.
        third.tear_down(A).await.unwrap();
        assert_eq!(world.asked("books")[asked..], ["DEL".to_owned()]);
        world.assert_empty();
    });
}

#[test]
fn limits_reach_the_plugins() {
    on_node(async |world| {
        world.script("shape", "[ $CNI_COMMAND != ADD ] || echo \"$input\" > $dir/told");
        let shape = json!({ "type": "shape", "capabilities": { "bandwidth": true } });
        world.configure(NETWORK, "1.0.0", &[world.bridge(), shape]);
        let agent = world.agent().await;
        let mut limited = request("a");
        limited.bandwidth = Some(Bandwidth { ingress: 1_000_000, egress: 2_000_000 });
        agent.set_up(limited).await.unwrap();
        let told: Value = serde_json::from_str(&fs::read_to_string(world.path("told")).unwrap()).unwrap();
        assert_eq!(told["runtimeConfig"]["bandwidth"]["ingressRate"], 1_000_000);
        assert_eq!(told["runtimeConfig"]["bandwidth"]["egressRate"], 2_000_000);
        agent.tear_down(A).await.unwrap();
        world.assert_empty();
    });
}

/// With rules of a firewall, and a kernel that shapes what the pod sends and receives.
#[test]
fn a_longer_chain_of_the_reference_plugins_works() {
    on_node(async |world| {
        let has_ifb = Command::new("ip").args(["link", "add", "ifbtest", "type", "ifb"]).status();
        if !has_ifb.is_ok_and(|status| status.success()) {
            eprintln!("skipped: the kernel has no interfaces of type ifb");
            return;
        }
        let firewall = json!({ "type": "firewall", "backend": "iptables" });
        let bandwidth = json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } });
        world.configure(NETWORK, "1.1.0", &[world.bridge(), firewall, bandwidth]);
        let agent = world.agent().await;
        assert_eq!(agent.problem().await, None);
        let mut limited = request("a");
        limited.bandwidth = Some(Bandwidth { ingress: 8_000_000, egress: 8_000_000 });
        let addresses = agent.set_up(limited).await.unwrap();
        serve(&agent, A, 80, "a");
        assert_eq!(ask(SocketAddr::new(addresses[0], 80)).unwrap(), "a");
        let shaped = Command::new("tc").args(["qdisc", "show"]).output().unwrap().stdout;
        let shaped = String::from_utf8(shaped).unwrap();
        assert_eq!(shaped.matches("rate 8Mbit").count(), 2, "{shaped}");
        let next = world.agent().await;
        assert_eq!(next.set_up(request("a")).await.unwrap(), addresses);
        next.tear_down(A).await.unwrap();
        world.assert_empty();
    });
}
