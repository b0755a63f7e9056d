//! Sessions with containers, as users have them: kubectl with pipes or on a terminal, by each way to a node.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use k8s_openapi::api::core::v1::Pod;
use kubewasm_tests::{guests, node::Node, registry::image::Content};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::OnceCell,
};

use crate::{
    pods::{Pods, running},
    suite::{SOON, suite},
};

/// How the streams of kubectl come to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// By WebSocket, which the API server hands on to a node that declares `ExtendWebSocketsToKubelet`.
    WebSocket,
    /// By WebSocket to an API server that hands none on: it speaks SPDY to the node, as those before 1.36 do.
    Translated,
    /// By SPDY all the way, as kubectl did before 1.31.
    Spdy,
}

pub(crate) const ROUTES: [Route; 3] = [Route::WebSocket, Route::Translated, Route::Spdy];

impl Route {
    /// Rights and API server of this route.
    pub(crate) async fn kubeconfig(self) -> PathBuf {
        match self {
            Self::WebSocket | Self::Spdy => suite().await.cluster.admin_kubeconfig(),
            Self::Translated => translating().await.clone(),
        }
    }

    /// kubectl, on its way by this route, for a namespace.
    pub(crate) async fn kubectl(self, namespace: &str, arguments: &[&str]) -> Command {
        let kubeconfig = self.kubeconfig().await;
        kubectl_as(&kubeconfig, self, namespace, arguments).await
    }
}

/// The same with other rights.
pub(crate) async fn kubectl_as(
    kubeconfig: &Path,
    route: Route,
    namespace: &str,
    arguments: &[&str],
) -> Command {
    let mut command = Command::new(suite().await.cluster.kubectl_path());
    command.arg("--kubeconfig").arg(kubeconfig).args(["--namespace", namespace]).args(arguments);
    for variable in ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"] {
        command.env(variable, if route == Route::Spdy { "false" } else { "true" });
    }
    command.kill_on_drop(true);
    command
}

/// Kubeconfig of an API server of the shared cluster that hands no WebSockets on to nodes.
async fn translating() -> &'static PathBuf {
    static KUBECONFIG: OnceCell<PathBuf> = OnceCell::const_new();
    let start = async || {
        let cluster = &suite().await.cluster;
        cluster.start_apiserver_beside("translating", ",ExtendWebSocketsToKubelet=false").await.unwrap()
    };
    KUBECONFIG.get_or_init(start).await
}

/// The image of `tests/guests/toolbox.c`, whose tools are called by their names.
pub(crate) async fn toolbox() -> &'static str {
    static IMAGE: OnceCell<String> = OnceCell::const_new();
    let push = async || {
        let content = Content::MultiCall {
            name: "toolbox".to_owned(),
            module: guests::guest("toolbox.c").await.unwrap(),
            links: ["cat", "sh", "tar", "test", "yes", "count"].map(str::to_owned).to_vec(),
        };
        suite().await.registry.push("toolbox:v1", &content).await.unwrap().tagged
    };
    IMAGE.get_or_init(push).await
}

/// A pod that runs the toolbox's interpreter with its input open.
pub(crate) async fn tools(pods: &Pods, name: &str) -> Pod {
    let main = json!({ "name": "main", "image": toolbox().await, "args": ["sh"], "stdin": true });
    pods.create(name, json!({ "containers": [main] })).await;
    pods.until(name, "running", running).await
}

