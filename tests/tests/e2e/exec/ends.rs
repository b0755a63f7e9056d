//! What commands end with: their client, their container, the agent.

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kubewasm_tests::{guests, node::Options, registry::image::Content, wait};
use serde_json::json;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::OnceCell,
};

use super::exec;
use crate::{
    crash::remove,
    pods::{Pods, container, restarts, running},
    sessions::{ROUTES, Route, Session},
    suite::{NODE, SOON, own_node, suite, with_temp_ns},
};

/// Who connects to a test from inside a command: the connection ends when the instance does, whatever has ended it.
struct Witness {
    listener: TcpListener,
    address: String,
}

impl Witness {
    async fn new() -> Self {
        let listener = TcpListener::bind((suite().await.cluster.node_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { listener, address }
    }

    /// What to run in a container of [`idle`]. It waits for an answer that never comes.
    fn argv(&self) -> [&str; 3] {
        ["sockets", "tcp-ask", &self.address]
    }

    /// Waits until a command runs.
    async fn sees_it(&self) -> TcpStream {
        tokio::time::timeout(SOON, self.listener.accept()).await.expect("a connection").unwrap().0
    }

    /// Waits until it is gone.
    async fn sees_it_go(mut connection: TcpStream) {
        let mut byte = [0];
        let end = tokio::time::timeout(SOON, connection.read(&mut byte)).await.expect("the instance to end");
        // With an end or with a reset: either way there is nobody any more.
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}

/// A pod that sleeps, and whose image also has the program that a [`Witness`] waits for.
async fn idle(pods: &Pods, name: &str, node: &str) -> Pod {
    static IMAGE: OnceCell<String> = OnceCell::const_new();
    let push = async || {
        let content = Content::Image {
            files: vec![
                ("actor".to_owned(), guests::guest("actor.c").await.unwrap()),
                ("sockets".to_owned(), guests::guest("sockets-0.2.c").await.unwrap()),
            ],
            entrypoint: vec!["/actor".to_owned()],
            cmd: vec!["sleep".to_owned(), "3600".to_owned()],
            env: Vec::new(),
        };
        suite().await.registry.push("witnessed:v1", &content).await.unwrap().tagged
    };
    let spec = json!({
        "nodeSelector": { "kubernetes.io/hostname": node },
        "terminationGracePeriodSeconds": 1,
        "containers": [{ "name": "main", "image": IMAGE.get_or_init(push).await }],
    });
    pods.create(name, spec).await;
    pods.until(name, "running", running).await
}

/// A client that is killed takes its command with it, and nothing else.
#[tokio::test]
async fn a_command_ends_with_its_client() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        idle(&pods, "left", NODE).await;
        let witness = Witness::new().await;
        for route in ROUTES {
            for flags in [&["exec", "left", "--"][..], &["exec", "-i", "left", "--"]] {
                let arguments = [flags, &witness.argv()].concat();
                let session = Session::start(route.kubectl(ns, &arguments).await);
                let connection = witness.sees_it().await;
                session.killed().await;
                Witness::sees_it_go(connection).await;
            }
        }
        let pod = pods.api().get("left").await.unwrap();
        assert!(running(&pod) && restarts(&pod) == 0);
    })
    .await;
}

/// A container that ends takes the commands in it along, as killed ones.
#[tokio::test]
async fn a_command_ends_with_its_container() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let witness = Witness::new().await;
        for (route, name) in ROUTES.into_iter().zip(["one", "two", "three"]) {
            idle(&pods, name, NODE).await;
            let arguments = [&["exec", name, "--"][..], &witness.argv()].concat();
            let session = Session::start(route.kubectl(ns, &arguments).await);
            let connection = witness.sees_it().await;
            pods.api().delete(name, &DeleteParams::default().grace_period(1)).await.unwrap();
            let ended = session.ends().await;
            assert_eq!(ended.code, Some(137), "{route:?}: {ended:?}");
            Witness::sees_it_go(connection).await;
        }
    })
    .await;
}

/// An agent that dies takes what was run through it along; containers go on, and the next agent runs commands in them.
#[tokio::test]
async fn a_command_ends_with_the_agent_and_its_container_does_not() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut node = own_node("streaming-node", &Options::default()).await;
        let before = idle(&pods, "stays", node.name()).await;
        let witness = Witness::new().await;
        for route in ROUTES {
            let arguments = [&["exec", "-i", "stays", "--"][..], &witness.argv()].concat();
            let session = Session::start(route.kubectl(ns, &arguments).await);
            let connection = witness.sees_it().await;
            node.kill().unwrap();
            let ended = session.ends().await;
            // client-go takes an end of SPDY's streams without a status for a success.
            assert!(route != Route::WebSocket || ended.code != Some(0), "{route:?}: {ended:?}");
            Witness::sees_it_go(connection).await;
            node.start_again().await.unwrap();
            wait::until("a command through the next agent", SOON, async || {
                let ended = exec(route, ns, "stays", &["actor", "say", "again"]).await;
                if ended.text() == "again\n" { Ok(()) } else { Err(format!("{ended:?}")) }
            })
            .await
            .unwrap();
        }
        let after = pods.api().get("stays").await.unwrap();
        assert_eq!(container(&before).unwrap().container_id, container(&after).unwrap().container_id);
        assert_eq!(restarts(&after), 0);
        pods.api().delete("stays", &DeleteParams::default().grace_period(1)).await.unwrap();
        pods.gone("stays").await;
        remove(&client, node).await;
    })
    .await;
}
