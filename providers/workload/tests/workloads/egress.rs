//! Whom components may connect to, by name, port and scheme: the matrix is in the library's own tests, and this is what comes of it.

use kubewasm_host::Resolver;
use kubewasm_workload::{
    engine::Engine,
    types::{Component, LocalResources},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::world::{World, command, guest, workload};

/// A server on the machine's loopback that answers each request with "hello". Its port.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                // Whoever asked may have gone.
                let _ = stream.read(&mut request).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
                    .await;
            });
        }
    });
    port
}

/// Where all names are this machine's loopback.
fn engine() -> Engine {
    let resolver = Resolver::new(|_| Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()]));
    Engine::builder().with_resolver(resolver).build().unwrap()
}

async fn asking(url: &str, allowed_hosts: &[&str], port: u16) -> Component {
    let allowed_hosts = allowed_hosts.iter().map(|host| (*host).to_owned()).collect();
    let resources =
        LocalResources { allowed_hosts, allowed_loopback_ports: vec![port], ..LocalResources::default() };
    command(&guest("outgoing-0.2.c").await, &[url.to_owned()], resources)
}

#[tokio::test]
async fn requests_go_to_allowed_hosts_alone() {
    let world = World::with(|builder| builder.with_engine(engine())).await;
    let port = server().await;
    let url = |scheme: &str, host: &str| format!("{scheme}://{host}:{port}/");
    let with_port = format!("a.example:{port}");
    let with_scheme = format!("http://a.example:{port}/");
    let other_scheme = format!("https://a.example:{port}");
    let cases: [(&str, &str, &[&str], bool); 11] = [
        ("http", "a.example", &["*"], true),
        ("http", "a.example", &["a.example"], true),
        ("http", "a.example", &[&with_port], true),
        ("http", "a.example", &[&with_scheme], true),
        ("http", "a.example", &["*.example"], true),
        ("http", "a.example", &[&other_scheme], false),
        ("http", "a.example", &["a.example:80"], false),
        ("http", "b.example", &["a.example"], false),
        ("http", "example", &["*.example"], false),
        ("http", "a.example", &[], false),
        ("http", "localhost", &[], true),
    ];
    for (index, (scheme, host, allowed_hosts, expected)) in cases.into_iter().enumerate() {
        let name = format!("w{index}");
        let url = url(scheme, host);
        world.start(workload(&name, vec![asking(&url, allowed_hosts, port).await])).await.unwrap();
        let said = world.run(&name).await;
        assert_eq!(said.contains("200, 5 bytes: hello"), expected, "{url} by {allowed_hosts:?}: {said}");
        assert_eq!(said.contains("refused"), !expected, "{url} by {allowed_hosts:?}: {said}");
    }
}
