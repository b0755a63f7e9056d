//! Plugins that try what they must not.

use std::fs;

use kubewasm_tests::guests;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    sync::mpsc,
};

use super::{
    cluster::{admin, token, write},
    user::User,
};
use crate::{desk::errors, suite::suite};

/// `wasi:http`'s error-code for a request that is denied.
const DENIED: &str = "refused 15";

/// A listener that tells whether anybody came.
async fn decoy() -> (u16, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, visits) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = sender.send(());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere").await;
        }
    });
    (port, visits)
}

/// Another port of the same host, another host, another scheme, other protocols: refused each, with a line for the user, and
/// nobody sees a connection. Both versions of `wasi:http` are held to it.
#[tokio::test]
async fn nothing_but_the_api_server_is_reached() {
    let cluster = &suite().await.cluster;
    let config: Value =
        serde_yaml_ng::from_str(&fs::read_to_string(cluster.admin_kubeconfig()).unwrap()).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let address = server.strip_prefix("https://").unwrap();
    let (port, mut visits) = decoy().await;
    let user = User::new().await.with_kubeconfig(cluster.admin_kubeconfig());
    for (guest, name) in [("outgoing-0.2.c", "older"), ("outgoing-0.3.c", "newer")] {
        user.has(guest, name, &[]).await;
        let pod = "api/v1/namespaces/default/pods/p";
        let wanted = [
            format!("http://127.0.0.1:{port}/"),
            format!("https://127.0.0.1:{port}/"),
            format!("http://localhost:{port}/"),
            format!("http://{address}/version"),
            "http://kubernetes.default.svc/version".to_owned(),
            "https://kubernetes.default.svc:6443/version".to_owned(),
            "https://kubernetes.default.svc.cluster.local/version".to_owned(),
            "https://192.0.2.1/".to_owned(),
            "http://169.254.169.254/latest/meta-data".to_owned(),
            format!("https://{address}/{pod}/exec?command=sh"),
            format!("https://kubernetes.default.svc/{pod}/attach"),
            format!("https://kubernetes.default.svc/{pod}/portforward"),
        ];
        for address in &wanted {
            let output = user.kubectl(&[name, address]).await;
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(printed.contains(DENIED), "{name}: {printed}{}", errors(&output));
            assert!(
                errors(&output).starts_with(&format!("kubectl {name}: refused: GET ")),
                "{}",
                errors(&output)
            );
            assert_eq!(errors(&output).lines().count(), 1, "{}", errors(&output));
        }
        for good in
            [format!("https://{address}/version"), "https://kubernetes.default.svc/version".to_owned()]
        {
            let printed = user.kubectl_prints(&[name, &good]).await;
            assert!(printed.contains(": 200, "), "{name}: {printed}");
        }
    }
    assert!(visits.try_recv().is_err(), "somebody came");
}

/// A redirect is the guest's to follow, and leads it nowhere else.
#[tokio::test]
async fn a_redirect_to_elsewhere_is_not_followed() {
    let (elsewhere, mut visits) = decoy().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = format!(
                "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{elsewhere}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let user = User::new().await;
    let config = json!({
        "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
    });
    let kubeconfig = user.home().join("config");
    fs::write(&kubeconfig, config.to_string()).unwrap();
    let user = user.with_kubeconfig(kubeconfig);
    user.has("outgoing-0.2.c", "asker", &[]).await;
    let printed = user.kubectl_prints(&["asker", "https://kubernetes.default.svc/"]).await;
    assert!(printed.contains(": 302, 0 bytes"), "{printed}");
    assert!(visits.try_recv().is_err(), "it was followed");
}

/// A plugin is held to what it says of itself.
#[tokio::test]
async fn a_request_outside_of_the_manifest_is_refused() {
    let cluster = &suite().await.cluster;
    let user = User::new().await.with_kubeconfig(cluster.admin_kubeconfig());
    let access = user.work().join("access.yaml");
    fs::write(&access, "- {verbs: [list], apiGroups: [''], resources: [namespaces]}\n").unwrap();
    user.has("outgoing-0.2.c", "narrow", &["--access", "access.yaml"]).await;
    let at = |path: &str| format!("https://kubernetes.default.svc{path}");
    let printed = user.kubectl_prints(&["narrow", &at("/api/v1/namespaces")]).await;
    assert!(printed.contains(": 200, "), "{printed}");
    for (path, said) in [
        ("/api/v1/secrets", "list secrets"),
        ("/api/v1/%73ecrets", "list secrets"),
        ("/api/v1/namespaces?watch=1", "watch namespaces"),
        ("/api/v1/namespaces/default", "get namespaces"),
        ("/version", "get /version"),
    ] {
        let output = user.kubectl(&["narrow", &at(path)]).await;
        assert!(String::from_utf8_lossy(&output.stdout).contains(DENIED), "{path}");
        assert!(errors(&output).contains(&format!("does not permit it to {said}")), "{}", errors(&output));
    }
}

/// What a plugin says of who it is counts for nothing: neither a token of its own nor whom it asks as arrives.
#[tokio::test]
async fn a_plugin_does_not_say_who_asks() {
    let cluster = &suite().await.cluster;
    let (all, token) = ("https://kubernetes.default.svc/api/v1/secrets", token(cluster, "default").await);
    let user = User::new().await.with_kubeconfig(cluster.admin_kubeconfig());
    let mut nobody = admin(cluster);
    nobody["users"][0]["user"] = json!({});
    let nobody = format!("--kubeconfig={}", write(&user, "nobody", &nobody).display());
    for (guest, name) in [("outgoing-0.2.c", "older"), ("outgoing-0.3.c", "newer")] {
        user.has(guest, name, &[]).await;
        // With the token, the server would know a service account.
        let printed =
            user.kubectl_prints(&[name, &nobody, &format!("^authorization:Bearer {token}"), all]).await;
        assert!(printed.contains(": 401, ") || printed.contains("system:anonymous"), "{name}: {printed}");
        // It would refuse her.
        let printed = user.kubectl_prints(&[name, "^impersonate-user:jane", all]).await;
        assert!(printed.contains(": 200, "), "{name}: {printed}");
        // What else it says arrives: the server answers in the format that it is asked for.
        let printed = user.kubectl_prints(&[name, "^accept:application/vnd.kubernetes.protobuf", all]).await;
        assert!(printed.contains(" bytes: k8s"), "{name}: {printed}");
    }
}

/// No connection, no listener, no datagram and no question about a name.
#[tokio::test]
async fn there_are_no_sockets_and_no_names() {
    let user = User::new().await;
    let (port, mut visits) = decoy().await;
    let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = datagrams.local_addr().unwrap().port();
    for (guest, args) in [
        (
            "sockets-0.2.c",
            [
                &*format!("tcp-ask 127.0.0.1:{port}"),
                &*format!("udp-ask 127.0.0.1:{at}"),
                "tcp-bind 127.0.0.1:0",
            ]
            .to_vec(),
        ),
        ("names-0.2.c", ["localhost", "example.com"].to_vec()),
    ] {
        fs::write(user.work().join("guest.wasm"), guests::guest(guest).await.unwrap()).unwrap();
        for words in args {
            let words: Vec<&str> = words.split(' ').collect();
            let output = user.plugin(&[&["run", "guest.wasm", "--"], &words[..]].concat()).await;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("refused"), "{words:?}: {said}{}", errors(&output));
        }
    }
    assert!(visits.try_recv().is_err(), "somebody came");
    let mut buffer = [0; 16];
    assert!(datagrams.try_recv(&mut buffer).is_err(), "something was sent");
}
