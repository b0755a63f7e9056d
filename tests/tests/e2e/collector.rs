//! A collector of others, beside a node: the OpenTelemetry Collector, reading the logs that its documentation says that one
//! reads on a Kubernetes node, or taking in traces.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use kubewasm_tests::{cluster::programs, node::Node};
use serde_json::{Value, json};

/// Two ways to a log: by the directories of pods, and by the links of `/var/log/containers`.
pub(crate) const WAYS: [&str; 2] = ["pods", "links"];

/// A running collector; it ends with this value.
pub(crate) struct Collector {
    folder: PathBuf,
    process: Child,
}

/// A line as it was collected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CollectedLine {
    pub(crate) text: String,
    /// `stdout` or `stderr`.
    pub(crate) stream: String,
    /// Namespace, pod, container and restart count, where the way tells them.
    pub(crate) origin: Option<[String; 4]>,
}

impl Collector {
    /// Starts one that collects the logs of a node's pods into `folder`.
    pub(crate) async fn start(node: &Node, folder: &Path) -> Self {
        let receiver = |include: PathBuf, origin: bool| {
            json!({
                "include": [include],
                "start_at": "beginning",
                "include_file_path": true,
                "poll_interval": "100ms",
                "operators": [{ "type": "container", "add_metadata_from_filepath": origin }],
            })
        };
        let pipeline = |way: &str| json!({ "receivers": [format!("file_log/{way}")], "exporters": [format!("file/{way}")] });
        let exporter = |way: &str| json!({ "path": folder.join(way), "flush_interval": "100ms" });
        let config = json!({
            "receivers": {
                "file_log/pods": receiver(node.pod_logs().join("*/*/*.log"), true),
                "file_log/links": receiver(node.root().join("containers/*.log"), false),
            },
            "exporters": { "file/pods": exporter("pods"), "file/links": exporter("links") },
            "service": {
                "telemetry": { "metrics": { "level": "none" } },
                "pipelines": { "logs/pods": pipeline("pods"), "logs/links": pipeline("links") },
            },
        });
        Self::run(folder, &config).await
    }

    /// Starts one that takes in traces on a port of the loopback.
    pub(crate) async fn of_traces(folder: &Path, port: u16) -> Self {
        let endpoint = format!("127.0.0.1:{port}");
        let config = json!({
            "receivers": { "otlp": { "protocols": { "grpc": { "endpoint": endpoint } } } },
            "exporters": { "file": { "path": folder.join("traces"), "flush_interval": "100ms" } },
            "service": {
                "telemetry": { "metrics": { "level": "none" } },
                "pipelines": { "traces": { "receivers": ["otlp"], "exporters": ["file"] } },
            },
        });
        Self::run(folder, &config).await
    }

    async fn run(folder: &Path, config: &Value) -> Self {
        let program = programs::build("tools/otelcol/build.sh").await.unwrap().join("otelcol");
        let file = folder.join("collector.yaml");
        fs::write(&file, serde_json::to_string_pretty(config).unwrap()).unwrap();
        let log = fs::File::create(folder.join("collector.log")).unwrap();
        let process = Command::new(program)
            .arg(format!("--config=file:{}", file.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { folder: folder.to_owned(), process }
    }

    /// All lines that came one of the ways, in the order in which they came.
    pub(crate) fn lines(&self, way: &str) -> Vec<CollectedLine> {
        self.batches(way).iter().flat_map(lines).collect()
    }

    /// All spans that came.
    pub(crate) fn spans(&self) -> Vec<CollectedSpan> {
        self.batches("traces").iter().flat_map(spans).collect()
    }

    fn batches(&self, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        // The last line may be on its way.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What the collector has to say.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("collector.log")).unwrap_or_default()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A span as it was collected.
#[derive(Clone, Debug)]
pub(crate) struct CollectedSpan {
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty where it is the first of its trace.
    pub(crate) parent: String,
    pub(crate) name: String,
    /// With those of what it is about.
    pub(crate) attributes: BTreeMap<String, String>,
    /// It has failed.
    pub(crate) error: Option<String>,
}

fn all(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn spans(batch: &Value) -> Vec<CollectedSpan> {
    let mut found = Vec::new();
    for resource in all(&batch["resourceSpans"]) {
        let of = attributes(&resource["resource"]["attributes"]);
        for span in all(&resource["scopeSpans"]).iter().flat_map(|scope| all(&scope["spans"])) {
            let text = |field: &str| span[field].as_str().unwrap_or_default().to_owned();
            let failed = span["status"]["code"] == 2;
            found.push(CollectedSpan {
                trace: text("traceId"),
                id: text("spanId"),
                parent: text("parentSpanId"),
                name: text("name"),
                attributes: attributes(&span["attributes"]).into_iter().chain(of.clone()).collect(),
                error: failed.then(|| span["status"]["message"].as_str().unwrap_or_default().to_owned()),
            });
        }
    }
    found
}

fn lines(batch: &Value) -> Vec<CollectedLine> {
    let mut found = Vec::new();
    for resource in all(&batch["resourceLogs"]) {
        let of = attributes(&resource["resource"]["attributes"]);
        let names =
            ["k8s.namespace.name", "k8s.pod.name", "k8s.container.name", "k8s.container.restart_count"];
        let origin = of.contains_key("k8s.pod.name");
        let origin = origin.then(|| names.map(|name| of.get(name).cloned().unwrap_or_default()));
        for scope in all(&resource["scopeLogs"]) {
            found.extend(all(&scope["logRecords"]).iter().map(|record| CollectedLine {
                text: record["body"]["stringValue"].as_str().unwrap_or_default().to_owned(),
                stream: attributes(&record["attributes"]).remove("log.iostream").unwrap_or_default(),
                origin: origin.clone(),
            }));
        }
    }
    found
}

fn attributes(list: &Value) -> BTreeMap<String, String> {
    let entry = |each: &Value| {
        let value = each["value"].as_object()?.values().next()?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((each["key"].as_str()?.to_owned(), text))
    };
    list.as_array().into_iter().flatten().filter_map(entry).collect()
}
