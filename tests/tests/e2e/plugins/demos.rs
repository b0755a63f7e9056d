//! The plugins of the repository, and one that `kubewasm plugin new` makes: built, pushed, pulled and run by kubectl.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use kubewasm_tests::{
    cluster::{self, Cluster},
    guests,
    home::Home,
    node, process, wait,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::user::{User, end, registry};
use crate::{
    desk::errors,
    suite::{SOON, suite, with_temp_ns},
};

/// All that a host of plugins gives to a guest.
const GIVEN: [&str; 7] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:http/outgoing-handler@",
    "wasi:http/types@",
    "wasi:io/",
    "wasi:random/",
];

/// A megabyte of WebAssembly, on a machine with other things to do.
const TO_COMPILE: Duration = Duration::from_secs(600);

/// Pushes one of the repository's plugins as its README says, and pulls it.
async fn install(user: &User, home: &Home, name: &str) {
    let registry = registry(home, name).await;
    fs::write(user.work().join("plugin.wasm"), guests::rust::plugin(name).await.unwrap()).unwrap();
    let access = guests::repository().join("demos/plugins").join(name).join("access.yaml");
    let access = format!("plugin.kubewasm.dev/access={}", fs::read_to_string(access).unwrap());
    let uri = registry.name(&format!("plugins/{name}:v1"));
    let mut push = user.command(&node::program().unwrap());
    push.args(["module", "push", "plugin.wasm", &uri, "--annotation", &access]);
    push.args(["--annotation", "plugin.kubewasm.dev/completions=true"]);
    let pushed = end(push).await;
    assert!(pushed.status.success(), "{}", errors(&pushed));
    let pulled = pull(user, &[&uri]).await;
    assert_eq!(pulled["completions"], json!(true));
    assert_ne!(pulled["access"], Value::Null);
}

