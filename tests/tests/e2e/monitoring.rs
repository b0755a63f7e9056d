//! Prometheus reads the node, and the dashboards and alerts of `manifests/monitoring` find in it what they ask for.

use std::{fs, net::Ipv4Addr, path::Path, process::Command, time::Duration};

use kube::{Client, Config};
use kubewasm_tests::{
    documented, guests, ports,
    process::{self, Process},
    wait,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    access,
    http::serve_http,
    pods::{Pods, running},
    suite::{NODE, SOON, suite, with_temp_ns},
};

const PATHS: [&str; 5] =
    ["/metrics", "/metrics/resource", "/metrics/cadvisor", "/metrics/probes", "/metrics/slis"];
/// How often Prometheus asks.
const INTERVAL: Duration = Duration::from_secs(2);
/// What Grafana would make of its variables.
const VARIABLES: [(&str, &str); 4] =
    [("$__rate_interval", "30s"), ("$instance", ".*"), ("$namespace", ".*"), ("$pod", ".*")];
/// Of these, a node to which nothing bad has happened has no samples.
const TROUBLES: [&str; 3] = [
    "kubelet_runtime_operations_errors_total",
    "kubewasm_network_refusals_total",
    "container_spec_memory_limit_bytes{instance=~\".*\",namespace=~\".*\",pod=~\".*\"} > 0",
];

/// One pod that computes and is held back, with probes, and one that serves HTTP: all that the queries are about.
#[tokio::test]
async fn prometheus_reads_the_node_and_the_dashboards_have_data() {
    with_temp_ns(async |client, ns| {
        let (suite, pods) = (suite().await, Pods::new(&client, ns));
        let busy = json!({ "containers": [{
            "name": "main",
            "image": suite.actor.tagged,
            "args": ["spin"],
            "resources": { "limits": { "cpu": "50m", "memory": "16Mi" } },
        }] });
        pods.create("busy", busy).await;
        pods.act("ended", &["exit", "3"]).await;
        let port = serve_http(&pods, "web").await;
        pods.until("busy", "running", running).await;
        let _load = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(ask_for_ever(port)));

        for path in PATHS {
            let text = access::get_allowed(path).await;
            check(path, &text).await;
            all_are_documented(path, &text);
        }
        let summary = access::get_allowed("/stats/summary").await;
        let summary: Value = serde_json::from_str(&summary).unwrap();
        let of_busy = summary["pods"].as_array().unwrap().iter().find(|pod| pod["podRef"]["namespace"] == ns);
        let busy = of_busy.unwrap_or_else(|| panic!("{summary}"));
        assert!(busy["containers"][0]["memory"]["workingSetBytes"].as_u64().unwrap() > 0, "{busy}");
        assert!(busy["ephemeral-storage"]["capacityBytes"].as_u64().unwrap() > 0, "{busy}");

        let prometheus = Prometheus::start().await;
        prometheus.until_all_are_up().await;
        for query in queries() {
            prometheus.until_there_is_data(&query).await;
        }
        prometheus
            .until_there_is_data(&format!("container_memory_working_set_bytes{{namespace=\"{ns}\"}}"))
            .await;
    })
    .await;
}

/// Alerts are rules that Prometheus takes, and each fires when it should and not otherwise.
#[tokio::test]
async fn alerts_are_valid_and_fire_when_they_should() {
    let folder = guests::repository().join("manifests/monitoring");
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    for arguments in [["check", "rules", &file("alerts.yaml")], ["test", "rules", &file("alerts_test.yaml")]]
    {
        process::run(Path::new("promtool"), &arguments).await.unwrap();
    }
}

