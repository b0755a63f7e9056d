//! What users install: manifests, the chart, the image, packages. Each is tried as far as one machine goes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{Node as NodeObject, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use kubewasm_tests::{
    cluster::{self, programs},
    guests,
    node::{self, Node, Options},
    process::{self, Process},
    wait,
};
use serde_json::{Value, json};

use crate::suite::{SOON, await_ready, suite};

const NAMESPACE: &str = "kubewasm-system";
/// The node of the manifests.
const NODE: &str = "kubewasm";
/// Where a pod finds the credentials of its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn manifests(path: &str) -> String {
    guests::repository().join("manifests").join(path).to_string_lossy().into_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command says that succeeds. Blocks.
fn said(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    output
}

/// The objects of a stream of YAML.
fn documents(yaml: &str) -> impl Iterator<Item = Value> {
    serde_yaml_ng::Deserializer::from_str(yaml)
        .map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap())
        .filter(|object| !object.is_null())
}

/// The objects of a stream of YAML, by kind and name.
fn objects(yaml: &str) -> BTreeMap<(String, String), Value> {
    let named = documents(yaml).map(|mut object| {
        let of = |field: &Value| field.as_str().unwrap_or_default().to_owned();
        let key = (of(&object["kind"]), of(&object["metadata"]["name"]));
        // Files are compared by what they say.
        if let Some(files) = object.get_mut("data").and_then(Value::as_object_mut) {
            for file in files.values_mut() {
                *file = serde_yaml_ng::from_str(file.as_str().unwrap()).unwrap();
            }
        }
        (key, object)
    });
    named.collect()
}

/// What of the manifests concerns this node alone: other tests have the cluster's classes, and nodes that may not read Services.
fn own_objects(yaml: &str) -> Value {
    let shared = ["kubewasm-services", "kubewasm-network-policies", "wasm", "wasm-isolated"];
    let own = documents(yaml)
        .filter(|object| object["metadata"]["name"].as_str().is_some_and(|name| !shared.contains(&name)));
    json!({ "apiVersion": "v1", "kind": "List", "items": own.collect::<Vec<_>>() })
}

async fn built(kustomization: &str) -> String {
    suite().await.cluster.kubectl(&["kustomize", &manifests(kustomization)]).await.unwrap()
}

/// The chart and the manifests are two ways to the same objects, with and without privileges; helm finds nothing to complain of.
#[tokio::test]
async fn the_chart_says_what_the_manifests_say() {
    let helm = programs::build("tools/helm/build.sh").await.unwrap().join("helm");
    let home = tempfile::tempdir().unwrap();
    let helm = |args: &[&str]| {
        let mut command = Command::new(&helm);
        command.args(args).env("HOME", home.path());
        command
    };
    let chart = manifests("chart");
    let lint = said(&mut helm(&["lint", "--strict", &chart]));
    assert!(text(&lint.stdout).contains("0 chart(s) failed"), "{}", text(&lint.stdout));
    for (privileged, kustomization) in [(false, "node/unprivileged"), (true, "node/privileged")] {
        let set = format!("privileged={privileged}");
        let rendered =
            said(&mut helm(&["template", "kubewasm", &chart, "--namespace", NAMESPACE, "--set", &set]));
        let chart = objects(&text(&rendered.stdout));
        let mut manifests = objects(&built(kustomization).await);
        // Helm makes the namespace with --create-namespace.
        manifests.remove(&("Namespace".to_owned(), NAMESPACE.to_owned())).unwrap();
        assert_eq!(chart.keys().collect::<Vec<_>>(), manifests.keys().collect::<Vec<_>>());
        for (key, object) in chart {
            assert_eq!(object, manifests[&key], "{key:?}, {kustomization}");
        }
    }
    for (set, complaint) in [("nodes={edge-1}", "nodePrefix"), ("privilege=true", "privilege")] {
        let refused = helm(&["template", "kubewasm", &chart, "--set", set]).output().unwrap();
        assert!(!refused.status.success() && text(&refused.stderr).contains(complaint), "{set}: {refused:?}");
    }
}

