use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use http::Version;

use super::*;
use crate::{
    cluster::{ClusterChoice, ClusterEnvironment},
    kubeconfig::KubeconfigOverrides,
    testing::{TestServer, empty, full},
};

/// What is awaited must come; how long it takes on a busy machine is not what these tests are about.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client by this text of a kubeconfig.
fn client(folder: &tempfile::TempDir, text: &str) -> ApiClient {
    let path = folder.path().join("config");
    std::fs::write(&path, text).unwrap();
    let overrides = KubeconfigOverrides { kubeconfig: Some(path), ..KubeconfigOverrides::default() };
    let choice = ClusterChoice::read(&overrides, &ClusterEnvironment::default());
    ApiClient::new(choice.access.unwrap()).unwrap()
}

/// Asks for a path of the server's.
async fn ask(client: &ApiClient, path: &str) -> Result<Response<WasiBody>, RequestFailure> {
    let uri = format!("https://kubernetes.default.svc{path}").parse().unwrap();
    let uri = client.access().server.locate(&uri).unwrap();
    let request = Request::get(uri).body(empty()).unwrap();
    let asked = client.send(request, HttpOptions::default());
    tokio::time::timeout(PATIENCE, asked).await.expect("an end")
}

async fn text(response: Response<WasiBody>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_is_sent_with_what_the_kubeconfig_says_over_http_2() {
    let (folder, server) = (tempfile::tempdir().unwrap(), TestServer::start(&["127.0.0.1"]).await);
    let client = client(&folder, &server.kubeconfig("", "token: hunter2, as: eve, as-groups: [a, b]"));
    for _ in 0..2 {
        assert_eq!(text(ask(&client, "/version").await.unwrap()).await, "ok");
    }
    let sent = server.last();
    assert_eq!(sent.version, Version::HTTP_2);
    assert_eq!(sent.headers["authorization"], "Bearer hunter2");
    assert_eq!(sent.headers["impersonate-user"], "eve");
    assert_eq!(sent.headers.get_all("impersonate-group").iter().count(), 2);
    // No text that could be in the digits of a certificate.
    assert!(!format!("{client:?}").contains("hunter2"));
}

#[tokio::test]
async fn only_a_server_that_the_kubeconfig_trusts_is_spoken_to() {
    let (folder, other) = (tempfile::tempdir().unwrap(), TestServer::start(&["127.0.0.1"]).await);
    let server = TestServer::start(&["api.example"]).await;
    // Its certificate is for another name.
    let wrong = client(&folder, &server.kubeconfig("", "token: abc"));
    let failure = ask(&wrong, "/version").await.map(drop).unwrap_err();
    assert!(failure.to_string().contains("cannot reach the API server"), "{failure}");
    assert!(matches!(failure.into_error(), HttpError::TlsCertificateError));
    // That name is the one that is meant.
    let named = client(&folder, &server.kubeconfig(", tls-server-name: api.example", "token: abc"));
    assert_eq!(ask(&named, "/version").await.unwrap().status(), 200);
    // Another authority has signed it.
    let stranger = TestServer { authority: other.authority.clone(), ..server };
    let refused = client(&folder, &stranger.kubeconfig(", tls-server-name: api.example", "token: abc"));
    assert!(ask(&refused, "/version").await.is_err());
    assert_eq!(stranger.count(), 1, "nothing was said to it");
    // Whoever says that this does not matter is believed.
    let insecure = client(&folder, &stranger.kubeconfig(", insecure-skip-tls-verify: true", "token: abc"));
    assert_eq!(ask(&insecure, "/version").await.unwrap().status(), 200);
}

#[tokio::test]
async fn bodies_go_both_ways_as_they_come() {
    let (folder, server) = (tempfile::tempdir().unwrap(), TestServer::start(&["127.0.0.1"]).await);
    let client = client(&folder, &server.kubeconfig("", ""));
    let mut streamed = ask(&client, "/stream").await.unwrap().into_body();
    let first = streamed.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "first");
    server.go.notify_one();
    assert_eq!(streamed.frame().await.unwrap().unwrap().into_data().unwrap(), "second");
    let uri = format!("https://{}/echo", server.address);
    let request = Request::post(uri).body(full("hello")).unwrap();
    assert_eq!(text(client.send(request, HttpOptions::default()).await.unwrap()).await, "hello");
}

