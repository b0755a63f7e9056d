//! Commands: what they are given, and how they end.

use std::fs;

use kubewasm_tests::node::Options;
use serde_json::json;

use super::exec;
use crate::{
    crash::remove,
    pods::{Pods, restarts, running},
    sessions::{ROUTES, Route, Session, Terminal, run, toolbox, tools},
    suite::{own_node, suite, with_temp_ns},
};

/// The command's output is kubectl's, standard error by itself, and its exit code, too.
#[tokio::test]
async fn output_and_exit_codes_are_the_commands() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("idle", &["sleep", "600"]).await;
        pods.until("idle", "running", running).await;
        for route in ROUTES {
            let argv = ["actor", "say", "out", "stderr", "err", "exit", "0"];
            let ended = exec(route, ns, "idle", &argv).await;
            assert_eq!((ended.code, ended.text().as_str()), (Some(0), "out\n"), "{route:?}: {ended:?}");
            assert_eq!(ended.stderr, "err\n", "{route:?}");
            let ended = exec(route, ns, "idle", &["actor", "exit", "3"]).await;
            assert_eq!(ended.code, Some(3), "{route:?}: {ended:?}");
            assert_eq!(ended.stderr, "command terminated with exit code 3\n", "{route:?}");
            let ended = exec(route, ns, "idle", &["actor", "say", "last", "trap"]).await;
            assert_eq!((ended.code, ended.text().as_str()), (Some(134), "last\n"), "{route:?}: {ended:?}");
        }
        let pod = pods.api().get("idle").await.unwrap();
        assert!(running(&pod) && restarts(&pod) == 0, "the container has nothing to do with it");
        assert_eq!(pods.logs("idle").await, "", "what was run beside it is not in its log");
    })
    .await;
}

/// What has more memory than its container may have ends as one that is killed, and its container goes on.
#[tokio::test]
async fn a_command_has_no_more_memory_than_its_container() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let main = json!({
            "name": "main", "image": suite().await.actor.tagged, "args": ["sleep", "600"],
            "resources": { "limits": { "memory": "24Mi" } },
        });
        pods.create("small", json!({ "containers": [main] })).await;
        pods.until("small", "running", running).await;
        for route in ROUTES {
            let ended = exec(route, ns, "small", &["actor", "alloc", "100"]).await;
            assert_eq!(ended.code, Some(137), "{route:?}: {ended:?}");
        }
        let pod = pods.api().get("small").await.unwrap();
        assert!(running(&pod) && restarts(&pod) == 0);
    })
    .await;
}

/// It has the container's environment, files and volumes, and is found as the container's own program is: by a name along PATH, or
/// by a path.
#[tokio::test]
async fn a_command_is_in_its_container() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let main = json!({
            "name": "main", "image": suite().await.actor.tagged,
            "args": ["write", "/scratch/note", "of the main program", "write", "/own", "x", "sleep", "600"],
            "env": [{ "name": "COLOUR", "value": "blue" }],
            "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }],
        });
        let volumes = json!([{ "name": "scratch", "emptyDir": {} }]);
        pods.create("full", json!({ "containers": [main], "volumes": volumes })).await;
        pods.until("full", "running", running).await;
        for route in ROUTES {
            let argv = [
                "actor",
                "args",
                "env",
                "cat",
                "/scratch/note",
                "cat",
                "/own",
                "append",
                "/scratch/note",
                "+",
            ];
            let ended = exec(route, ns, "full", &argv).await;
            assert_eq!(ended.code, Some(0), "{route:?}: {ended:?}");
            let text = ended.text();
            assert!(text.starts_with("actor\nargs\nenv\n"), "{text}");
            for part in ["COLOUR=blue\n", "HOSTNAME=full\n", "of the main program"] {
                assert!(text.contains(part), "{part:?}: {text}");
            }
        }
        let ended = exec(Route::WebSocket, ns, "full", &["/actor", "cat", "/scratch/note"]).await;
        assert_eq!(ended.text(), "of the main program+++", "each was in the same volume");
    })
    .await;
}

