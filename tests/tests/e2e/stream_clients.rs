//! Clients of others that have streams to containers: those of kube-rs, by WebSocket, and those of client-go, by SPDY.

use futures::{SinkExt as _, StreamExt as _, future::join_all, stream};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, Client,
    api::{AttachParams, TerminalSize},
};
use kubewasm_tests::{
    cluster::{self, programs},
    ports,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
};

use crate::{
    http::serve_http,
    pods::{Pods, running},
    sessions::{Route, run, tools},
    suite::{SOON, with_temp_ns},
};

/// How many sessions there are at once.
const MANY: usize = 100;

/// What speaks WebSocket does so with an API server that hands it on, and with one that does not.
const ROUTES: [Route; 2] = [Route::WebSocket, Route::Translated];

/// A client of kube-rs by a route.
async fn client_by(route: Route) -> Client {
    Client::try_from(cluster::config_of(&route.kubeconfig().await).await.unwrap()).unwrap()
}

/// How a command has ended, as the server has told it: its exit code, or why there is none.
fn code(status: Option<Status>) -> Result<i32, String> {
    let Some(status) = status else { return Err("no status".to_owned()) };
    match (status.status.as_deref(), status.reason.as_deref()) {
        (Some("Success"), _) => Ok(0),
        (Some("Failure"), Some("NonZeroExitCode")) => {
            let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
            let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
            Ok(code.and_then(|cause| cause.message).unwrap().parse().unwrap())
        }
        _ => Err(format!("{status:?}")),
    }
}

/// kube-rs' exec: both outputs, an input that ends, exit codes, a terminal.
#[tokio::test]
async fn kube_rs_runs_commands() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "tools").await;
        for route in ROUTES {
            let api: Api<Pod> = Api::namespaced(client_by(route).await, ns);
            let params = AttachParams::default().stdin(true).stdout(true).stderr(true);
            let mut process = api.exec("tools", ["sh"], &params).await.unwrap();
            let status = process.take_status().unwrap();
            let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
            let mut stderr = process.stderr().unwrap();
            stdin.write_all(b"echo hello\nwarn of this\nexit 3\n").await.unwrap();
            let (mut out, mut err) = (String::new(), String::new());
            let (code_of, _, _) =
                tokio::join!(status, stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
            assert_eq!((out.as_str(), err.as_str()), ("ready\nhello\n", "of this\n"), "{route:?}");
            assert_eq!(code(code_of), Ok(3), "{route:?}");
            process.join().await.unwrap();

            let mut process = api.exec("tools", ["count"], &params).await.unwrap();
            let status = process.take_status().unwrap();
            let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
            let mut out = String::new();
            let write = async move {
                stdin.write_all(&vec![0; 3 << 20]).await.unwrap();
                stdin.shutdown().await.unwrap();
            };
            let (code_of, _, _) = tokio::join!(status, stdout.read_to_string(&mut out), write);
            assert_eq!(
                (code(code_of), out.as_str()),
                (Ok(0), "3145728 bytes, 0000000000000000\n"),
                "{route:?}"
            );

            let on_terminal = AttachParams::interactive_tty();
            let mut process = api.exec("tools", ["sh"], &on_terminal).await.unwrap();
            let status = process.take_status().unwrap();
            let (mut stdin, stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
            let mut size = process.terminal_size().unwrap();
            size.send(TerminalSize { width: 91, height: 31 }).await.unwrap();
            stdin.write_all(b"terminal\r").await.unwrap();
            let mut lines = BufReader::new(stdout).lines();
            let shown = async {
                while let Some(line) = lines.next_line().await.unwrap() {
                    if line.contains("a terminal, ") {
                        return line;
                    }
                }
                String::new()
            };
            let shown = tokio::time::timeout(SOON, shown).await.expect("what is shown");
            assert!(shown.contains("a terminal, "), "{route:?}: {shown:?}");
            stdin.write_all(b"exit 0\r").await.unwrap();
            assert_eq!(code(tokio::time::timeout(SOON, status).await.expect("an end")), Ok(0), "{route:?}");
        }
    })
    .await;
}

/// What cannot be run is told as a shell does.
#[tokio::test]
async fn kube_rs_is_told_what_cannot_be_run() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "tools").await;
        for route in ROUTES {
            let api: Api<Pod> = Api::namespaced(client_by(route).await, ns);
            let mut process = api.exec("tools", ["nonsense"], &AttachParams::default()).await.unwrap();
            let (status, mut stderr) = (process.take_status().unwrap(), process.stderr().unwrap());
            let mut said = String::new();
            let both = async { tokio::join!(status, stderr.read_to_string(&mut said)).0 };
            let status = tokio::time::timeout(SOON, both).await.expect("a status");
            assert_eq!(code(status), Ok(127), "{route:?}: {said}");
            assert!(said.contains("executable file not found in $PATH"), "{route:?}: {said}");
        }
    })
    .await;
}