#[tokio::test]
async fn a_guest_that_does_not_want_to_wait_is_told() {
    let (folder, server) = (tempfile::tempdir().unwrap(), TestServer::start(&["127.0.0.1"]).await);
    let client = client(&folder, &server.kubeconfig("", ""));
    let uri = format!("https://{}/stream", server.address);
    let options =
        HttpOptions { between_bytes_timeout: Some(Duration::from_millis(20)), ..HttpOptions::default() };
    let response = client.send(Request::get(uri).body(empty()).unwrap(), options).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("an end");
    assert!(matches!(ended.unwrap_err(), HttpError::ConnectionReadTimeout));
}

#[tokio::test]
async fn cookies_are_kept_from_guests_and_nobody_is_followed_elsewhere() {
    let (folder, server) = (tempfile::tempdir().unwrap(), TestServer::plain().await);
    let client = client(&folder, &server.kubeconfig("", "token: abc"));
    assert!(ask(&client, "/cookie").await.unwrap().headers().get("set-cookie").is_none());
    assert_eq!(ask(&client, "/away").await.unwrap().status(), 302);
    assert!(server.last().headers.get("authorization").is_none(), "it could be read on its way");
    assert_eq!(server.count(), 2);
}

/// As when a token has ended before its time: a program is asked once more, and the guest does not notice.
#[tokio::test]
async fn a_token_that_is_refused_is_renewed_and_the_request_sent_again() {
    let (folder, server) = (tempfile::tempdir().unwrap(), TestServer::start(&["127.0.0.1"]).await);
    let login = folder.path().join("login");
    let script = "#!/bin/sh\n\
        token=one; [ -e \"$0.again\" ] && token=two; touch \"$0.again\"\n\
        echo '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"'$token'\"}}'\n";
    std::fs::write(folder.path().join("script"), script).unwrap();
    // Written by another process: one that forks meanwhile keeps nobody from running it.
    let copied = std::process::Command::new("cp").arg(folder.path().join("script")).arg(&login).status();
    assert!(copied.unwrap().success());
    std::fs::set_permissions(&login, std::fs::Permissions::from_mode(0o755)).unwrap();
    let user = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: '{}'}}",
        login.display()
    );
    let client = client(&folder, &server.kubeconfig("", &user));
    assert_eq!(ask(&client, "/token").await.unwrap().status(), 200);
    assert_eq!((server.count(), ask(&client, "/token").await.unwrap().status()), (2, StatusCode::OK));
    assert_eq!(server.count(), 3, "what it said last is kept");
    // What does something is not done twice.
    let _ = std::fs::remove_file(login.with_extension("again"));
    let fresh = self::client(&folder, &server.kubeconfig("", &user));
    let request = Request::post(format!("https://{}/token", server.address)).body(full("x")).unwrap();
    assert_eq!(fresh.send(request, HttpOptions::default()).await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "current-context: x\ncontexts: [{{name: x, context: {{cluster: c}}}}]\nclusters: [{{name: c, cluster: {{server: 'http://{free}'}}}}]"
    );
    let failure = ask(&client(&folder, &text), "/version").await.map(drop).unwrap_err();
    assert!(failure.to_string().contains("cannot reach the API server"), "{failure}");
    assert!(matches!(failure.into_error(), HttpError::ConnectionRefused));
}

#[test]
fn a_proxy_is_one_that_can_be_spoken_to_and_its_password_is_not_told() {
    let folder = tempfile::tempdir().unwrap();
    for (url, expected) in [
        ("http://me:hunter2@proxy.example:3128", Ok(())),
        ("socks5://127.0.0.1:1080", Ok(())),
        ("https://me:hunter2@proxy.example", Err(InvalidProxy::Scheme("https".to_owned()))),
    ] {
        let text = format!(
            "current-context: x\ncontexts: [{{name: x, context: {{cluster: c}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://api.example', proxy-url: '{url}'}}}}]"
        );
        let path = folder.path().join("config");
        std::fs::write(&path, text).unwrap();
        let overrides = KubeconfigOverrides { kubeconfig: Some(path), ..KubeconfigOverrides::default() };
        let choice = ClusterChoice::read(&overrides, &ClusterEnvironment::default());
        let made = ApiClient::new(choice.access.unwrap()).map(drop);
        assert_eq!(made, expected, "{url}");
    }
}