/// Each program of an image is run by its own name.
#[tokio::test]
async fn tools_of_an_image_are_called_by_their_names() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "tools").await;
        for route in ROUTES {
            let kubectl = route.kubectl(ns, &["exec", "-i", "tools", "--", "count"]).await;
            let ended = run(kubectl, b"12345").await;
            assert_eq!((ended.code, ended.text().split(',').next()), (Some(0), Some("5 bytes")), "{ended:?}");
            let kubectl = route.kubectl(ns, &["exec", "-i", "tools", "--", "/bin/sh"]).await;
            let ended = run(kubectl, b"echo hello\nwarn of this\nexit 7\n").await;
            assert_eq!((ended.code, ended.text().as_str()), (Some(7), "ready\nhello\n"), "{ended:?}");
            assert!(ended.stderr.starts_with("of this\n"), "{ended:?}");
            assert_eq!(exec(route, ns, "tools", &["test", "-d", "/bin"]).await.code, Some(0));
            assert_eq!(exec(route, ns, "tools", &["test", "-d", "/nowhere"]).await.code, Some(1));
        }
    })
    .await;
}

/// What cannot be run is told in words.
#[tokio::test]
async fn what_cannot_be_run_is_told() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let two = json!([
            { "name": "main", "image": image, "args": ["sleep", "600"] },
            { "name": "ended", "image": image, "args": ["say", "done"] },
        ]);
        pods.create("two", json!({ "containers": two })).await;
        pods.until("two", "one that runs and one that has ended", |pod| {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let states: Vec<_> =
                statuses.filter_map(|status| Some((&status.name, status.state.as_ref()?))).collect();
            states.iter().any(|(name, state)| *name == "main" && state.running.is_some())
                && states.iter().any(|(name, state)| *name == "ended" && state.terminated.is_some())
        })
        .await;
        for route in ROUTES {
            for (arguments, code, part) in [
                (&["exec", "nobody", "--", "actor"][..], 1, "pods \"nobody\" not found"),
                (&["exec", "two", "-c", "none", "--", "actor"], 1, "container none is not valid for pod two"),
                (&["exec", "two", "-c", "ended", "--", "actor"], 1, "container not found (\"ended\")"),
                (
                    &["exec", "two", "-c", "main", "--", "nonsense"],
                    127,
                    "exec: \"nonsense\": executable file not found in $PATH",
                ),
            ] {
                let ended = run(route.kubectl(ns, arguments).await, b"").await;
                assert_eq!(ended.code, Some(code), "{route:?} {arguments:?}: {ended:?}");
                assert!(ended.stderr.contains(part), "{route:?} {arguments:?}: {ended:?}");
            }
        }
    })
    .await;
}

/// On a terminal, a command has one: it is told so and how large it is, keys come as lines do, and it ends with the session.
#[tokio::test]
async fn a_command_on_a_terminal() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "tools").await;
        for route in ROUTES {
            let kubectl = route.kubectl(ns, &["exec", "-it", "tools", "--", "sh"]).await;
            let mut terminal = Terminal::start(&kubectl).await;
            terminal.shows("ready\r\n").await;
            terminal.types("terminal\r").await;
            terminal.shows("a terminal, 77 columns, 33 lines\r\n").await;
            for (columns, lines) in [(100, 40), (80, 24), (200, 60)] {
                terminal.resizes(columns, lines).await;
            }
            terminal.types("ask\r").await;
            terminal.shows("name? ").await;
            terminal.types("nobody\r").await;
            terminal.shows("hello nobody\r\n").await;
            terminal.types("warn on the same screen\r").await;
            terminal.shows("on the same screen\r\n").await;
            terminal.types("exit 5\r").await;
            let (code, rest) = terminal.ends().await;
            assert_eq!(code, Some(5), "{route:?}: {rest}");
        }
    })
    .await;
}

/// Static pods have commands run in them by their mirrors.
#[tokio::test]
async fn commands_run_in_static_pods() {
    with_temp_ns(async |client, ns| {
        let folder = suite().await.home.folder("streamed").unwrap();
        let spec = json!({ "containers": [{ "name": "main", "image": toolbox().await, "args": ["sh"], "stdin": true }] });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "own", "namespace": ns }, "spec": spec,
        });
        fs::write(folder.join("own.json"), pod.to_string()).unwrap();
        let node = own_node("streamed-node", &Options::default().config("staticPodPath", json!(folder))).await;
        let pods = Pods::new(&client, ns);
        let name = "own-streamed-node";
        pods.until(name, "running", running).await;
        for route in ROUTES {
            let kubectl = route.kubectl(ns, &["exec", "-i", name, "--", "sh"]).await;
            let ended = run(kubectl, b"echo of a static pod\nexit 4\n").await;
            assert_eq!((ended.code, ended.text().as_str()), (Some(4), "ready\nof a static pod\n"), "{ended:?}");
            let mut session = Session::start(route.kubectl(ns, &["attach", "-iq", name]).await);
            session.says("echo to the main program").await;
            session.hears_at_last("to the main program").await;
            session.killed().await;
        }
        remove(&client, node).await;
    })
    .await;
}
