//! A worker, a neighbour that behaves, and those that do not.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kubewasm_host::{Generation, ModuleKind, engine, exit::ExitReason, inspect};
use kubewasm_wasi::{
    instance::InstanceStats,
    spec::InstanceSpec,
    supervisor::{Supervisor, SupervisorOptions},
};

use crate::{guests, process::Worker, support};

/// What is awaited must come; how long it takes on a busy machine is not what these tests are about.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Longest that the neighbour may be held up. Its line is due every ten milliseconds.
const MOMENT: Duration = Duration::from_secs(2);
/// Lines that the neighbour prints before a test believes that it is well.
const LINES: usize = 40;
/// The group of all instances here.
const GROUP: &str = "node";
/// Name of the neighbour.
const NEIGHBOUR: &str = "neighbour";

/// A worker with a neighbour in it.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) agent: Supervisor,
}

impl World {
    /// Brings up the worker and the neighbour.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = SupervisorOptions {
            with_parent: true,
            ..SupervisorOptions::new(dir.path().join("workers"), support::program())
        };
        let world = Self { agent: Supervisor::open(options).await.unwrap(), dir };
        let neighbour = world.guest(NEIGHBOUR, &guests::ticks());
        world.start(NEIGHBOUR, &neighbour).await;
        world.until("the neighbour's first line", || !world.log(NEIGHBOUR).is_empty()).await;
        world
    }

    /// Compiles a guest; what it returns can be started any number of times.
    pub(crate) fn guest(&self, name: &str, wat: &str) -> InstanceSpec {
        let bytes = wat::parse_str(wat).unwrap();
        assert_eq!(inspect::inspect(&bytes).unwrap(), ModuleKind::CoreCommand);
        let module = self.dir.path().join(format!("{name}.module"));
        std::fs::write(
            &module,
            engine::new(Generation::Blocking).unwrap().precompile_module(&bytes).unwrap(),
        )
        .unwrap();
        InstanceSpec {
            pod_uid: "pod".into(),
            name: format!("default/{name}/main"),
            argv: vec!["guest".into()],
            memory_limit_bytes: 64 << 20,
            terminal: true,
            ..InstanceSpec::new(name, module, ModuleKind::CoreCommand, self.log_path(name))
        }
    }

    /// Starts an instance of a guest.
    pub(crate) async fn start(&self, id: &str, guest: &InstanceSpec) {
        let spec = InstanceSpec { id: id.into(), log_path: self.log_path(id), ..guest.clone() };
        self.agent.start(GROUP, &spec).await.unwrap();
    }

    /// Waits for the end of an instance.
    pub(crate) async fn exit(&self, id: &str) -> (i32, ExitReason) {
        let end = || self.agent.observe(id).and_then(|instance| instance.end);
        self.until("the end of an instance", || end().is_some()).await;
        let exit = end().unwrap().exit;
        (exit.code, exit.reason)
    }

    /// Asks instances to end within so many seconds, and waits until they have.
    pub(crate) async fn stop(&self, ids: &[String], grace: Duration) {
        let asked = Instant::now();
        for id in ids {
            self.agent.stop(id, grace).await.unwrap();
        }
        for id in ids {
            assert_eq!(self.exit(id).await.1, ExitReason::Stopped, "{id}");
        }
        assert!(asked.elapsed() < grace, "{} guests took {:?} to end", ids.len(), asked.elapsed());
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    pub(crate) fn log(&self, id: &str) -> String {
        std::fs::read_to_string(self.log_path(id)).unwrap_or_default()
    }

    pub(crate) fn worker(&self) -> Worker {
        let lock = self.dir.path().join("workers").join(GROUP).join("worker.lock");
        Worker(std::fs::read_to_string(lock).unwrap().trim().parse().unwrap())
    }

    /// What an instance has used.
    pub(crate) async fn stats(&self, id: &str) -> InstanceStats {
        let stats = self.agent.stats().await;
        stats.into_iter().find(|stats| stats.id == id).expect("the instance runs")
    }

    /// Waits until the neighbour has printed some more lines, and checks that it was never held up for long
    /// since `since`.
    pub(crate) async fn neighbour_is_well(&self, since: Timestamp) {
        let now = Timestamp::now();
        let lines_since = |when| self.ticks().into_iter().filter(move |at| *at > when);
        self.until("the neighbour's next lines", || lines_since(now).count() >= LINES).await;
        let mut last = since;
        for at in lines_since(since) {
            let gap = Duration::try_from(at.duration_since(last)).unwrap();
            assert!(gap < MOMENT, "the neighbour was held up for {gap:?}");
            last = at;
        }
    }

    /// When the neighbour printed.
    fn ticks(&self) -> Vec<Timestamp> {
        // A line that is being written has no end yet.
        let log = self.log(NEIGHBOUR);
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let stamp = |line: &str| line.split(' ').next().unwrap().parse().unwrap();
        whole.lines().map(stamp).collect()
    }

    pub(crate) async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        support::until(what, PATIENCE, || condition().then_some(())).await;
    }

    pub(crate) async fn end(self) {
        self.agent.shutdown(Duration::ZERO).await;
    }
}