/// Pulls a plugin, and takes the time that compiling it takes while other tests compile.
async fn pull(user: &User, args: &[&str]) -> Value {
    let mut command = user.command(&node::program().unwrap());
    command.args(["plugin", "pull", "-o", "json"]).args(args);
    let output = tokio::time::timeout(TO_COMPILE, command.output()).await.expect("an end").unwrap();
    assert!(output.status.success(), "{args:?}: {}", errors(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What it shows is what is in the Secret, and what it says of an error is what kubectl itself says.
#[tokio::test]
async fn the_decoder_shows_what_is_in_secrets() {
    with_temp_ns(async |_, ns| {
        let cluster = &suite().await.cluster;
        let home = Home::temporary().unwrap();
        let user = User::new().await.with_kubeconfig(cluster.admin_kubeconfig());
        install(&user, &home, "decoder").await;

        let key = rcgen::KeyPair::generate().unwrap();
        let mut asked = rcgen::CertificateParams::new(vec!["web.example".to_owned()]).unwrap();
        asked.distinguished_name.push(rcgen::DnType::CommonName, "web.example");
        let certificate = asked.self_signed(&key).unwrap();
        fs::write(user.work().join("tls.crt"), certificate.pem()).unwrap();
        fs::write(user.work().join("tls.key"), key.serialize_pem()).unwrap();
        let create: [&[&str]; 3] = [
            &["generic", "db", "--from-literal=user=admin", "--from-literal=password=s3cr3t/ä"],
            &["tls", "web", "--cert=tls.crt", "--key=tls.key"],
            &[
                "docker-registry",
                "pull",
                "--docker-server=r.example",
                "--docker-username=u",
                "--docker-password=p:w",
            ],
        ];
        for args in create {
            user.kubectl_prints(&[&["create", "secret", "-n", ns], args].concat()).await;
        }

        let shown = user.kubectl_prints(&["decoder", "secret", "db", "-n", ns]).await;
        let expected = format!(
            "Name:       db\nNamespace:  {ns}\nType:       Opaque\n\npassword: s3cr3t/ä\n\nuser: admin\n"
        );
        assert_eq!(shown, expected);
        let raw = user.kubectl_prints(&["decoder", "secret", "db", "-n", ns, "--key", "password"]).await;
        assert_eq!(raw, "s3cr3t/ä");
        let web = user.kubectl_prints(&["decoder", "secret", "web", "-n", ns, "-o", "json"]).await;
        let web: Value = serde_json::from_str(&web).unwrap();
        let read = &web["data"]["tls.crt"]["certificates"][0];
        assert_eq!((&read["subject"], &read["names"]), (&json!("CN=web.example"), &json!(["web.example"])));
        assert!(read["daysLeft"].as_i64().unwrap() > 0, "{read}");
        let logins = user.kubectl_prints(&["decoder", "secret/pull", "-n", ns]).await;
        assert!(logins.contains("  r.example   u          p:w\n"), "{logins}");

        // Errors are kubectl's: there is none, and who may not.
        for (name, more) in [("gone", &[][..]), ("db", &["--as=nobody"])] {
            let ours = user.kubectl(&[&["decoder", "secret", name, "-n", ns], more].concat()).await;
            let kubectls = user.kubectl(&[&["get", "secret", name, "-n", ns], more].concat()).await;
            assert_eq!((ours.status.code(), &*ours.stdout), (Some(1), &b""[..]));
            assert_eq!(errors(&ours), errors(&kubectls));
        }

        // kubectl asks the companion when a shell asks kubectl.
        let offered = user.kubectl_prints(&["__complete", "decoder", "secret", "-n", ns, ""]).await;
        assert_eq!(offered.lines().collect::<Vec<_>>(), ["db", "pull", "web", ":4"]);
    })
    .await;
}

/// A plugin that prints events, line by line.
struct Followed {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    err: PathBuf,
}

impl Followed {
    fn start(user: &User, args: &[&str]) -> Self {
        let err = user.home().join("stderr");
        let mut command = user.kubectl_command();
        command.args(args).stdout(Stdio::piped()).stderr(fs::File::create(&err).unwrap());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, err }
    }

    /// Reads on to an event of a pod, and returns its line.
    async fn until(&mut self, event: &str, pod: &str) -> String {
        let found = tokio::time::timeout(SOON, async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                let words: Vec<_> = line.split_whitespace().collect();
                if words.starts_with(&[event, pod]) {
                    return line;
                }
            }
            panic!("it has ended before {event} {pod}: {}", self.errors());
        });
        found.await.unwrap_or_else(|_| panic!("no {event} {pod}: {}", self.errors()))
    }

    fn errors(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    /// Ends it as Ctrl-C does.
    async fn interrupt(mut self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let ended = tokio::time::timeout(SOON, self.child.wait()).await.expect("an end").unwrap();
        assert_eq!(ended.code(), Some(130));
    }
}

/// How long podwatch is used between two restarts: a second, or, with `KUBEWASM_TEST_SIZE=full`, longer than any watch lasts.
fn some_time() -> Duration {
    let is_full = std::env::var("KUBEWASM_TEST_SIZE").is_ok_and(|size| size == "full");
    Duration::from_secs(if is_full { 330 } else { 1 })
}

/// A kubeconfig with a program that makes a new token whenever it is asked, and says that it is soon over. It notes down how
/// often it was asked.
fn with_fresh_tokens(user: &User, cluster: &Cluster) -> (PathBuf, PathBuf) {
    let (login, asked) = (user.home().join("login"), user.home().join("asked"));
    let kubectl = cluster.kubectl_path();
    let script = format!(
        "#!/bin/sh\nset -e\necho asked >>{asked}\n\
         until token=$({kubectl} --kubeconfig {admin} create token default); do sleep 0.2; done\n\
         over=$(date -u -d '+2 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
         echo '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":'\\\n\
         '{{\"token\":\"'$token'\",\"expirationTimestamp\":\"'$over'\"}}}}'\n",
        asked = asked.display(),
        kubectl = kubectl.display(),
        admin = cluster.admin_kubeconfig().display(),
    );
    fs::write(&login, script).unwrap();
    fs::set_permissions(&login, fs::Permissions::from_mode(0o755)).unwrap();
    let admin = fs::read_to_string(cluster.admin_kubeconfig()).unwrap();
    let mut config: Value = serde_yaml_ng::from_str(&admin).unwrap();
    config["users"][0]["user"] = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": login, "interactiveMode": "Never",
    }});
    let path = user.home().join("kubeconfig");
    fs::write(&path, serde_yaml_ng::to_string(&config).unwrap()).unwrap();
    (path, asked)
}

