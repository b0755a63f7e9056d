//! Processes that are killed in the middle of a pull, an unpacking or a removal: this program, started again for a single
//! test, does nothing else until it is.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::*;

/// The directory of the other process's store, and the images that it pulls, with commas between them.
const STORE: &str = "KUBEWASM_TEST_STORE";
const IMAGES: &str = "KUBEWASM_TEST_IMAGES";
/// How often it is killed.
const KILLS: &str = "KUBEWASM_TEST_KILLS";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by the test below, and does not end by itself"]
async fn pull_and_remove_in_another_process() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = PathBuf::from(std::env::var_os(STORE).unwrap());
    let store = Store::open(&store, StoreOptions::default()).unwrap();
    let images = std::env::var(IMAGES).unwrap();
    let images: Vec<ImageName> = images.split(',').map(|name| name.parse().unwrap()).collect();
    println!("begun");
    loop {
        let pulls = join_all(images.iter().map(|name| store.pull(name, &[], None))).await;
        for pulled in pulls {
            let _ = store.remove(&pulled.unwrap().image.reference);
        }
    }
}

/// Starts the other process, and kills it when it has worked for a while.
fn kill_one(store: &Path, images: &str, after: Duration) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", "crashes::pull_and_remove_in_another_process"]);
    command.env(STORE, store).env(IMAGES, images).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("begun")), "it has not even begun");
    std::thread::sleep(after);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "it ended by itself: {status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_good_after_each_kill() {
    let registry = Registry::start();
    let plain = module("plain");
    registry.push("plain", artifact(plain.clone(), WASM, None)).await;
    let files: Vec<(String, Vec<u8>)> =
        (0..200).map(|number| (format!("etc/{number}"), vec![7; 2000])).collect();
    let mut files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    files.push(("app.wasm", &plain));
    let layers = vec![(gzip(&tar(&files)), TAR_GZIP), (tar(&[("more.wasm", &plain)]), TAR)];
    registry.push("files", container(layers, json!({"Cmd": ["/app.wasm"]}))).await;

    let directory = tempfile::TempDir::new().unwrap();
    let references = ["plain", "files"].map(|name| registry.reference(name));
    let images = references.each_ref().map(ToString::to_string).join(",");
    let kills: u64 = std::env::var(KILLS).ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    for kill in 0..kills {
        // Other moments each time; which of them matter, nobody knows.
        let (path, images) = (directory.path().to_owned(), images.clone());
        let after = Duration::from_millis(kill * 7 % 60);
        tokio::task::spawn_blocking(move || kill_one(&path, &images, after)).await.unwrap();

        let store = Store::open(directory.path(), StoreOptions::default()).unwrap();
        for reference in &references {
            // What is there after a kill is whole, and what is not can be had.
            let kept = store.get(&reference.into()).unwrap();
            for image in kept.into_iter().chain([pull(&store, reference).await.unwrap()]) {
                let found = store.module(&image, "/app.wasm").await.unwrap();
                assert_eq!(fs::read(found.path).unwrap(), plain, "kill {kill}");
                if let Some(root) = store.rootfs(&image) {
                    assert_eq!(fs::read_dir(root.join("etc")).unwrap().count(), 200, "kill {kill}");
                }
            }
            store.remove(&reference.into()).unwrap();
        }
        for place in ["blobs/sha256", "images", "names", "rootfs"] {
            let left = fs::read_dir(directory.path().join(place)).unwrap().count();
            assert_eq!(left, 0, "{place} after kill {kill}");
        }
        assert_eq!(fs::read_dir(directory.path().join("tmp")).unwrap().count(), 1, "litter is swept");
    }
}
