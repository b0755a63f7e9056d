//! Container images that buildah has made, in each of the forms that it pushes.

use std::{fs, path::PathBuf};

use kubewasm_tests::node;
use rustix::process::getuid;
use serde_json::json;
use tokio::process::Command;

use crate::{
    desk::{Desk, errors},
    suite::SOON,
};

/// Two layers of copies, one in which a file is taken away again, and an index with an image for Linux beside ours.
const SCRIPT: &str = r#"
set -e
b() { buildah --root="$PWD/storage" --runroot="$PWD/run" --storage-driver=vfs "$@"; }
push() { b push --tls-verify=false --authfile=docker/config.json --signature-policy=policy.json "$@"; }
b bud --layers --platform=wasi/wasm --format=oci -t plain -f Containerfile .
c=$(b from localhost/plain)
rm "$(b mount "$c")/gone.wasm"
b commit --signature-policy=policy.json --format=docker "$c" docker
b commit --signature-policy=policy.json --format=oci "$c" oci
b bud --no-cache --platform=linux/amd64 --format=oci -t linux -f Containerfile .
b manifest create both
b manifest add both containers-storage:localhost/linux
b manifest add --os=wasi --arch=wasm both containers-storage:localhost/oci
push docker docker://"$1"/docker:v1
push --compression-format=gzip oci docker://"$1"/oci:gzip
push --compression-format=zstd oci docker://"$1"/oci:zstd
b manifest push --all --tls-verify=false --authfile=docker/config.json --signature-policy=policy.json both docker://"$1"/both:v1
"#;

const CONTAINERFILE: &str = r#"
FROM scratch
COPY actor.wasm /gone.wasm
COPY actor.wasm /bin/actor.wasm
ENV COLOUR=blue
ENTRYPOINT ["/bin/actor.wasm"]
CMD ["say", "built"]
"#;

#[tokio::test]
async fn images_of_buildah_run_in_all_their_forms() {
    let desk = Desk::new().await;
    desk.log_in();
    let write = |name: &str, text: &str| fs::write(desk.path().join(name), text).unwrap();
    write("build.sh", SCRIPT);
    write("Containerfile", CONTAINERFILE);
    write("policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#);
    let mut command = Command::new("buildah");
    if getuid().is_root() {
        command = Command::new("/bin/sh");
    } else {
        command.args(["unshare", "/bin/sh"]);
    }
    command.args(["build.sh", &desk.registry.host()]).current_dir(desk.path()).kill_on_drop(true);
    let built = tokio::time::timeout(SOON * 2, command.output()).await.expect("an end").unwrap();
    assert!(built.status.success(), "these tests need buildah: {}", errors(&built));

    for name in ["docker:v1", "oci:gzip", "oci:zstd", "both:v1"] {
        let image = desk.registry.name(name);
        let pulled = desk.json(&["pull", &image]).await;
        assert_eq!(pulled["kind"], json!("filesystem"), "{name}");
        let manifest = pulled["manifest"].as_str().unwrap().trim_start_matches("sha256:");
        let files: PathBuf = desk.path().join("root/modules/rootfs").join(manifest);
        assert!(files.join("bin/actor.wasm").is_file() && !files.join("gone.wasm").exists(), "{name}");
        assert_eq!(pulled["manifest"] == pulled["digest"], name != "both:v1", "{name}");
        assert_eq!(desk.json(&["inspect", &image]).await["module"]["kind"], json!("core-command"), "{name}");

        let container = json!({ "name": "main", "image": image });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "built" },
            "spec": { "restartPolicy": "Never", "containers": [container] },
        });
        write("pod.yaml", &pod.to_string());
        let mut run = Command::new(node::program().unwrap());
        run.args(["run", "pod.yaml", "--root-dir=root"]).current_dir(desk.path()).kill_on_drop(true);
        run.env("TMPDIR", desk.path()).env("DOCKER_CONFIG", desk.path().join("docker"));
        let output = tokio::time::timeout(SOON, run.output()).await.expect("an end").unwrap();
        assert!(output.status.success(), "{name}: {}", errors(&output));
        assert!(
            String::from_utf8_lossy(&output.stdout).lines().any(|line| line.ends_with("built")),
            "{name}"
        );
    }
}
