use std::time::Instant as Clock;

use super::*;
use crate::files::{Files, Way};
use kubewasm_host::{HostOptions, ModuleKind, Stack};

const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    dir: tempfile::TempDir,
    hosting: Hosting,
}

impl Bench {
    fn new(most: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(Host::new(HostOptions::new(dir.path().join("empty"))).unwrap());
        let spins =
            wat::parse_str(r#"(module (func (export "_start") (loop $for_ever (br $for_ever))))"#).unwrap();
        std::fs::write(
            dir.path().join("spins"),
            host.engine(ModuleKind::CoreCommand.generation()).unwrap().precompile_module(&spins).unwrap(),
        )
        .unwrap();
        let threads = Threads { guests: Handle::current(), logs: Handle::current() };
        Self { hosting: Hosting::new(host, threads, LogOptions::default(), most), dir }
    }

    /// Starts an instance with its files.
    async fn start(&self, spec: InstanceSpec) -> Result<Instance, HostingError> {
        self.start_in(spec, "").await
    }

    async fn start_in(&self, spec: InstanceSpec, session: &str) -> Result<Instance, HostingError> {
        self.hosting.handovers().put(&spec.id, self.given(&spec));
        self.hosting.start(spec, session).await
    }

    fn given(&self, spec: &InstanceSpec) -> Given {
        let files = Files::new(Way::Preopens { why: "not tried".into() });
        files.make(&spec.root, None, self.dir.path()).unwrap().into()
    }

    fn spins(&self, id: &str) -> InstanceSpec {
        let (module, log_path) = (self.dir.path().join("spins"), self.dir.path().join("0.log"));
        InstanceSpec {
            pod_uid: "uid".into(),
            name: "ns/pod/c".into(),
            argv: vec!["spins".into()],
            terminal: true,
            ..InstanceSpec::new(id, module, ModuleKind::CoreCommand, log_path)
        }
    }

    async fn until_tasks(&self, expected: usize) {
        let started = Clock::now();
        while Handle::current().metrics().num_alive_tasks() != expected {
            assert!(started.elapsed() < PATIENCE, "there are never {expected} tasks");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn an_exec_ends_with_its_caller() {
    let bench = Bench::new(9);
    bench.start(bench.spins("a")).await.unwrap();
    // The guest, and the task that waits for its end.
    bench.until_tasks(2).await;
    let argv = ["probe".to_owned()];
    let exec = bench.hosting.exec("a", &argv, None, PATIENCE, 10);
    assert!(tokio::time::timeout(Duration::from_millis(50), exec).await.is_err());
    bench.until_tasks(2).await;
}

#[tokio::test]
async fn an_exec_ends_with_its_container() {
    let bench = Bench::new(9);
    bench.start(bench.spins("a")).await.unwrap();
    let argv = ["probe".to_owned()];
    let exec = bench.hosting.exec("a", &argv, None, PATIENCE * 2, 10);
    let (outcome, ()) = tokio::join!(exec, async {
        bench.until_tasks(3).await;
        bench.hosting.stop("a", Duration::ZERO);
    });
    assert!(!outcome.unwrap().timed_out);
}

#[tokio::test]
async fn there_is_a_log_of_what_has_run_and_of_nothing_else() {
    let bench = Bench::new(9);
    let tight = InstanceSpec { memory_limit_bytes: 1, ..bench.spins("tight") };
    assert!(bench.start(tight.clone()).await.is_err());
    assert!(!tight.log_path.exists());
    std::fs::write(&tight.log_path, "an earlier one\n").unwrap();
    assert!(bench.start(tight.clone()).await.is_err());
    assert!(tight.log_path.exists(), "what another one has written stays");
    let other = InstanceSpec { log_path: bench.dir.path().join("1.log"), ..bench.spins("a") };
    bench.start(other.clone()).await.unwrap();
    assert!(other.log_path.exists());
}

/// A start that takes long is given up by a removal, and the removal returns when nothing can come of it. Until
/// then who asks for the same start waits for it.
#[tokio::test]
async fn a_start_is_given_up_before_it_is_forgotten() {
    let bench = Bench::new(9);
    // A module that is a pipe takes as long as nobody opens its other end.
    let pipe = bench.dir.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let slow = InstanceSpec { module: pipe.clone(), ..bench.spins("a") };
    let begun = |bench: &Bench| bench.hosting.picture().starting == ["a"];
    let (first, second, ()) = tokio::join!(bench.start(slow.clone()), bench.start(slow.clone()), async {
        while !begun(&bench) {
            tokio::task::yield_now().await;
        }
        bench.hosting.begin_session("later".into());
        assert!(bench.hosting.remove("a").await);
        assert!(!begun(&bench));
    });
    assert!(matches!(first, Err(HostingError::GivenUp)), "{first:?}");
    assert!(matches!(second, Err(HostingError::Stale)), "{second:?}");
    assert!(!slow.log_path.exists());
    // Lets go of the thread that waits for the other end, or finds none when it comes so late.
    let other_end = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    std::fs::remove_file(pipe).unwrap();
    assert!(bench.start_in(bench.spins("a"), "later").await.is_ok(), "its id is free again");
    drop(other_end);
}

#[tokio::test]
async fn a_full_worker_says_how_to_make_room() {
    let bench = Bench::new(1);
    bench.start(bench.spins("a")).await.unwrap();
    bench.start(bench.spins("a")).await.expect("the same again is no second one");
    let error = bench.start(bench.spins("b")).await.unwrap_err().to_string();
    assert!(error.contains("sysctl -w vm.max_map_count="), "{error}");
    assert!(bench.hosting.remove("a").await);
    bench.start(bench.spins("b")).await.unwrap();
}

#[tokio::test]
async fn nothing_starts_whose_files_were_not_handed_over() {
    let bench = Bench::new(9);
    let error = bench.hosting.start(bench.spins("a"), "").await.unwrap_err();
    assert!(matches!(error, HostingError::NoFiles), "{error}");
    bench.start(bench.spins("a")).await.expect("its id is free");
}

#[tokio::test]
async fn a_grace_is_shortened_and_never_lengthened() {
    let bench = Bench::new(1);
    let (stop, mut deadline) = watch::channel(None);
    let loaded = bench
        .hosting
        .0
        .host
        .load(&bench.spins("a").module, ModuleKind::CoreCommand, Stack::DEFAULT)
        .await
        .unwrap();
    let spec = Arc::new(bench.spins("a"));
    let root = Arc::new(bench.given(&spec).root);
    let account = bench.hosting.0.account(&spec);
    let place = LogPlace::at(&spec.log_path).unwrap();
    let log = Log::open(place, LogOptions::default(), &Handle::current(), Box::new(|_| {})).unwrap();
    let running = HostedInstance {
        limits: Arc::default(),
        stdio: ContainerStdio::new(log, &spec, None),
        spec,
        loaded,
        root,
        account,
        http: None,
        memory_volumes: Arc::default(),
        stop,
        ended: CancellationToken::new(),
    };
    let mut deadlines = Vec::new();
    for seconds in [30, 60, 10] {
        running.stop_within(Duration::from_secs(seconds));
        deadlines.push(deadline.borrow_and_update().unwrap());
    }
    assert_eq!(deadlines[0], deadlines[1]);
    assert!(deadlines[2] < deadlines[1]);
}

/// An update that an earlier agent has sent, and that was read late, changes nothing.
#[tokio::test]
async fn the_tables_of_the_network_are_those_of_the_present_session() {
    let bench = Bench::new(1);
    let update = |base, revision| TablesUpdate { base, revision, ..TablesUpdate::default() };
    bench.hosting.begin_session("one".into());
    assert_eq!(bench.hosting.set_tables("one", update(None, 1)), SetTables::Applied);
    bench.hosting.begin_session("two".into());
    assert_eq!(bench.hosting.set_tables("one", update(Some(1), 2)), SetTables::Stale);
    assert_eq!(bench.hosting.set_tables("two", update(Some(2), 3)), SetTables::OutOfStep);
    assert_eq!(bench.hosting.set_tables("two", update(Some(1), 2)), SetTables::Applied);
}

/// Also of an instance that is there: a command serves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_those_of_the_present_session() {
    let bench = Bench::new(1);
    bench.start(bench.spins("a")).await.unwrap();
    bench.hosting.begin_session("2".into());
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let chain = params.self_signed(&key).unwrap();
    let certificate = ServerCertificate::from_der([chain.der().to_vec()], key.serialize_der()).unwrap();
    for (session, id, expected) in [
        ("1", "a", None),
        ("2", "a", Some(CertificateOutcome::NotServed)),
        ("2", "unknown", Some(CertificateOutcome::NotServed)),
    ] {
        assert_eq!(bench.hosting.set_certificate(session, id, &certificate).unwrap(), expected, "{id}");
    }
}

/// Limits are those of the present session's newest word, and never below what is used.
#[tokio::test]
async fn limits_of_an_instance_change_while_it_runs() {
    let bench = Bench::new(9);
    bench.hosting.begin_session("2".into());
    bench.start_in(InstanceSpec { memory_limit_bytes: 8 << 20, ..bench.spins("a") }, "2").await.unwrap();
    let used = bench.hosting.stats()[0].usage.memory_bytes;
    let limits = |memory_limit_bytes, pod_memory_limit_bytes| InstanceLimits {
        memory_limit_bytes,
        pod_memory_limit_bytes,
        cpu: kubewasm_host::CpuShare { limit_millis: 100, request_millis: 10 },
    };
    let below = |limit| kubewasm_host::BelowUse { used, limit };
    for (session, id, wanted, expected) in [
        ("1", "a", limits(4 << 20, 0), Resized::Stale),
        ("2", "unknown", limits(4 << 20, 0), Resized::NotRunning),
        ("2", "a", limits(used - 1, 0), Resized::BelowUse(below(used - 1))),
        ("2", "a", limits(4 << 20, used - 1), Resized::PodBelowUse(below(used - 1))),
        ("2", "a", limits(used, used), Resized::Applied),
        ("2", "a", limits(0, 0), Resized::Applied),
    ] {
        assert_eq!(bench.hosting.resize(session, id, wanted), expected, "{session} {id} {wanted:?}");
    }
    let running = bench.hosting.0.table.running("a").unwrap();
    let has = running.account.limits();
    assert_eq!((has.memory_bytes, has.cpu), (kubewasm_host::DEFAULT_MEMORY_LIMIT, limits(0, 0).cpu));
}
