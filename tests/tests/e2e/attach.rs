//! `kubectl attach`, and what is built upon it: to the program of a container, which goes on when its callers go.

use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kubewasm_tests::wait;
use serde_json::{Value, json};

use crate::{
    pods::{Pods, phase, restarts, running},
    sessions::{ROUTES, Route, Session, Terminal, run, toolbox, tools},
    suite::{NODE, SOON, with_temp_ns},
};

async fn attach(route: Route, ns: &str, pod: &str) -> Session {
    Session::start(route.kubectl(ns, &["attach", "-iq", pod]).await)
}

/// A pod of the toolbox's interpreter with more of its container.
async fn interpreter(pods: &Pods, name: &str, more: Value) {
    let mut main = json!({ "name": "main", "image": toolbox().await, "args": ["sh"], "stdin": true });
    main.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pods.create(name, json!({ "containers": [main] })).await;
    pods.until(name, "running", running).await;
}

/// A program is talked with, left and found again as it was left; its log has what it has said to anybody.
#[tokio::test]
async fn a_program_is_left_and_found_again() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "talks").await;
        let mut asked = 0;
        for route in ROUTES {
            for _ in 0..2 {
                let mut session = attach(route, ns, "talks").await;
                asked += 1;
                session.says("next").await;
                session.hears_at_last(&format!("next {asked}")).await;
                session.says("echo of this").await;
                session.hears("of this").await;
                session.killed().await;
            }
        }
        let log = pods.logs("talks").await;
        let said: String = (1..=asked).map(|number| format!("next {number}\nof this\n")).collect();
        assert_eq!(log, format!("ready\n{said}"));
        let pod = pods.api().get("talks").await.unwrap();
        assert!(running(&pod) && restarts(&pod) == 0, "{:?}", pod.status);
    })
    .await;
}

/// Several callers see all that the program says, and each of them is heard. One that has said all that it will listens on.
#[tokio::test]
async fn several_callers_share_a_program() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "shared").await;
        let mut sessions = Vec::new();
        for (number, route) in ROUTES.into_iter().enumerate() {
            let mut session = attach(route, ns, "shared").await;
            // It is there when it is answered; those before it hear the answer, too.
            session.says("next").await;
            session.hears_at_last(&format!("next {}", number + 1)).await;
            sessions.push(session);
        }
        for speaker in 0..sessions.len() {
            sessions[speaker].says(&format!("echo by {speaker}")).await;
            for session in &mut sessions {
                session.hears_at_last(&format!("by {speaker}")).await;
            }
        }
        let mut last = sessions.pop().unwrap();
        for session in &mut sessions {
            session.closes_input();
        }
        last.says("echo still").await;
        last.says("exit 0").await;
        last.hears("still").await;
        for mut session in sessions {
            session.hears("still").await;
            let ended = session.ends().await;
            assert_eq!((ended.code, ended.text().as_str()), (Some(0), ""), "{ended:?}");
        }
        assert_eq!(last.ends().await.code, Some(0));
        pods.phase("shared", "Succeeded").await;
    })
    .await;
}

/// With `stdinOnce`, the program's input ends when the first caller's does, or goes.
#[tokio::test]
async fn input_ends_with_the_first_caller_where_the_pod_says_so() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut number = 0;
        for route in ROUTES {
            for is_killed in [false, true] {
                number += 1;
                let name = format!("once-{number}");
                interpreter(&pods, &name, json!({ "stdinOnce": true })).await;
                let mut session = attach(route, ns, &name).await;
                session.says("echo first").await;
                session.hears_at_last("first").await;
                if is_killed {
                    session.killed().await;
                } else {
                    session.closes_input();
                    let ended = session.ends().await;
                    assert_eq!((ended.code, ended.text().as_str()), (Some(0), "end of input\n"), "{ended:?}");
                }
                pods.phase(&name, "Succeeded").await;
                assert_eq!(pods.logs(&name).await, "ready\nfirst\nend of input\n");
            }
        }
    })
    .await;
}

/// A program on a terminal: typed lines are shown as they are typed, it is left by the keys for that and found again.
#[tokio::test]
async fn a_program_on_a_terminal() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        interpreter(&pods, "screen", json!({ "tty": true })).await;
        for (number, route) in ROUTES.into_iter().enumerate() {
            let mut terminal = Terminal::start(&route.kubectl(ns, &["attach", "-it", "screen"]).await).await;
            terminal.shows("try pressing enter.").await;
            terminal.types("next\r").await;
            let shown = terminal.shows(&format!("next {}\r\n", number + 1)).await;
            assert!(shown.contains("next\r\n"), "what is typed is shown: {shown:?}");
            terminal.types("terminak\x7fl\r").await;
            terminal.shows("a terminal, ").await;
            terminal.resizes(100, 40).await;
            terminal.types("warn of this\r").await;
            terminal.shows("\nof this\r\n").await;
            // Ctrl-P, Ctrl-Q.
            terminal.types("\x10\x11").await;
            terminal.ends().await;
        }
        let pod = pods.api().get("screen").await.unwrap();
        assert!(running(&pod) && restarts(&pod) == 0, "{:?}", pod.status);
        let mut terminal =
            Terminal::start(&Route::WebSocket.kubectl(ns, &["attach", "-it", "screen"]).await).await;
        terminal.shows("try pressing enter.").await;
        terminal.types("exit 4\r").await;
        terminal.ends().await;
        pods.phase("screen", "Failed").await;
        let log = pods.logs("screen").await;
        assert!(log.contains("next 3") && log.contains("of this"), "{log:?}");
    })
    .await;
}

/// What `kubectl run` must say of a pod that is for the shared node.
fn overrides() -> String {
    let spec = json!({ "runtimeClassName": "wasm", "nodeSelector": { "kubernetes.io/hostname": NODE } });
    format!("--overrides={}", json!({ "spec": spec }))
}

