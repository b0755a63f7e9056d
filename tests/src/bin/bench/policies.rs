//! What a server of admission policies takes: its start with nothing compiled and with everything compiled, its memory with 1, 10 and
//! 100 policies, and how fast it answers by HTTPS. The first policy is the one of Go of demos/policies, the others are copies of that of
//! Rust, each a module of its own to the server.

mod load;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use kubewasm_tests::{
    certificates::{self, ServerIdentity},
    guests, node, ports,
    progress::say,
};
use rustix::process::Pid;
use rustls::ClientConfig;
use serde::Serialize;
use serde_json::json;
use tempfile::TempDir;
use wasm_encoder::{CustomSection, Section as _};

use self::load::Target;
use crate::{
    procfs::{self, Footprint},
    quantiles::Quantiles,
    table::{Table, number},
};

/// How many policies are served.
const COUNTS: [usize; 3] = [1, 10, 100];
/// Who asks at the same time.
const CONNECTIONS: usize = 8;
/// How long they ask.
const WINDOW: Duration = Duration::from_secs(5);
/// How long a server may take to start.
const START: Duration = Duration::from_secs(300);

/// Figures of the server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Policies {
    levels: Vec<Level>,
}

/// Figures with so many policies.
#[derive(Clone, Copy, Debug, Serialize)]
struct Level {
    count: usize,
    /// From the start of the process to its readiness, with no machine code there, in seconds.
    cold_s: f64,
    /// The same with all of it there.
    warm_s: f64,
    /// Of the process that is ready, after a warm start.
    ready: Footprint,
    /// After it was asked.
    asked: Footprint,
    /// Answers per second.
    per_s: f64,
    /// How long each took, in milliseconds.
    each_ms: Quantiles,
}

/// Measures. No cluster has a part in it.
///
/// # Errors
/// When something cannot be built or started, or an answer is not the right one.
pub(crate) async fn measure() -> Result<Policies> {
    let go = guests::build("demos/policies/tagged-images/main.go").await?;
    let rust = guests::rust::module("demos/policies/team-label").await?;
    let mut levels = Vec::new();
    for count in COUNTS {
        let site = Site::new(&go, &rust, count)?;
        let cold_s = site.start().await?.took.as_secs_f64();
        let server = site.start().await?;
        let (warm_s, ready) = (server.took.as_secs_f64(), server.footprint()?);
        let (sample, took) = load::ask(&site.target(&server), count, CONNECTIONS, WINDOW).await?;
        #[expect(clippy::cast_precision_loss, reason = "there are not that many")]
        let per_s = sample.len() as f64 / took.as_secs_f64();
        let each_ms = Quantiles::of(sample).context("nothing was answered")?;
        levels.push(Level { count, cold_s, warm_s, ready, asked: server.footprint()?, per_s, each_ms });
        say(&format!("  {count} policies"));
    }
    Ok(Policies { levels })
}

/// A folder with what a server is started with.
struct Site {
    folder: TempDir,
    client: Arc<ClientConfig>,
}

/// A server that is ready.
struct Server {
    child: Child,
    port: u16,
    took: Duration,
}