/// How a command has ended, and what it has said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` when a signal has ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a command to its end, with all of `input` on its standard input.
pub(crate) async fn run(mut command: Command, input: &[u8]) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let write = async move {
        // Who reads no input to its end has ended, which the outcome tells.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let whole = async { tokio::join!(write, child.wait_with_output()).1.unwrap() };
    let output = tokio::time::timeout(SOON, whole).await.expect("an end");
    Ended {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A command that is talked with through pipes.
pub(crate) struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Session {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout }
    }

    /// Sends a line.
    pub(crate) async fn says(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        stdin.flush().await.unwrap();
    }

    /// The next line, which is to be this one.
    pub(crate) async fn hears(&mut self, line: &str) {
        assert_eq!(self.next_line().await, format!("{line}\n"));
    }

    /// Reads lines until this one.
    pub(crate) async fn hears_at_last(&mut self, line: &str) {
        loop {
            let heard = self.next_line().await;
            assert!(!heard.is_empty(), "{line:?} does not come: {}", self.errors().await);
            if heard == format!("{line}\n") {
                return;
            }
        }
    }

    /// The next line with its end; nothing at the end of its output.
    pub(crate) async fn next_line(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(SOON, self.stdout.read_line(&mut line)).await.expect("a line").unwrap();
        line
    }

    async fn errors(&mut self) -> String {
        let mut text = Vec::new();
        if let Some(stderr) = &mut self.child.stderr {
            tokio::time::timeout(SOON, stderr.read_to_end(&mut text)).await.expect("an end").unwrap();
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Says that no more will come.
    pub(crate) fn closes_input(&mut self) {
        self.stdin = None;
    }

    /// Kills the command, and waits until it is gone.
    pub(crate) async fn killed(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for its end, its input open or not.
    pub(crate) async fn ends(mut self) -> Ended {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let errors = self.child.stderr.as_mut().unwrap();
        let whole =
            futures::future::try_join(self.stdout.read_to_end(&mut stdout), errors.read_to_end(&mut stderr));
        tokio::time::timeout(SOON, whole).await.expect("an end of its output").unwrap();
        let status = tokio::time::timeout(SOON, self.child.wait()).await.expect("an end").unwrap();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ended { code: status.code(), stdout, stderr }
    }
}

/// A command on a terminal of its own, with a user before it. `script` makes the terminal.
pub(crate) struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    device: String,
    shown: String,
}

impl Terminal {
    /// Runs a command on a terminal of 77 columns and 33 lines.
    pub(crate) async fn start(command: &Command) -> Self {
        let command = command.as_std();
        let line: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''")))
            .collect();
        let mut script = Command::new("/usr/bin/script");
        let line = format!("stty cols 77 rows 33; tty; exec {}", line.join(" "));
        script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").kill_on_drop(true);
        for (name, value) in command.get_envs() {
            script.env(name, value.unwrap_or_default());
        }
        if let Some(directory) = command.get_current_dir() {
            script.current_dir(directory);
        }
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (keyboard, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut terminal = Self { child, keyboard, screen, device: String::new(), shown: String::new() };
        let first = terminal.shows("\r\n").await;
        terminal.device = first.trim_end().to_owned();
        terminal
    }

    /// Makes the window another size, as a user does with the mouse.
    pub(crate) async fn resizes(&self, columns: u16, lines: u16) {
        let mut stty = Command::new("stty");
        stty.args(["-F", &self.device, "cols", &columns.to_string(), "rows", &lines.to_string()]);
        assert!(stty.status().await.unwrap().success());
    }

    /// Presses keys.
    pub(crate) async fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).await.unwrap();
        self.keyboard.flush().await.unwrap();
    }

    /// Waits until the screen shows this, and returns all that it has shown since the last time, up to there.
    pub(crate) async fn shows(&mut self, part: &str) -> String {
        let read = async {
            loop {
                if let Some(at) = self.shown.find(part) {
                    let rest = self.shown.split_off(at + part.len());
                    return std::mem::replace(&mut self.shown, rest);
                }
                let mut bytes = [0; 4096];
                let size = self.screen.read(&mut bytes).await.unwrap();
                assert!(size > 0, "it has ended and shows no {part:?}, but {:?}", self.shown);
                self.shown.push_str(&String::from_utf8_lossy(&bytes[..size]));
            }
        };
        match tokio::time::timeout(SOON, read).await {
            Ok(shown) => shown,
            Err(_) => panic!("no {part:?} on the screen, which shows {:?}", self.shown),
        }
    }

    /// Waits for the end of the command: its exit code, and what it has shown since.
    pub(crate) async fn ends(mut self) -> (Option<i32>, String) {
        let mut rest = Vec::new();
        let read = self.screen.read_to_end(&mut rest);
        if tokio::time::timeout(SOON, read).await.is_err() {
            panic!("no end; the screen shows {:?}", self.shown + &String::from_utf8_lossy(&rest));
        }
        let status = tokio::time::timeout(SOON, self.child.wait()).await.expect("an end").unwrap();
        (status.code(), self.shown + &String::from_utf8_lossy(&rest))
    }
}

/// Resident memory of a node's agent and of its workers, in MiB.
pub(crate) fn resident_mib(node: &Node) -> u64 {
    let all = kubewasm_tests::process::all_under(node.root()).unwrap();
    let of = |pid: &rustix::process::Pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let size = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        size.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    all.iter().filter_map(of).sum::<u64>() / 1024
}