/// What is added, changed and deleted is printed as it happens, before and after the API server was away, and with another token
/// than at the beginning.
#[tokio::test]
async fn podwatch_follows_pods_across_a_restart_of_the_api_server() {
    // A control plane of its own: others go on.
    let home = Home::temporary().unwrap();
    let cluster = Cluster::start(&home).await.unwrap();
    cluster::await_default_service_account(&cluster.client().await.unwrap(), "default").await.unwrap();
    let grant =
        ["create", "clusterrolebinding", "view", "--clusterrole=view", "--serviceaccount=default:default"];
    cluster.kubectl(&grant).await.unwrap();
    let user = User::new().await;
    let (kubeconfig, asked) = with_fresh_tokens(&user, &cluster);
    let user = user.with_kubeconfig(kubeconfig);
    install(&user, &home, "podwatch").await;

    // Pods that no node runs: what happens to them is what the test does.
    let create = async |name: &str| {
        let arguments = ["run", name, "--image=none", "--labels=app=watched"];
        wait::until("a pod", SOON, async || {
            cluster.kubectl(&arguments).await.map_err(|error| error.to_string())
        })
        .await
        .unwrap();
    };
    let delete = async |name: &str| {
        cluster.kubectl(&["delete", "pod", name, "--force", "--grace-period=0"]).await.unwrap();
    };
    create("there").await;
    let mut watch = Followed::start(&user, &["podwatch", "-l", "app=watched"]);
    let line = watch.until("ADDED", "there").await;
    assert!(line.contains("0/1") && line.contains("Pending") && line.ends_with("<none>"), "{line}");

    for round in 0..2 {
        let name = format!("round-{round}");
        create(&name).await;
        watch.until("ADDED", &name).await;
        cluster.kubectl(&["label", "pod", &name, "changed=yes"]).await.unwrap();
        watch.until("MODIFIED", &name).await;
        delete(&name).await;
        watch.until("DELETED", &name).await;
        tokio::time::sleep(some_time()).await;
        cluster.stop_apiserver().await.unwrap();
        wait::until("a word about it", SOON, async || {
            let told = watch.errors();
            let count = told.matches("Unable to connect to the server: ").count();
            if count > round { Ok(()) } else { Err(told) }
        })
        .await
        .unwrap();
        cluster.start_apiserver().await.unwrap();
    }
    delete("there").await;
    watch.until("DELETED", "there").await;
    assert!(watch.errors().contains("The watch goes on.\n"), "{}", watch.errors());
    let asked = fs::read_to_string(asked).unwrap();
    assert!(asked.lines().count() > 1, "tokens were renewed");
    watch.interrupt().await;
}

/// What `kubewasm plugin new` makes passes its own test, builds, takes nothing that a host does not give, and runs.
#[tokio::test]
async fn a_new_plugin_builds_and_runs() {
    let cluster = &suite().await.cluster;
    let user = User::new().await.with_kubeconfig(cluster.admin_kubeconfig());
    let made = user.json(&["new", "pod-ages"]).await;
    assert_eq!((&made["folder"], &made["next"][0]), (&json!("kubectl-pod-ages"), &json!("cargo test")));
    let folder = user.work().join("kubectl-pod-ages");
    run_tests(&folder).await;
    let component = guests::rust::program(&folder, "kubectl-pod-ages").await.unwrap();
    let imports = imports(&component);
    assert!(imports.iter().any(|name| name.starts_with("wasi:http/outgoing-handler@")), "{imports:?}");
    let is_given = |name: &String| GIVEN.iter().any(|given| name.starts_with(given));
    assert!(imports.iter().all(is_given), "{imports:?}");

    fs::write(folder.join("kubectl-pod-ages.wasm"), component).unwrap();
    let (file, access) = ("./kubectl-pod-ages/kubectl-pod-ages.wasm", "kubectl-pod-ages/access.yaml");
    pull(&user, &[file, "--access", access]).await;
    let ran = user.plugin(&["run", file, "--access", access, "--", "-A", "-l", "no=such"]).await;
    assert_eq!((ran.status.code(), &*ran.stdout), (Some(0), &b"NAME   NODE   AGE\n"[..]), "{}", errors(&ran));
    let help = user.kubectl_prints(&["pod-ages", "--help"]).await;
    assert!(help.contains("kubectl pod-ages [options]"), "{help}");
    let wrong = user.kubectl(&["pod-ages", "--nope"]).await;
    assert_eq!(errors(&wrong), "error: unknown flag: --nope\nSee 'kubectl pod-ages --help' for usage.\n");

    let again = user.fails(&["new", "pod-ages"]).await;
    assert!(again.contains("kubectl-pod-ages is there already"), "{again}");
    let taken = user.fails(&["new", "get"]).await;
    assert!(taken.contains("kubectl has a command \"get\" of its own"), "{taken}");
}

/// Runs a project's own tests, with what was compiled for those of the repository's plugins.
async fn run_tests(folder: &Path) {
    let mut command = Command::new(process::find_program("cargo").unwrap());
    command
        .args(["test", "--quiet", "--bins", "--target-dir"])
        .arg(guests::cache().unwrap().join("guests/rust"));
    command.arg("--manifest-path").arg(folder.join("Cargo.toml")).current_dir(guests::repository());
    process::run_command(command).await.unwrap();
}

/// What a component takes from its host.
fn imports(component: &[u8]) -> Vec<String> {
    let mut depth = 0;
    let mut names = Vec::new();
    for payload in wasmparser::Parser::new(0).parse_all(component) {
        match payload.unwrap() {
            wasmparser::Payload::ModuleSection { .. } | wasmparser::Payload::ComponentSection { .. } => {
                depth += 1
            }
            wasmparser::Payload::End(_) => depth -= 1,
            wasmparser::Payload::ComponentImportSection(section) if depth == 0 => {
                names.extend(section.into_iter().map(|import| import.unwrap().name.name.to_owned()));
            }
            _ => {}
        }
    }
    names
}