/// A hundred commands of one client at once, each connected to its own caller.
#[tokio::test]
async fn kube_rs_runs_a_hundred_commands_at_once() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "tools").await;
        for route in ROUTES {
            let api: Api<Pod> = Api::namespaced(client_by(route).await, ns);
            let params = AttachParams::default().stdin(true).stdout(true).stderr(false);
            let begin = async |number: usize| {
                let mut process = api.exec("tools", ["cat"], &params).await.unwrap();
                let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
                let text = format!("of {number:3}");
                stdin.write_all(text.as_bytes()).await.unwrap();
                let mut back = vec![0; text.len()];
                stdout.read_exact(&mut back).await.unwrap();
                assert_eq!(String::from_utf8(back).unwrap(), text);
                (process, stdin, stdout)
            };
            let begun: Vec<_> = stream::iter(0..MANY).map(begin).buffer_unordered(MANY).collect().await;
            // All of them run now.
            let ends = begun.into_iter().map(async |(mut process, mut stdin, mut stdout)| {
                let status = process.take_status().unwrap();
                stdin.shutdown().await.unwrap();
                let mut rest = String::new();
                let (status, _) = tokio::join!(status, stdout.read_to_string(&mut rest));
                (code(status), rest)
            });
            let ends = tokio::time::timeout(SOON, join_all(ends)).await.expect("all ends");
            assert!(ends.iter().all(|end| *end == (Ok(0), String::new())), "{route:?}: {ends:?}");
        }
    })
    .await;
}

/// kube-rs' attach, to a program that goes on without it.
#[tokio::test]
async fn kube_rs_attaches_to_programs() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "tools").await;
        for (number, route) in ROUTES.into_iter().enumerate() {
            let api: Api<Pod> = Api::namespaced(client_by(route).await, ns);
            let params = AttachParams::default().stdin(true).stdout(true).stderr(true);
            let mut process = api.attach("tools", &params).await.unwrap();
            let mut stdin = process.stdin().unwrap();
            let mut lines = BufReader::new(process.stdout().unwrap()).lines();
            stdin.write_all(b"next\n").await.unwrap();
            let line = tokio::time::timeout(SOON, lines.next_line()).await.expect("a line").unwrap();
            assert_eq!(line, Some(format!("next {}", number + 1)), "{route:?}");
            process.abort();
        }
        assert!(running(&pods.api().get("tools").await.unwrap()));
    })
    .await;
}

/// kube-rs' port-forward, by the older protocol that it speaks: two ports by one connection, one of which nobody listens at.
#[tokio::test]
async fn kube_rs_forwards_ports() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let (port, closed) = (serve_http(&pods, "web").await, ports::free().unwrap());
        for route in ROUTES {
            let api: Api<Pod> = Api::namespaced(client_by(route).await, ns);
            let mut forwarder = api.portforward("web", &[port, closed]).await.unwrap();
            let error = forwarder.take_error(closed).unwrap();
            let mut stream = forwarder.take_stream(port).unwrap();
            stream.write_all(b"GET / HTTP/1.0\r\nhost: test\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            // The protocol has no end of one direction: what is read is what there is until the server's.
            while !answer.ends_with(b"hello\n") {
                let mut part = [0; 1024];
                let size =
                    tokio::time::timeout(SOON, stream.read(&mut part)).await.expect("an answer").unwrap();
                assert!(size > 0, "{route:?}: {:?}", String::from_utf8_lossy(&answer));
                answer.extend(&part[..size]);
            }
            let told = tokio::time::timeout(SOON, error).await.expect("an error").unwrap_or_default();
            assert!(told.contains(&format!("error forwarding port {closed}")), "{route:?}: {told}");
            forwarder.abort();
        }
    })
    .await;
}

/// The program of `tests/tools/streamer`, which has client-go do what it is told, by SPDY, and says in JSON what came of it.
async fn client_go(route: Route, arguments: &[&str], input: &[u8]) -> Value {
    let folder = programs::build("tools/streamer/build.sh").await.unwrap();
    let mut command = Command::new(folder.join("streamer"));
    command.arg("--kubeconfig").arg(route.kubeconfig().await).args(arguments).kill_on_drop(true);
    let ended = run(command, input).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// client-go's SPDY executor and its port-forwarder, alone and a hundred times at once.
#[tokio::test]
async fn client_go_has_streams_by_spdy() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "tools").await;
        let port = serve_http(&pods, "web").await.to_string();
        let namespace = format!("--namespace={ns}");
        for times in ["1", "100"] {
            let common = ["exec", &namespace, "--times", times, "tools"];
            let said = async |argv: &[&str], input: &[u8]| {
                client_go(Route::Spdy, &[&common[..], argv].concat(), input).await
            };
            let all = |stdout: &str, stderr: &str, code: i32| {
                let one = json!({ "stdout": stdout, "stderr": stderr, "code": code, "error": "" });
                Value::from(vec![one; times.parse().unwrap()])
            };
            assert_eq!(said(&["cat"], b"through it").await, all("through it", "", 0), "{times}");
            let script = b"echo out\nwarn err\nexit 3\n";
            assert_eq!(said(&["sh"], script).await, all("ready\nout\n", "err\n", 3), "{times}");
            let common = ["forward", &namespace, "--times", times, "web", &port];
            let answers = client_go(Route::Spdy, &common, b"").await;
            let answers = answers.as_array().unwrap();
            assert_eq!(answers.len(), times.parse::<usize>().unwrap());
            for answer in answers {
                let text = answer["stdout"].as_str().unwrap();
                assert!(text.ends_with("hello\n") && answer["error"] == "", "{answer}");
            }
        }
        let lost = client_go(Route::Spdy, &["exec", &namespace, "tools", "nonsense"], b"").await;
        let said = lost[0]["stderr"].as_str().unwrap();
        assert!(lost[0]["code"] == 127 && said.contains("executable file not found in $PATH"), "{lost}");
    })
    .await;
}