impl Site {
    fn new(go: &[u8], rust: &[u8], count: usize) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let identity = ServerIdentity::new(&["127.0.0.1"])?;
        let client = certificates::client(&[&identity], &[&rustls::version::TLS13], &["http/1.1"])?;
        let mut policies = serde_json::Map::new();
        for number in 0..count {
            let (module, settings) = match number {
                0 => (go, json!({})),
                _ => (rust, json!({ "default": "nobody" })),
            };
            let file = folder.path().join(format!("{number}.wasm"));
            fs::write(&file, program(module, number)).context("cannot write a policy")?;
            let module = format!("file://{}", file.display());
            let policy = json!({ "module": module, "settings": settings, "allowedToMutate": true });
            policies.insert(number.to_string(), policy);
        }
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).with_context(|| format!("cannot write {name}"))
        };
        write("policies.yml", &serde_json::to_string(&policies)?)?;
        write("cert.pem", &identity.chain)?;
        write("key.pem", &identity.key)?;
        Ok(Self { folder, client })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a server, and returns when it says that it is ready.
    async fn start(&self) -> Result<Server> {
        let (port, health) = (ports::free()?, ports::free()?);
        let log = File::create(self.path("log")).context("cannot write a log")?;
        let mut command = Command::new(node::program()?);
        command.arg("policy").arg("--root-dir").arg(self.path("root")).args(["serve", "--addr=127.0.0.1"]);
        command.arg("--policies").arg(self.path("policies.yml"));
        command.arg("--cert-file").arg(self.path("cert.pem")).arg("--key-file").arg(self.path("key.pem"));
        command.arg(format!("--port={port}")).arg(format!("--readiness-probe-port={health}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let begun = Instant::now();
        let child = command.spawn().context("cannot start the policy server")?;
        let mut server = Server { child, port, took: Duration::ZERO };
        while !load::is_ready(health).await {
            if let Some(status) = server.child.try_wait().context("the policy server is lost")? {
                bail!("the policy server ended ({status}): {}", self.log());
            }
            ensure!(begun.elapsed() < START, "the policy server is not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.took = begun.elapsed();
        Ok(server)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn target(&self, server: &Server) -> Target {
        Target { port: server.port, client: Arc::clone(&self.client) }
    }
}

impl Server {
    fn footprint(&self) -> Result<Footprint> {
        procfs::footprint(Pid::from_child(&self.child))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and needs not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A policy that says how it is called, and which of the copies it is.
fn program(module: &[u8], number: usize) -> Vec<u8> {
    let metadata = json!({ "executionMode": "wasi", "mutating": true, "rules": [] }).to_string();
    let mut program = guests::with_section(module, number.to_string().as_bytes());
    let section = CustomSection { name: "io.kubewarden.metadata".into(), data: metadata.into_bytes().into() };
    section.append_to(&mut program);
    program
}

/// The table of policies.
pub(crate) fn table(policies: &Policies) -> Table {
    let counts = policies.levels.iter().map(|level| level.count.to_string());
    let mut table = Table::new(std::iter::once("policies that are served".to_owned()).chain(counts));
    let mut row = |name: &str, of: fn(&Level) -> f64, digits| {
        let cells = policies.levels.iter().map(|level| number(Some(of(level)), digits));
        table.row(std::iter::once(name.to_owned()).chain(cells));
    };
    row("start, nothing compiled, s", |level| level.cold_s, 2);
    row("start, everything compiled, s", |level| level.warm_s, 2);
    row("memory when it is ready, PSS, MiB", |level| mib(level.ready), 1);
    row("memory after it was asked, PSS, MiB", |level| mib(level.asked), 1);
    row("answers/s, 8 connections", |level| level.per_s, 0);
    row("an answer, p50, ms", |level| level.each_ms.p50, 2);
    row("an answer, p99, ms", |level| level.each_ms.p99, 2);
    table
}

#[expect(clippy::cast_precision_loss, reason = "no process has that much memory")]
fn mib(footprint: Footprint) -> f64 {
    footprint.pss_kib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_policies_has_a_column() {
        let of = |count, pss_kib| Level {
            count,
            cold_s: 3.0,
            warm_s: 0.05,
            ready: Footprint { rss_kib: 0, pss_kib },
            asked: Footprint { rss_kib: 0, pss_kib: 2 * pss_kib },
            per_s: 1000.0,
            each_ms: Quantiles { count: 1, p50: 1.0, p90: 1.0, p99: 2.0 },
        };
        let table = table(&Policies { levels: vec![of(1, 1024), of(10, 2048)] }).to_string();
        for (name, cells) in [
            ("policies that are served", ["1", "10"]),
            ("start, nothing compiled, s", ["3.00", "3.00"]),
            ("memory after it was asked, PSS, MiB", ["2.0", "4.0"]),
            ("an answer, p99, ms", ["2.00", "2.00"]),
        ] {
            let row = table.lines().find(|line| line.starts_with(&format!("| {name}"))).unwrap();
            let found: Vec<&str> = row.split('|').map(str::trim).skip(2).take(2).collect();
            assert_eq!(found, cells, "{name}");
        }
    }

    #[test]
    fn copies_of_a_policy_are_modules_of_their_own() {
        let empty = wat::parse_str("(module)").unwrap();
        assert_ne!(program(&empty, 1), program(&empty, 2));
        wasmparser::validate(&program(&empty, 1)).unwrap();
    }
}
