//! With plugins that write down what they are told.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::{
    attachment::{PodName, PortMapping, SandboxRequest},
    config,
};

/// Notes what it was asked and told, and answers what stands in a file of its name and of what it was asked.
const RECORDER: &str = r#"#!/bin/sh
dir=${0%/*}
name=${0##*/}
input=$(cat)
echo "$name $CNI_COMMAND netns=$CNI_NETNS if=$CNI_IFNAME id=$CNI_CONTAINERID $input" >> "$dir/log"
if [ -f "$dir/$name.$CNI_COMMAND.error" ]; then cat "$dir/$name.$CNI_COMMAND.error"; exit 1; fi
if [ -f "$dir/$name.$CNI_COMMAND" ]; then cat "$dir/$name.$CNI_COMMAND"; fi
"#;

const RESULT: &str = r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/24"}]}"#;

struct World {
    dir: tempfile::TempDir,
    network: NetworkConfig,
    bin_dirs: Vec<PathBuf>,
}

impl World {
    fn new(version: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("new");
        for name in ["first", "second"] {
            std::fs::write(&new, RECORDER).unwrap();
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::rename(&new, dir.path().join(name)).unwrap();
        }
        let network = json!({ "cniVersion": version, "name": "n", "plugins": [
            { "type": "first", "token": "t" },
            { "type": "second", "capabilities": { "portMappings": true } },
        ]});
        let network = config::list(network.to_string().as_bytes()).unwrap().network;
        let bin_dirs = vec!["/nonexistent".into(), dir.path().to_owned()];
        let world = Self { dir, network, bin_dirs };
        world.answers("first.ADD", RESULT).answers("second.ADD", RESULT);
        world
    }

    fn answers(&self, what: &str, answer: &str) -> &Self {
        std::fs::write(self.dir.path().join(what), answer).unwrap();
        self
    }

    fn chain(&self) -> Chain<'_> {
        Chain { network: &self.network, bin_dirs: &self.bin_dirs }
    }

    /// What the plugins were asked, and told.
    fn log(&self) -> Vec<(String, Value)> {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let split = |line: &str| {
            let (asked, told) = line.split_once(" {").unwrap();
            (asked.to_owned(), serde_json::from_str(&format!("{{{told}")).unwrap())
        };
        log.lines().map(split).collect()
    }

    fn asked(&self) -> Vec<String> {
        let word = |(asked, _): (String, Value)| asked.split(" netns").next().unwrap().to_owned();
        self.log().into_iter().map(word).collect()
    }
}

fn attachment() -> Attachment {
    let pod = PodName { namespace: "ns".to_owned(), name: "p".to_owned(), uid: "u".to_owned() };
    let protocol = "tcp".to_owned();
    let port = PortMapping { host_port: 1, container_port: 2, protocol, host_ip: String::new() };
    Attachment::of(&SandboxRequest { pod, port_mappings: vec![port], ..SandboxRequest::default() }).unwrap()
}

const NETNS: &str = "/run/netns/x";

#[tokio::test]
async fn each_plugin_is_told_the_result_of_the_one_before() {
    let world = World::new("1.0.0");
    let added = world.chain().add(&attachment(), Path::new(NETNS)).await.unwrap();
    assert_eq!(Value::Object(added), serde_json::from_str::<Value>(RESULT).unwrap());
    let [(first, told_first), (second, told_second)] = &world.log()[..] else { panic!() };
    let id = attachment().container_id;
    assert_eq!(first, &format!("first ADD netns={NETNS} if=eth0 id={id}"));
    assert_eq!(second, &format!("second ADD netns={NETNS} if=eth0 id={id}"));
    assert_eq!(
        told_first,
        &json!({ "type": "first", "token": "t", "name": "n", "cniVersion": "1.0.0" }),
        "nothing that it cannot use"
    );
    assert_eq!(told_second["prevResult"]["ips"][0]["address"], "10.0.0.5/24");
    assert_eq!(told_second["runtimeConfig"]["portMappings"][0]["hostPort"], 1);
}