/// The API server takes the manifests, and the strictest of its standards for pods those without privileges. A pod made of them
/// becomes a node: by its own token and the approver, with the rights that the manifests give each of them, and no others.
#[tokio::test]
async fn a_pod_of_the_manifests_becomes_a_node_and_no_other() {
    let suite = suite().await;
    let client = suite.cluster.client().await.unwrap();
    suite.cluster.kubectl(&["create", "namespace", NAMESPACE]).await.unwrap();
    suite
        .cluster
        .kubectl(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/warn=restricted"])
        .await
        .unwrap();
    let apply = |args: &[&str]| {
        let mut command = Command::new(suite.cluster.kubectl_path());
        command.arg(format!("--kubeconfig={}", suite.cluster.admin_kubeconfig().display()));
        text(&said(command.arg("apply").args(args)).stderr)
    };
    let warnings = apply(&["-k", &manifests("node/privileged"), "--dry-run=server"]);
    assert!(warnings.contains("would violate PodSecurity"), "{warnings}");
    let warnings = apply(&["-k", &manifests("node/unprivileged"), "--dry-run=server"]);
    assert!(!warnings.contains("would violate PodSecurity"), "{warnings}");
    let folder = suite.home.folder("install").unwrap();
    let own = folder.join("own.json");
    std::fs::write(&own, own_objects(&built("node/unprivileged").await).to_string()).unwrap();
    apply(&["-f", &own.to_string_lossy()]);

    let pod = pod_of(&client, "node").await;
    let credentials = Credentials::of(&folder.join("node"), &pod).await;
    let _approver = start_approver(&folder, &client).await;
    // There is no kubelet here for the pod: its address is that of the machine that the node runs on.
    let address = json!({ "ip": suite.cluster.node_address().to_string() });
    let status = json!({ "status": { "phase": "Running", "podIP": address["ip"], "podIPs": [address] } });
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();

    let options = Options::default()
        .bootstrap_kubeconfig(credentials.kubeconfig.clone())
        .config("serverTLSBootstrap", json!(true))
        .config("rotateCertificates", json!(true));
    let node = Node::start(&suite.home, &suite.cluster, NODE, &options).await.unwrap();
    await_ready(&client, NODE).await.unwrap();
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    for (user, signer) in [
        (
            format!("system:serviceaccount:{NAMESPACE}:kubewasm-node"),
            "kubernetes.io/kube-apiserver-client-kubelet",
        ),
        (format!("system:node:{NODE}"), "kubernetes.io/kubelet-serving"),
    ] {
        wait::until(&format!("a certificate for {user}"), SOON, async || {
            let all = requests.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let mut own = all.items.iter().filter(|request| {
                request.spec.username.as_ref() == Some(&user) && request.spec.signer_name == signer
            });
            let signed = own.any(|request| {
                let status = request.status.as_ref();
                status.is_some_and(|status| status.certificate.is_some())
                    && conditions(request).contains(&("Approved".into(), "AutoApproved".into()))
            });
            if signed { Ok(()) } else { Err("there is none yet".to_owned()) }
        })
        .await
        .unwrap();
    }

    let asks = Client::try_from(cluster::config_of(&credentials.kubeconfig).await.unwrap()).unwrap();
    for (name, complaint) in [("kubewasm-2", "kubewasm.dev/node"), (suite.node.name(), "--node-prefix")] {
        let message = denied(&asks, &requests, name).await;
        assert!(message.contains(complaint), "{name}: {message}");
    }
    drop(node);
    suite.cluster.kubectl(&["delete", "-f", &own.to_string_lossy(), "--wait=false"]).await.unwrap();
    let nodes: Api<NodeObject> = Api::all(client);
    nodes.delete(NODE, &kube::api::DeleteParams::default()).await.unwrap();
}

fn conditions(request: &CertificateSigningRequest) -> Vec<(String, String)> {
    let all = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    all.map(|condition| (condition.type_.clone(), condition.reason.clone().unwrap_or_default())).collect()
}

/// The pod that the Deployment's controller has made.
async fn pod_of(client: &Client, component: &str) -> Pod {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let params = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
    let mut found = None;
    wait::until(&format!("the pod of the {component}"), SOON, async || {
        found = pods.list(&params).await.map_err(|error| error.to_string())?.items.pop();
        if found.is_some() { Ok(()) } else { Err("there is none yet".to_owned()) }
    })
    .await
    .unwrap();
    found.unwrap()
}

/// What a pod finds in its file system, in a folder.
struct Credentials {
    kubeconfig: PathBuf,
}

impl Credentials {
    async fn of(folder: &Path, pod: &Pod) -> Self {
        let suite = suite().await;
        std::fs::create_dir_all(folder).unwrap();
        let account = pod.spec.as_ref().unwrap().service_account_name.clone().unwrap();
        let (name, uid) = (pod.name_any(), pod.uid().unwrap());
        let token = suite
            .cluster
            .kubectl(&[
                "create",
                "token",
                &account,
                "-n",
                NAMESPACE,
                "--bound-object-kind=Pod",
                &format!("--bound-object-name={name}"),
                &format!("--bound-object-uid={uid}"),
            ])
            .await
            .unwrap();
        std::fs::write(folder.join("token"), token.trim()).unwrap();
        let config = cluster::config_of(&suite.cluster.admin_kubeconfig()).await.unwrap();
        let admin: Value =
            serde_yaml_ng::from_str(&std::fs::read_to_string(suite.cluster.admin_kubeconfig()).unwrap())
                .unwrap();
        let authority = admin["clusters"][0]["cluster"]["certificate-authority"].as_str().unwrap();
        std::fs::copy(authority, folder.join("ca.crt")).unwrap();
        // The file of the manifests, with this machine's places in it.
        let files = objects(&built("node/unprivileged").await);
        let map = &files[&("ConfigMap".to_owned(), "kubewasm-node".to_owned())];
        let bootstrap = map["data"]["bootstrap.conf"].to_string();
        let server = config.cluster_url.to_string();
        let bootstrap = bootstrap
            .replace("https://kubernetes.default.svc", server.trim_end_matches('/'))
            .replace(ACCOUNT, &folder.to_string_lossy());
        let kubeconfig = folder.join("bootstrap.conf");
        std::fs::write(&kubeconfig, bootstrap).unwrap();
        Self { kubeconfig }
    }
}

/// The approver as its Deployment starts it.
async fn start_approver(folder: &Path, client: &Client) -> Process {
    let suite = suite().await;
    let pod = pod_of(client, "approver").await;
    let credentials = Credentials::of(&folder.join("approver"), &pod).await;
    let args = pod.spec.unwrap().containers.remove(0).args.unwrap();
    let mut command = Command::new(node::program().unwrap());
    command.args(args).env("POD_NAMESPACE", NAMESPACE);
    command.arg(format!("--kubeconfig={}", credentials.kubeconfig.display()));
    Process::start("approver", &mut command, &suite.home.log("approver")).unwrap()
}

/// Why a node of this name is none of the pod's.
async fn denied(asks: &Client, requests: &Api<CertificateSigningRequest>, node: &str) -> String {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let request = json!({
        "metadata": { "generateName": "csr-" },
        "spec": {
            "request": k8s_openapi::ByteString(pem.into_bytes()),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        },
    });
    let own: Api<CertificateSigningRequest> = Api::all(asks.clone());
    let request = serde_json::from_value(request).unwrap();
    let name = own.create(&PostParams::default(), &request).await.unwrap().name_any();
    let answered = wait::object(requests.clone(), &name, "an answer", SOON, |request| {
        request.is_some_and(|request| !conditions(request).is_empty())
    })
    .await
    .unwrap()
    .unwrap();
    assert_eq!(conditions(&answered), [("Denied".to_owned(), "NotThisPod".to_owned())]);
    answered.status.unwrap().conditions.unwrap().remove(0).message.unwrap()
}

/// A script of the repository, on the program under test.
fn script(name: &str) -> Command {
    let mut command = Command::new(guests::repository().join("scripts").join(name));
    command.arg(node::program().unwrap());
    command
}

/// The image holds all that the program needs: what it starts as a user without rights, in nothing but the image's files, runs.
#[tokio::test]
async fn the_image_runs_a_pod_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("kubewasm.tar");
    said(script("image.sh").env("IMAGE_OUT", &out).env("IMAGE_MAX_MB", "200"));
    let root = folder.path().join("rootfs");
    let config = said(Command::new("tar").arg("-xOf").arg(&out).arg("index.json"));
    assert!(text(&config.stdout).contains("kubewasm:latest"), "{}", text(&config.stdout));
    let symbols = said(Command::new("readelf").arg("-S").arg(root.join("usr/bin/kubewasm")));
    assert!(!text(&symbols.stdout).contains(".debug_info"), "the program is not stripped");

    let module = guests::guest("actor.c").await.unwrap();
    std::fs::write(root.join("tmp/actor.wasm"), module).unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "actor" },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{ "name": "main", "image": "./actor.wasm", "args": ["say", "from the image", "exit", "7"] }],
        },
    });
    std::fs::write(root.join("tmp/pod.yaml"), pod.to_string()).unwrap();
    // What every runtime mounts into a container, and nothing else of this machine.
    let container = "for of in proc sys dev; do mount --rbind /$of \"$0/$of\" || exit; done; \
                     exec chroot --userspec=65532:65532 \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", container]).arg(&root);
    command.args(["/usr/bin/kubewasm", "run", "--root-dir=/tmp/root", "/tmp/pod.yaml"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("from the image"), "{output:?}");
}

