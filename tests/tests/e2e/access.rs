//! Who may ask the node's HTTPS port.

use futures::{StreamExt as _, stream};
use kube::{Client, Config, Error};
use kubewasm_tests::cluster;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;

use crate::{
    pods::{Pods, running},
    suite::{NODE, suite, with_temp_ns},
};

/// Paths of each kind: information, metrics, and what acts on containers.
const PATHS: [&str; 4] = ["/pods", "/metrics", "/stats/summary", "/containerLogs/default/any/main"];

/// Nobody gets anything.
#[tokio::test]
async fn a_stranger_is_unauthorized() {
    let url = suite().await.node.url();
    let stranger = client(&url, None).await;
    for path in PATHS {
        assert_eq!(get(&stranger, path).await, Err(401), "{path}");
    }
    let forger = client(&url, Some("not.a.token".to_owned())).await;
    assert_eq!(get(&forger, "/pods").await, Err(401));
}

/// A user whom the API server knows but who has no rights on nodes gets nothing either.
#[tokio::test]
async fn a_user_without_rights_is_forbidden() {
    with_temp_ns(async |_, ns| {
        let suite = suite().await;
        let token = suite.cluster.kubectl(&["--namespace", ns, "create", "token", "default"]).await.unwrap();
        let user = client(&suite.node.url(), Some(token.trim().to_owned())).await;
        for path in PATHS {
            assert_eq!(get(&user, path).await, Err(403), "{path}");
        }
    })
    .await;
}

/// Who has the rights gets an answer: by client certificate here, and through the API server.
#[tokio::test]
async fn a_user_with_rights_is_served() {
    let (suite, admin) = (suite().await, admin().await);
    assert_eq!(get(&admin, "/healthz").await.as_deref(), Ok("ok"));
    assert!(get(&admin, "/pods").await.unwrap().contains("PodList"));
    if !suite.cluster.node_address().is_loopback() {
        let path = format!("/api/v1/nodes/{NODE}/proxy/healthz");
        assert_eq!(suite.cluster.kubectl(&["get", "--raw", &path]).await.unwrap(), "ok");
    }
}

/// Connections that say nothing, more of them than a node ever holds and from the address that the API server comes
/// from, keep neither `kubectl logs` nor anybody else out.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    with_temp_ns(async |client, ns| {
        let (suite, pods) = (suite().await, Pods::new(&client, ns));
        pods.act("talker", &["say", "still here", "sleep", "600"]).await;
        pods.until("talker", "running", running).await;
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        let address = suite.node.url().trim_start_matches("https://").to_owned();
        let silent: Vec<_> = stream::iter(0..1_100)
            .map(|_| async { TcpStream::connect(&address).await.unwrap() })
            .buffer_unordered(64)
            .collect()
            .await;
        let logs = ["--namespace", ns, "logs", "talker"];
        assert_eq!(suite.cluster.kubectl(&logs).await.unwrap(), "still here\n");
        assert_eq!(get(&admin().await, "/healthz").await.as_deref(), Ok("ok"));
        drop(silent);
    })
    .await;
}

/// A client of the shared node's HTTPS port that may do everything.
async fn admin() -> Client {
    admin_of(&suite().await.node.url()).await
}

/// A client of a node's HTTPS port that may do everything, with connections of its own.
pub(crate) async fn admin_of(url: &str) -> Client {
    let kubeconfig = suite().await.cluster.admin_kubeconfig();
    let mut config = cluster::config_of(&kubeconfig).await.unwrap();
    config.cluster_url = url.parse().unwrap();
    // The node signed its serving certificate itself.
    config.accept_invalid_certs = true;
    Client::try_from(config).unwrap()
}

/// What the shared node tells monitoring about itself.
pub(crate) async fn metrics() -> String {
    get_allowed("/metrics").await
}

/// What the shared node answers to who may ask for everything.
pub(crate) async fn get_allowed(path: &str) -> String {
    get(&admin().await, path).await.unwrap()
}

async fn client(url: &str, token: Option<String>) -> Client {
    let mut config = Config::new(url.parse().unwrap());
    config.accept_invalid_certs = true;
    config.auth_info.token = token.map(Into::into);
    Client::try_from(config).unwrap()
}

/// The body of the answer, or its status.
pub(crate) async fn get(client: &Client, path: &str) -> Result<String, u16> {
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    match client.request_text(request).await {
        Ok(text) => Ok(text),
        Err(Error::Api(status)) => Err(status.code),
        Err(error) => panic!("{path}: {error}"),
    }
}
