//! `kubectl cp`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    pods::{Pods, running},
    sessions::{ROUTES, Route, run, toolbox},
    suite::with_temp_ns,
};

/// Files and directories are copied to a pod and from it, where its image has a `tar`.
#[tokio::test]
async fn files_are_copied_both_ways() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let main = json!({
            "name": "main", "image": toolbox().await, "args": ["sh"], "stdin": true,
            "volumeMounts": [{ "name": "work", "mountPath": "/work" }],
        });
        let volumes = json!([{ "name": "work", "emptyDir": {} }]);
        pods.create("tools", json!({ "containers": [main], "volumes": volumes })).await;
        pods.until("tools", "running", running).await;
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        fs::create_dir_all(source.join("deep/er")).unwrap();
        for (name, content) in [
            ("small", b"of a file\n".as_slice()),
            ("deep/er/large", &large),
            ("deep/empty", b""),
            ("with a space and ümläuts", b"x"),
            (&"long".repeat(40), b"y"),
        ] {
            fs::write(source.join(name), content).unwrap();
        }
        for (route, name) in ROUTES.into_iter().zip(["one", "two", "three"]) {
            let copy = async |from: &str, to: &str| {
                let mut kubectl = route.kubectl(ns, &["cp", from, to]).await;
                kubectl.current_dir(folder.path());
                let ended = run(kubectl, b"").await;
                assert_eq!(ended.code, Some(0), "{route:?}: {from} to {to}: {ended:?}");
            };
            copy("source", &format!("tools:/work/{name}")).await;
            copy(&format!("tools:/work/{name}"), name).await;
            assert_eq!(tree(&folder.path().join(name)), tree(&source), "{route:?}");
            // Into a directory that is there, and under another name.
            copy("source/small", "tools:/work").await;
            copy("tools:/work/small", &format!("{name}-small")).await;
            assert_eq!(fs::read(folder.path().join(format!("{name}-small"))).unwrap(), b"of a file\n");
        }
        let kubectl = Route::WebSocket.kubectl(ns, &["cp", "tools:/work/nothing", "nothing"]).await;
        let ended = run(kubectl, b"").await;
        // kubectl shows there what a command says on its standard error.
        assert!(ended.text().contains("stat /work/nothing: No such file"), "{ended:?}");
    })
    .await;
}

/// The files below a folder, with what is in them.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}