/// The Debian package installs, runs, keeps what somebody has configured when it is removed, and leaves nothing when it is purged.
#[tokio::test]
async fn the_debian_package_installs_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let package = said(script("deb.sh").env("DEB_OUT", folder.path()));
    let package = text(&package.stdout).trim().to_owned();
    let root = folder.path().join("root");
    for sub in ["updates", "info"] {
        std::fs::create_dir_all(root.join("var/lib/dpkg").join(sub)).unwrap();
    }
    std::fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let dpkg = |args: &[&str]| {
        let mut command = Command::new("dpkg");
        // Its dependencies are this machine's, and its scripts find no systemd.
        command
            .arg(format!("--root={}", root.display()))
            .args(["--force-script-chrootless", "--force-depends"]);
        text(&said(command.args(args)).stdout)
    };
    dpkg(&["--install", &package]);
    assert!(dpkg(&["--status", "kubewasm"]).contains("install ok installed"));
    assert!(dpkg(&["--field", &package, "Depends"]).contains("libc6"));
    let version = said(Command::new(root.join("usr/bin/kubewasm")).arg("--version"));
    assert!(text(&version.stdout).starts_with("kubewasm "), "{version:?}");
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/kubewasm.service")).unwrap();
    assert!(unit.starts_with("[Unit]") && unit.contains("ExecStart=/usr/bin/kubewasm node"), "{unit}");
    assert!(root.join("usr/share/man/man1/kubewasm-node.1.gz").exists());

    let configured = root.join("etc/kubewasm/node.env");
    std::fs::write(&configured, "KUBEWASM_FLAGS=--v=4\n").unwrap();
    dpkg(&["--install", &package]);
    assert_eq!(std::fs::read_to_string(&configured).unwrap(), "KUBEWASM_FLAGS=--v=4\n");
    dpkg(&["--remove", "kubewasm"]);
    assert!(configured.exists() && !root.join("usr/bin/kubewasm").exists());
    dpkg(&["--purge", "kubewasm"]);
    assert!(!configured.exists());
}

/// Where there is no Docker, the walk-through says so, and all else that it lacks, before it does anything.
#[tokio::test]
async fn the_walk_through_says_what_it_needs() {
    let nothing = tempfile::tempdir().unwrap();
    for tool in ["dirname", "bash", "env"] {
        let found = process::run(Path::new("/usr/bin/env"), &["which", tool]).await.unwrap();
        std::os::unix::fs::symlink(found.trim(), nothing.path().join(tool)).unwrap();
    }
    let output = Command::new(guests::repository().join("scripts/kind-demo.sh"))
        .env("PATH", nothing.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    for needed in ["docker: ", "kind: ", "kubectl: ", "buildah: ", "make demo"] {
        assert!(said.contains(needed), "{needed}: {said}");
    }
}
