//! Names as a pod's spec has them.

use std::process::Stdio;

use kubewasm_tests::{guests, process, progress::say, registry::image::Content, wait};
use serde_json::json;
use tokio::process::Command;

use crate::{
    commands,
    pods::Pods,
    suite::{SOON, suite, with_temp_ns},
};

/// Where the server of this test listens: nobody else has this address of the loopback.
const SERVER: &str = "127.213.53.1";

/// A component in a pod with `dnsPolicy: None` asks the servers of `dnsConfig`, in its search domains, and knows the names
/// of `hostAliases`.
#[tokio::test]
async fn a_component_looks_names_up_as_its_pod_says() {
    let Some(dnsmasq) = process::find_program("dnsmasq") else {
        say("skipped: dnsmasq is not installed; `make setup` installs it");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        say("skipped: servers of names listen on a port of root's");
        return;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let _server = Command::new(dnsmasq)
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file",
            "--user=root",
            "--bind-interfaces",
        ])
        .args(["--no-resolv", "--no-hosts", "--local=/test/", "--host-record=web.ns.svc.test,10.9.0.1"])
        .arg(format!("--listen-address={SERVER}"))
        .arg(format!("--log-facility={}", log.path().display()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let started = async || match std::fs::read_to_string(log.path()) {
        Ok(text) if text.contains("started") => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait::until("a server of names", SOON, started).await.unwrap();
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let content = Content::program("names", guests::guest("names-0.2.c").await.unwrap());
        let image = suite().await.registry.push("names:v1", &content).await.unwrap().tagged;
        let spec = json!({
            "dnsPolicy": "None",
            "dnsConfig": {
                "nameservers": [SERVER],
                "searches": ["svc.test"],
                "options": [{ "name": "ndots", "value": "2" }],
            },
            "hostAliases": [{ "ip": "10.9.9.9", "hostnames": ["alias", "alias.example"] }],
            "containers": [{
                "name": "main",
                "image": image,
                "args": ["web.ns", "alias", "alias.example", "nowhere.test"],
            }],
        });
        let expected =
            "web.ns: 10.9.0.1\nalias: 10.9.9.9\nalias.example: 10.9.9.9\nnowhere.test: refused 18\n";
        let mut of_0_3 = spec.clone();
        let asks = ["web.ns", "alias", "alias.example", "nowhere.test"].map(|name| ["look-up", name]);
        of_0_3["containers"][0]["image"] = commands::image().await.into();
        of_0_3["containers"][0]["args"] = json!(asks.concat());
        for (name, spec) in [("names", spec), ("names-0-3", of_0_3)] {
            pods.create(name, spec).await;
            pods.phase(name, "Succeeded").await;
            assert_eq!(pods.logs(name).await, expected, "{name}");
        }
    })
    .await;
}
