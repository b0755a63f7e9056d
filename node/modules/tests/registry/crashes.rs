//! Processes that are killed in the middle of a pull and its unpacking, a compilation, or a collection of what nobody uses:
//! this program, started again for a single test, does one of these without end until it is killed. Then all that the store
//! says that it has must be there, byte for byte, and what it has not can be had.
//!
//! `KUBEWASM_TEST_SIZE=full` makes it 200 kills of each kind.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use kubewasm_modules::{Compiler, Facts, PrecompileError};

use super::*;

/// What the process that is to be killed does, the directory of its store, and the image that it is about.
const WORK: &str = "KUBEWASM_TEST_WORK";
const STORE: &str = "KUBEWASM_TEST_STORE";
const IMAGE: &str = "KUBEWASM_TEST_IMAGE";

/// Files of the image, in two layers.
const FILES: usize = 300;
/// Machine code, as the compiler of these tests makes it: the module so many times.
const COPIES: usize = 64;

fn kills() -> usize {
    if std::env::var("KUBEWASM_TEST_SIZE").as_deref() == Ok("full") { 200 } else { 12 }
}

/// Writes much, piece by piece.
#[derive(Debug)]
struct Copies;

#[async_trait]
impl Compiler for Copies {
    fn key(&self) -> String {
        "copies".to_owned()
    }

    async fn compile(&self, module: &Path, out: &Path) -> Result<Facts, PrecompileError> {
        let module = fs::read(module).unwrap();
        let mut out = fs::File::create_new(out).unwrap();
        for _ in 0..COPIES {
            out.write_all(&module).unwrap();
            tokio::task::yield_now().await;
        }
        Ok(Facts { kind: "copies".to_owned(), ..Facts::default() })
    }
}

/// Uses an image as a node does, and returns the file of its machine code.
async fn run(store: &Store, reference: &Reference) -> std::path::PathBuf {
    let image = pull(store, reference).await.unwrap();
    let module = store.module(&image, "/app.wasm").await.unwrap();
    store.precompiled(None, &module, &Copies, "default").await.unwrap().path
}

/// Removes what the store has, as a collection does.
fn collect(store: &Store) {
    for image in store.list().unwrap() {
        store.remove_unused(&image.digest, SystemTime::now() + Duration::from_secs(1)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by the tests below, and does not end by itself"]
async fn work_in_another_process() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let work = std::env::var(WORK).unwrap();
    let reference: Reference = std::env::var(IMAGE).unwrap().parse().unwrap();
    let store = Store::open(Path::new(&std::env::var(STORE).unwrap()), StoreOptions::default()).unwrap();
    loop {
        // What is not the work at hand is done before it is said to begin.
        match work.as_str() {
            "pull" => collect(&store),
            "compile" => {
                collect(&store);
                pull(&store, &reference).await.unwrap();
            }
            "collect" => drop(run(&store, &reference).await),
            other => panic!("unknown work {other}"),
        }
        println!("begin");
        match work.as_str() {
            "pull" => drop(pull(&store, &reference).await.unwrap()),
            "compile" => drop(run(&store, &reference).await),
            _ => collect(&store),
        }
        println!("end");
    }
}

struct Worker {
    child: Child,
    said: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Worker {
    fn start(work: &str, store: &Path, reference: &Reference) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "crashes::work_in_another_process", "--nocapture"])
            .envs([(WORK, work), (STORE, store.to_str().unwrap()), (IMAGE, &reference.to_string())])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    /// Returns when the process has said this.
    fn until(&mut self, word: &str) {
        // The first line may begin with what the test harness says.
        while !self.said.next().expect("it goes on").unwrap().ends_with(word) {}
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Kills a process at its work at many moments between its begin and its end, and looks at what it has left.
async fn killed_at(work: &str) {
    let registry = Registry::start();
    let files: Vec<_> =
        (0..FILES).map(|number| (format!("srv/{number}"), vec![b'x'; 512 + number])).collect();
    let app = module(&"m".repeat(100_000));
    let lower: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    let layers = vec![(tar(&lower), TAR), (gzip(&tar(&[("app.wasm", &app)])), TAR_GZIP)];
    registry.push("app:v1", container(layers, json!({"Entrypoint": ["/app.wasm"]}))).await;
    let reference = registry.reference("app:v1");
    let directory = tempfile::tempdir().unwrap();

    let took = {
        let mut worker = Worker::start(work, directory.path(), &reference);
        worker.until("end");
        worker.until("begin");
        let begun = Instant::now();
        worker.until("end");
        begun.elapsed()
    };
    let kills = kills();
    for kill in 0..kills {
        let mut worker = Worker::start(work, directory.path(), &reference);
        worker.until("begin");
        // The moment is what this is about; nothing depends on where it falls.
        std::thread::sleep(took.mul_f64(kill as f64 / kills as f64));
        drop(worker);

        let store = Store::open(directory.path(), StoreOptions::default()).unwrap();
        is_good(&store, directory.path(), &app).await;
        let code = run(&store, &reference).await;
        assert_eq!(fs::read(code).unwrap(), app.repeat(COPIES), "kill {kill}");
        is_good(&store, directory.path(), &app).await;
        collect(&store);
        for place in ["blobs/sha256", "images", "names", "rootfs", "precompiled"] {
            let left = fs::read_dir(directory.path().join(place)).unwrap().count();
            assert_eq!(left, 0, "{place} after kill {kill}");
        }
    }
}

/// Whatever is in the store under a digest has that digest, and whatever image it says that it has is whole.
async fn is_good(store: &Store, directory: &Path, app: &[u8]) {
    for blob in fs::read_dir(directory.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        assert_eq!(Digest::of_file(&blob.path()).unwrap().hex(), blob.file_name().to_str().unwrap());
    }
    for image in store.list().unwrap() {
        let root = store.rootfs(&image).unwrap();
        assert_eq!(fs::read_dir(root.join("srv")).unwrap().count(), FILES);
        let module = store.module(&image, "/app.wasm").await.unwrap();
        assert_eq!(fs::read(module.path).unwrap(), app);
    }
    let sessions = fs::read_dir(directory.join("tmp")).unwrap().count();
    assert_eq!(sessions, 1, "what dead processes have left is swept");
}

#[tokio::test]
async fn killed_in_a_pull() {
    killed_at("pull").await;
}

#[tokio::test]
async fn killed_in_a_compilation() {
    killed_at("compile").await;
}

#[tokio::test]
async fn killed_in_a_collection() {
    killed_at("collect").await;
}