/// Asks for what is there, and now and then for what makes the guest trap.
async fn ask_for_ever(port: u16) {
    for number in 0_u64.. {
        let path = if number % 10 == 9 { "/trap" } else { "/" };
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            let _ = stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What is served is in `docs/metrics.md`, with its type.
fn all_are_documented(path: &str, text: &str) {
    let documented = documented::metrics().unwrap();
    for described in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = described.split_once(' ').unwrap();
        let known = documented.get(name).map(String::as_str);
        assert_eq!(known, Some(kind), "{path} has {name}, and docs/metrics.md not, or of another type");
    }
}

/// Has promtool look at what a path has answered, which it wants on its standard input.
async fn check(path: &str, text: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let script = format!("promtool check metrics <{} 2>&1", file.path().display());
    let output = tokio::process::Command::new("sh").args(["-c", &script]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{path}: {said}\n{text}");
}

/// All queries of all dashboards, with what Grafana would put in the place of variables.
fn queries() -> Vec<String> {
    let folder = guests::repository().join("manifests/monitoring/dashboards");
    let mut queries = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let dashboard: Value = serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let targets = dashboard["panels"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|panel| panel["targets"].as_array().unwrap());
        queries.extend(targets.map(|target| target["expr"].as_str().unwrap().to_owned()));
    }
    assert!(queries.len() > 30, "{queries:?}");
    let filled =
        |query: String| VARIABLES.iter().fold(query, |query, (name, value)| query.replace(name, value));
    let filled = queries.into_iter().map(filled);
    filled.filter(|query| !TROUBLES.iter().any(|trouble| query.contains(trouble))).collect()
}

/// A value as it is in a query of a URL.
fn percent_encoded(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Debian's Prometheus, which ends with this.
struct Prometheus {
    process: Process,
    url: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

impl Prometheus {
    /// Starts one that reads all paths of the shared node, with the token of an account that may read metrics.
    async fn start() -> Self {
        let suite = suite().await;
        let manifests = guests::repository().join("manifests/monitoring");
        let rbac = manifests.join("rbac.yaml").to_string_lossy().into_owned();
        suite.cluster.kubectl(&["apply", "-f", &rbac]).await.unwrap();
        let token = ["create", "token", "wasm-monitoring", "--namespace", "kube-system"];
        let token = suite.cluster.kubectl(&token).await.unwrap();
        let folder = suite.home.folder("prometheus").unwrap();
        fs::write(folder.join("token"), token.trim()).unwrap();
        let node = suite.node.url();
        let job = |path: &str| {
            json!({
                "job_name": path,
                "scheme": "https",
                "metrics_path": path,
                "scrape_interval": format!("{}s", INTERVAL.as_secs()),
                "authorization": { "credentials_file": folder.join("token") },
                "tls_config": { "insecure_skip_verify": true },
                "static_configs": [{ "targets": [node.trim_start_matches("https://")] }],
                "relabel_configs": [
                    { "source_labels": ["__metrics_path__"], "target_label": "metrics_path" },
                    { "target_label": "job", "replacement": "kubelet" },
                    { "target_label": "node", "replacement": NODE },
                ],
            })
        };
        let rules = manifests.join("alerts.yaml");
        let config = json!({ "rule_files": [rules], "scrape_configs": PATHS.map(job) });
        // YAML is more than JSON, and takes it.
        fs::write(folder.join("prometheus.yml"), config.to_string()).unwrap();
        let address = format!("127.0.0.1:{}", ports::free().unwrap());
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let process = Process::start("prometheus", &mut command, &suite.home.log("prometheus")).unwrap();
        Self { process, url: format!("http://{address}") }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let client = Client::try_from(Config::new(self.url.parse().unwrap())).unwrap();
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
        let request = http::Request::get(format!("{path}?{}", query.join("&"))).body(Vec::new()).unwrap();
        let text = client.request_text(request).await.map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    async fn until_all_are_up(&self) {
        wait::until("all targets are up", SOON, async || {
            let targets = self.get("/api/v1/targets", &[]).await?;
            let active = targets["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
            let is_up = active.iter().all(|target| target["health"] == "up");
            if active.len() == PATHS.len() && is_up { Ok(()) } else { Err(targets.to_string()) }
        })
        .await
        .unwrap();
    }

    async fn until_there_is_data(&self, query: &str) {
        wait::until(&format!("data for {query}"), SOON, async || {
            let answer = self.get("/api/v1/query", &[("query", query)]).await?;
            let found = answer["data"]["result"].as_array().map_or(0, Vec::len);
            if found > 0 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await
        .unwrap();
    }
}