/// `kubectl run -i` feeds a pod, shows what it says, ends with its exit code and removes it.
#[tokio::test]
async fn a_pod_is_run_like_a_command() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = format!("--image={}", toolbox().await);
        let mut number = 0;
        for route in ROUTES {
            for (tool, input, code, output) in
                [("count", "12345", 0, "5 bytes, "), ("sh", "echo hello\nexit 7\n", 7, "ready\nhello\n")]
            {
                number += 1;
                let name = format!("run-{number}");
                let arguments = [
                    "run",
                    "-iq",
                    "--rm",
                    "--restart=Never",
                    &image,
                    &overrides(),
                    &name,
                    "--command",
                    "--",
                    tool,
                ];
                let ended = run(route.kubectl(ns, &arguments).await, input.as_bytes()).await;
                assert_eq!(ended.code, Some(code), "{route:?} {tool}: {ended:?}");
                assert!(ended.text().starts_with(output), "{route:?} {tool}: {ended:?}");
                assert!(!ended.stderr.contains("falling back"), "{route:?} {tool}: {ended:?}");
                pods.gone(&name).await;
            }
        }
    })
    .await;
}

/// `kubectl run -it` is a conversation on a terminal.
#[tokio::test]
async fn a_pod_is_run_on_a_terminal() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = format!("--image={}", toolbox().await);
        for (route, name) in ROUTES.into_iter().zip(["one", "two", "three"]) {
            let arguments = [
                "run",
                "-it",
                "--rm",
                "--restart=Never",
                &image,
                &overrides(),
                name,
                "--command",
                "--",
                "sh",
            ];
            let mut terminal = Terminal::start(&route.kubectl(ns, &arguments).await).await;
            terminal.shows("try pressing enter.").await;
            terminal.types("ask\r").await;
            terminal.shows("name? ").await;
            terminal.types("nobody\r").await;
            terminal.shows("hello nobody\r\n").await;
            terminal.types("exit 0\r").await;
            let (code, rest) = terminal.ends().await;
            assert_eq!(code, Some(0), "{route:?}: {rest}");
            assert!(rest.contains(&format!("pod \"{name}\" deleted")), "{route:?}: {rest}");
            pods.gone(name).await;
        }
    })
    .await;
}

/// `kubectl debug -it` is a conversation with an ephemeral container, which leaves the pod as it is.
#[tokio::test]
async fn a_pod_is_debugged_on_a_terminal() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("debugged", &["sleep", "600"]).await;
        pods.until("debugged", "running", running).await;
        let image = format!("--image={}", toolbox().await);
        for (route, name) in ROUTES.into_iter().zip(["one", "two", "three"]) {
            let container = format!("--container={name}");
            let arguments =
                ["debug", "-it", "debugged", "--profile=baseline", &image, &container, "--", "sh"];
            let mut terminal = Terminal::start(&route.kubectl(ns, &arguments).await).await;
            terminal.shows("try pressing enter.").await;
            terminal.types("echo in there\r").await;
            terminal.shows("\nin there\r\n").await;
            terminal.types("exit 5\r").await;
            terminal.ends().await;
            let ended = |pod: &Pod| exit_of(pod, name) == Some(5);
            pods.until("debugged", "the end of the ephemeral container", ended).await;
        }
        let pod = pods.api().get("debugged").await.unwrap();
        assert_eq!((phase(&pod), restarts(&pod)), ("Running", 0));
    })
    .await;
}

/// The exit code of an ephemeral container that has ended.
fn exit_of(pod: &Pod, name: &str) -> Option<i32> {
    let mut statuses = pod.status.as_ref()?.ephemeral_container_statuses.iter().flatten();
    let state: &ContainerState = statuses.find(|status| status.name == name)?.state.as_ref()?;
    Some(state.terminated.as_ref()?.exit_code)
}

/// A container without `stdin` is listened to, and hears nothing; one that has ended, or was never there, is told of by name.
#[tokio::test]
async fn what_cannot_be_attached_to_is_told() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &crate::suite::suite().await.actor.tagged;
        let all = json!([
            { "name": "ticks", "image": image, "args": ["tick", "100"] },
            { "name": "ended", "image": image, "args": ["say", "done"] },
        ]);
        pods.create("mixed", json!({ "containers": all })).await;
        wait::until("one that runs and one that has ended", SOON, async || {
            let pod = pods.api().get("mixed").await.map_err(|error| error.to_string())?;
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let states: Vec<_> = statuses.filter_map(|status| status.state.as_ref()).collect();
            let count = |is: fn(&ContainerState) -> bool| states.iter().filter(|state| is(state)).count();
            match (count(|state| state.running.is_some()), count(|state| state.terminated.is_some())) {
                (1, 1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
        for route in ROUTES {
            let mut session =
                Session::start(route.kubectl(ns, &["attach", "-q", "mixed", "-c", "ticks"]).await);
            let first = session.next_line().await;
            let number: u64 = first.trim_end().strip_prefix("tick ").unwrap().parse().unwrap();
            session.hears(&format!("tick {}", number + 1)).await;
            session.killed().await;
            for (container, part) in [
                ("ended", format!("container ended not found in pod mixed_{ns}")),
                ("none", "container none is not valid for pod mixed".to_owned()),
            ] {
                let kubectl = route.kubectl(ns, &["attach", "mixed", "-c", container]).await;
                let ended = run(kubectl, b"").await;
                assert_eq!(ended.code, Some(1), "{route:?}: {ended:?}");
                assert!(ended.stderr.contains(&part), "{route:?}: {ended:?}");
            }
        }
    })
    .await;
}
