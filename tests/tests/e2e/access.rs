//! Who may ask the node's HTTPS port.

use kube::{Client, Config, Error};
use kubewasm_tests::cluster;

use crate::suite::{NODE, suite, with_temp_ns};

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

/// A client of the shared node's HTTPS port that may do everything.
async fn admin() -> Client {
    let suite = suite().await;
    let kubeconfig = suite.cluster.admin_kubeconfig();
    let mut config = cluster::config_of(&kubeconfig).await.unwrap();
    config.cluster_url = suite.node.url().parse().unwrap();
    // The node signed its serving certificate itself.
    config.accept_invalid_certs = true;
    Client::try_from(config).unwrap()
}

/// What the shared node tells monitoring about itself.
pub(crate) async fn metrics() -> String {
    get(&admin().await, "/metrics").await.unwrap()
}

async fn client(url: &str, token: Option<String>) -> Client {
    let mut config = Config::new(url.parse().unwrap());
    config.accept_invalid_certs = true;
    config.auth_info.token = token.map(Into::into);
    Client::try_from(config).unwrap()
}

/// The body of the answer, or its status.
async fn get(client: &Client, path: &str) -> Result<String, u16> {
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    match client.request_text(request).await {
        Ok(text) => Ok(text),
        Err(Error::Api(status)) => Err(status.code),
        Err(error) => panic!("{path}: {error}"),
    }
}