#[tokio::test]
async fn what_was_added_is_removed_from_the_last_to_the_first() {
    let world = World::new("0.4.0");
    let result = serde_json::from_str(RESULT).unwrap();
    world.chain().del(&attachment(), Some(Path::new(NETNS)), Some(&result)).await.unwrap();
    assert_eq!(world.asked(), ["second DEL", "first DEL"]);
    assert!(world.log().iter().all(|(_, told)| told["prevResult"]["ips"].is_array()));
    world.chain().del(&attachment(), None, None).await.unwrap();
    let (asked, told) = world.log().pop().unwrap();
    assert!(asked.contains("netns= if=eth0") && told["prevResult"].is_null(), "{asked}");

    let old = World::new("0.3.1");
    old.chain().del(&attachment(), None, Some(&result)).await.unwrap();
    assert!(old.log().iter().all(|(_, told)| told["prevResult"].is_null()), "it does not know of it");
}

#[tokio::test]
async fn nobody_is_asked_what_a_version_or_a_network_does_not_know_of() {
    let result = serde_json::from_str(RESULT).unwrap();
    for (version, disabled, expected) in [
        ("0.3.1", false, &[][..]),
        ("0.4.0", false, &["first CHECK", "second CHECK"]),
        ("0.4.0", true, &[]),
        ("1.1.0", true, &["first STATUS", "second STATUS"]),
        (
            "1.1.0",
            false,
            &["first CHECK", "second CHECK", "first GC", "second GC", "first STATUS", "second STATUS"],
        ),
    ] {
        let mut world = World::new(version);
        (world.network.disable_check, world.network.disable_gc) = (disabled, disabled);
        world.chain().check(&attachment(), Path::new(NETNS), &result).await.unwrap();
        world.chain().gc(&["a".to_owned()]).await.unwrap();
        world.chain().status().await.unwrap();
        assert_eq!(world.asked(), expected, "{version} {disabled}");
        for (asked, told) in world.log() {
            let valid = &told["cni.dev/valid-attachments"];
            let expected = if asked.contains("GC") {
                json!([{ "containerID": "a", "ifname": "eth0" }])
            } else {
                Value::Null
            };
            assert_eq!(valid, &expected, "{asked}");
        }
    }
}

#[tokio::test]
async fn the_first_plugin_that_fails_ends_an_add_and_a_del() {
    let world = World::new("1.0.0");
    world.answers("first.ADD.error", r#"{"code": 11, "msg": "no address"}"#);
    let error = world.chain().add(&attachment(), Path::new(NETNS)).await.unwrap_err().to_string();
    assert_eq!(error, "plugin type=\"first\" failed (add): no address");
    assert_eq!(world.asked(), ["first ADD"]);
    world.answers("second.DEL.error", "");
    let error = world.chain().del(&attachment(), None, None).await.unwrap_err().to_string();
    assert!(error.starts_with("plugin type=\"second\" failed (delete): exit status: 1"), "{error}");
    assert_eq!(world.asked(), ["first ADD", "second DEL"]);
    let world = World::new("1.1.0");
    world.answers("first.GC.error", r#"{"code": 1, "msg": "cannot"}"#);
    assert!(world.chain().gc(&[]).await.is_err());
    assert_eq!(world.asked(), ["first GC", "second GC"]);
    world.answers("second.ADD", "nonsense");
    let error = world.chain().add(&attachment(), Path::new(NETNS)).await.unwrap_err().to_string();
    assert_eq!(error, "plugin type=\"second\" failed (add): its result is no JSON object");
}

#[tokio::test]
async fn plugins_that_are_missing_or_of_another_version_are_found_out_before() {
    let world = World::new("1.0.0");
    for (versions, expected) in [
        (r#"{"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0"]}"#, None),
        (r#"{"supportedVersions": ["0.4.0"]}"#, Some("it speaks 0.4.0, not version 1.0.0")),
        ("", Some("it speaks , not version 1.0.0")),
    ] {
        world
            .answers("first.VERSION", r#"{"supportedVersions": ["1.0.0"]}"#)
            .answers("second.VERSION", versions);
        let validated = world.chain().validate().await.map_err(|error| error.to_string());
        match expected {
            None => assert_eq!(validated, Ok(())),
            Some(text) => assert!(validated.unwrap_err().contains(text), "{versions}"),
        }
    }
    std::fs::remove_file(world.dir.path().join("second")).unwrap();
    for error in [world.chain().validate().await, world.chain().status().await] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("failed to find plugin \"second\" in path [/nonexistent "), "{error}");
    }
}
