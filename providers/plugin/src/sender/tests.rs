use super::*;
use crate::{
    cluster::ClusterEnvironment,
    kubeconfig::KubeconfigOverrides,
    testing::{TestServer, empty},
};

/// A plugin that speaks to this server, by this manifest.
fn sender(server: &TestServer, folder: &tempfile::TempDir, access: Option<&str>) -> PluginSender {
    let path = folder.path().join("config");
    std::fs::write(&path, server.kubeconfig("", "token: secret")).unwrap();
    let overrides = KubeconfigOverrides { kubeconfig: Some(path), ..KubeconfigOverrides::default() };
    let cluster = ClusterChoice::read(&overrides, &ClusterEnvironment::default());
    let access = access.map(|text| text.parse().unwrap());
    PluginSender::new("x".parse().unwrap(), access, cluster, Console::of_process().unwrap())
}

async fn send(sender: &PluginSender, request: Request<WasiBody>) -> Result<u16, HttpError> {
    sender.send(request, HttpOptions::default()).await.map(|response| response.status().as_u16())
}

fn get(uri: &str) -> Request<WasiBody> {
    Request::get(uri).body(empty()).unwrap()
}

#[tokio::test]
async fn what_a_guest_says_of_who_it_is_does_not_count() {
    let (folder, server) = (tempfile::tempdir().unwrap(), TestServer::start(&["127.0.0.1"]).await);
    let sender = sender(&server, &folder, None);
    let mut request = get("https://kubernetes.default.svc/api/v1/pods");
    for (name, value) in [
        ("authorization", "Bearer of-the-guest"),
        ("proxy-authorization", "Basic x"),
        ("cookie", "a=b"),
        ("impersonate-user", "admin"),
        ("impersonate-extra-scopes", "x"),
        ("x-remote-user", "admin"),
        ("host", "elsewhere"),
        ("accept", "application/json"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    assert_eq!(send(&sender, request).await.unwrap(), 200);
    let sent = server.last();
    assert_eq!(sent.headers["authorization"], "Bearer secret");
    for name in
        ["proxy-authorization", "cookie", "impersonate-user", "impersonate-extra-scopes", "x-remote-user"]
    {
        assert!(sent.headers.get(name).is_none(), "{name}");
    }
    assert_eq!(sent.headers["accept"], "application/json");
    assert_eq!(sent.headers["user-agent"], "kubectl-x");
    assert_eq!(sent.uri.host(), Some("127.0.0.1"));
}

#[tokio::test]
async fn nothing_else_is_reached() {
    let (folder, server) = (tempfile::tempdir().unwrap(), TestServer::start(&["127.0.0.1"]).await);
    let decoy = TestServer::plain().await;
    let sender = sender(&server, &folder, None);
    let api = server.address;
    for uri in [
        format!("http://{}/", decoy.address),
        format!("https://{}/", decoy.address),
        format!("http://{api}/"),
        format!("https://localhost:{}/", api.port()),
        "http://kubernetes.default.svc/".to_owned(),
        format!("https://{api}/api/v1/namespaces/ns/pods/p/exec?command=sh"),
        format!("https://{api}/api/v1/namespaces/ns/pods/p/portforward"),
        format!("https://{api}/a/../b"),
    ] {
        let refused = send(&sender, get(&uri)).await.unwrap_err();
        assert!(matches!(refused, HttpError::HttpRequestDenied), "{uri}: {refused}");
    }
    let tunnel = Request::connect(format!("https://{api}")).body(empty()).unwrap();
    assert!(matches!(send(&sender, tunnel).await, Err(HttpError::HttpRequestDenied)));
    assert_eq!((server.count(), decoy.count()), (0, 0));
    assert_eq!(send(&sender, get(&format!("https://{api}/api"))).await.unwrap(), 200);
}

#[tokio::test]
async fn a_request_outside_of_the_manifest_is_not_sent() {
    let (folder, server) = (tempfile::tempdir().unwrap(), TestServer::start(&["127.0.0.1"]).await);
    let sender = sender(&server, &folder, Some("[{verbs: [get], apiGroups: [''], resources: [secrets]}]"));
    let at = |path: &str| get(&format!("https://kubernetes.default.svc{path}"));
    assert_eq!(send(&sender, at("/api/v1/namespaces/ns/secrets/s")).await.unwrap(), 200);
    for path in
        ["/api/v1/namespaces/ns/secrets", "/api/v1/namespaces/ns/%70ods/s", "/version", "/api/v1//secrets/s"]
    {
        assert!(matches!(send(&sender, at(path)).await, Err(HttpError::HttpRequestDenied)), "{path}");
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_plugin_learns_that_there_is_no_cluster_when_it_asks_for_one() {
    let overrides =
        KubeconfigOverrides { kubeconfig: Some("/gone".into()), ..KubeconfigOverrides::default() };
    let cluster = ClusterChoice::read(&overrides, &ClusterEnvironment::default());
    assert_eq!(cluster.namespace, "default");
    let sender = PluginSender::new("x".parse().unwrap(), None, cluster, Console::of_process().unwrap());
    let told = send(&sender, get("https://kubernetes.default.svc/api")).await.unwrap_err();
    assert!(matches!(told, HttpError::ConfigurationError), "{told}");
}
