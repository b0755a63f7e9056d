//! Registries that are reached as `hosts.toml` says.

use super::*;
use crate::web::{Reply, WebServer, header};

/// A directory of registries' configurations, as for containerd.
struct HostsDir(tempfile::TempDir);

impl HostsDir {
    fn new() -> Self {
        Self(tempfile::TempDir::new().unwrap())
    }

    /// Writes the configuration of a registry.
    fn write(&self, registry: &str, text: &str) -> &Self {
        let directory = self.0.path().join(registry);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("hosts.toml"), text).unwrap();
        self
    }

    fn node(&self) -> Node {
        Node::with(StoreOptions {
            registry_config_directories: vec![self.0.path().to_owned()],
            ..StoreOptions::default()
        })
    }
}

fn requests(registry: &mut Registry, what: &str) -> Vec<String> {
    registry.stop().into_iter().filter(|line| line.contains("kubewasm/") && line.contains(what)).collect()
}

#[tokio::test]
async fn a_mirror_serves_a_registry_that_is_not_there() {
    let mut mirror = Registry::start();
    let digest = mirror.push("team/app:v1", artifact(module("x"), WASM, None)).await;
    let hosts = HostsDir::new();
    hosts.write("gone.invalid", &format!("[host.\"{}\"]\n", mirror.url()));
    let node = hosts.node();
    let reference: Reference = "gone.invalid/team/app:v1".parse().unwrap();
    let image = pull(&node.store, &reference).await.unwrap();
    assert_eq!(image.id(), format!("gone.invalid/team/app@{digest}"), "the mirror is not in the name");
    let asked = requests(&mut mirror, "/v2/team/app/");
    assert_eq!(asked.len(), 3, "{asked:#?}");
    assert!(asked.iter().all(|line| line.contains("?ns=gone.invalid")), "{asked:#?}");
}

#[tokio::test]
async fn mirrors_that_have_nothing_or_fail_are_passed_over() {
    let registry = Registry::start();
    registry.push("app", artifact(module("x"), WASM, None)).await;
    let reference = registry.reference("app");
    let broken = WebServer::start(|_| Reply::status("503 Service Unavailable")).await;
    let empty = WebServer::start(|_| Reply::status("404 Not Found")).await;
    let (one, two) = (broken.url(""), empty.url(""));
    let hosts = HostsDir::new();
    hosts.write("_default", &format!("[host.\"{one}\"]\n[host.\"{two}\"]\n"));
    let node = hosts.node();
    pull(&node.store, &reference).await.unwrap();
    assert_eq!(
        (broken.requests().len(), empty.requests().len()),
        (3, 3),
        "for the manifest and for each blob"
    );

    // When the registry fails, too, its own words come first.
    let reason = failure(&node.store, &registry.reference("none")).await;
    let text = reason.to_string();
    assert!(matches!(reason, PullFailure::NotFound(_)), "{text}");
    let mirrors = format!("(after its mirrors: {}: the registry is unavailable: 503", broken.address);
    assert!(text.contains("unknown") && text.contains(&mirrors), "{text}");
}

#[tokio::test]
async fn only_a_host_that_may_resolve_says_what_a_tag_means() {
    let registry = Registry::start();
    let mut mirror = Registry::start();
    let old = artifact(module("old"), WASM, None);
    mirror.push("app:v1", old).await;
    let new = artifact(module("new"), WASM, None);
    let digest = registry.push("app:v1", new).await;
    let hosts = HostsDir::new();
    let name = registry.reference("app").registry().replace(':', "_");
    hosts.write(&format!("{name}_"), &format!("[host.\"{}\"]\ncapabilities = [\"pull\"]\n", mirror.url()));
    let node = hosts.node();
    let image = pull(&node.store, &registry.reference("app:v1")).await.unwrap();
    assert_eq!(image.digest.to_string(), digest);
    let asked = requests(&mut mirror, "/v2/app/");
    assert!(asked.iter().all(|line| line.contains("/blobs/")) && asked.len() == 2, "{asked:#?}");
}

#[tokio::test]
async fn credentials_are_the_registrys_and_headers_the_mirrors() {
    let registry = Registry::start_with_login();
    registry.push("private", artifact(module("x"), WASM, None)).await;
    let mirror = WebServer::start(|_| {
        Reply::new("401 Unauthorized", "www-authenticate: Basic realm=\"r\"\r\n", web::Body::Whole(vec![]))
    })
    .await;
    let hosts = HostsDir::new();
    let text = format!("[host.\"{}\"]\n[host.\"{0}\".header]\nx-mirror-key = \"k3y\"\n", mirror.url(""));
    hosts.write("_default", &text);
    let node = hosts.node();
    let reference = registry.reference("private");
    let fetched = node.store.pull(&reference, &[credential(PASSWORD)], None).await.unwrap();
    assert_eq!(fetched.credential, Some(0));
    let asked = mirror.requests();
    assert!(!asked.is_empty());
    for request in asked {
        assert_eq!(header(&request, "authorization"), None, "{request}");
        assert_eq!(header(&request, "x-mirror-key"), Some("k3y"), "{request}");
    }

    // Where the configuration gives the mirror credentials of its own, these are sent.
    let reference = reference.to_string();
    let (own, served) = (Registry::start_with_login(), HostsDir::new());
    own.push("private", artifact(module("x"), WASM, None)).await;
    // alice:opensesame
    let header = "authorization = \"Basic YWxpY2U6b3BlbnNlc2FtZQ==\"";
    served.write("gone.invalid", &format!("[host.\"{}\"]\n[host.\"{0}\".header]\n{header}\n", own.url()));
    let node = served.node();
    let public: Reference = "gone.invalid/private".parse().unwrap();
    assert_eq!(node.store.pull(&public, &[], None).await.unwrap().credential, None, "{reference}");
}

#[tokio::test]
async fn trust_of_a_host_of_its_own() {
    let registry = Registry::start_with_tls();
    registry.push("app", artifact(module("x"), WASM, None)).await;
    let reference = registry.reference("app");
    let url = registry.url();
    let authority = registry.authority();
    for (text, trusted) in [
        (format!("server = \"{url}\"\n"), false),
        (format!("server = \"{url}\"\nca = {authority:?}\n"), true),
        (format!("server = \"{url}\"\nskip_verify = true\n"), true),
        (format!("ca = [{authority:?}]\n"), true),
        (format!("server = \"{url}\"\n[host.\"{url}\"]\nca = {authority:?}\ndial_timeout = \"30s\"\n"), true),
    ] {
        let hosts = HostsDir::new();
        let node = hosts.write(reference.registry(), &text).node();
        let outcome = pull(&node.store, &reference).await;
        assert_eq!(outcome.is_ok(), trusted, "{text}: {outcome:?}");
        if let Err(error) = outcome {
            assert!(error.to_string().contains("certificate"), "{error}");
        }
    }

    // Docker's form: no hosts.toml, but certificates.
    let hosts = HostsDir::new();
    let directory = hosts.0.path().join(reference.registry());
    fs::create_dir(&directory).unwrap();
    fs::copy(&authority, directory.join("ca.crt")).unwrap();
    pull(&hosts.node().store, &reference).await.unwrap();
    fs::write(directory.join("hosts.toml"), "").unwrap();
    pull(&hosts.node().store, &reference).await.unwrap();
}

#[tokio::test]
async fn a_mirror_below_a_path() {
    let mirror = WebServer::start(|_| Reply::status("404 Not Found")).await;
    let hosts = HostsDir::new();
    let (first, second) = (mirror.url("/proxy/hub"), mirror.url("/v2/proxy"));
    let text = format!(
        "[host.\"{first}\"]\n[host.\"{second}\"]\noverride_path = true\n[host.\"{}\"]\n",
        mirror.url("/")
    );
    let node = hosts.write("gone.invalid", &format!("capabilities = [\"push\"]\n{text}")).node();
    let reason = failure(&node.store, &"gone.invalid/a:v1".parse().unwrap()).await;
    assert!(
        matches!(&reason, PullFailure::Unavailable(text) if text.starts_with("no mirror has given it")),
        "{reason}"
    );
    let asked: Vec<String> =
        mirror.requests().iter().filter_map(|request| Some(request.split(' ').nth(1)?.to_owned())).collect();
    assert_eq!(
        asked,
        ["/proxy/hub/v2/a", "/v2/proxy/a", "/v2/a"]
            .map(|path| format!("{path}/manifests/v1?ns=gone.invalid"))
    );
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_names_file_and_field() {
    let hosts = HostsDir::new();
    let reference: Reference = "gone.invalid/app".parse().unwrap();
    for (text, found) in [
        ("[host.'https://m.lan']\ncapabilities = ['fetch']\n", "capabilities: \"fetch\" is not known"),
        ("ca = 'none.crt'\n", "none.crt: No such file"),
        ("capabilities = ['push']\n", "may be asked for it"),
        ("server = [", "line 1"),
    ] {
        let node = hosts.write("gone.invalid", text).node();
        let reason = failure(&node.store, &reference).await;
        assert!(matches!(&reason, PullFailure::Configuration(_)), "{reason:?}");
        let text = reason.to_string();
        assert!(text.contains("gone.invalid") && text.contains(found), "{text}");
        node.assert_empty();
    }
}

#[tokio::test]
async fn what_the_configuration_calls_the_registry_gets_its_credentials() {
    let registry = Registry::start_with_login();
    registry.push("private", artifact(module("x"), WASM, None)).await;
    let url = registry.url();
    for (name, text) in [
        (registry.reference("private").to_string(), format!("[host.\"{url}\"]\n")),
        ("gone.invalid/private".to_owned(), format!("server = \"{url}\"\n")),
    ] {
        let reference: Reference = name.parse().unwrap();
        let hosts = HostsDir::new();
        let node = hosts.write(reference.registry(), &text).node();
        let fetched = node.store.pull(&reference, &[credential(PASSWORD)], None).await.unwrap();
        assert_eq!(fetched.credential, Some(0), "{text}");
    }
}

#[tokio::test]
async fn a_host_that_wants_a_client_certificate() {
    let server = WebServer::start_with_client_certificates(|_| Reply::status("404 Not Found")).await;
    let authority = server.authority();
    let reference = server.reference("app:v1");
    let client = authority.with_file_name("client.pem");
    let hosts = HostsDir::new();
    let text = format!("ca = {authority:?}\n");
    let reason = failure(&hosts.write(reference.registry(), &text).node().store, &reference).await;
    assert!(matches!(reason, PullFailure::Unavailable(_)), "{reason}");
    let text = format!("ca = {authority:?}\nclient = {client:?}\n");
    let reason = failure(&hosts.write(reference.registry(), &text).node().store, &reference).await;
    assert!(matches!(reason, PullFailure::NotFound(_)), "it has been let in: {reason}");

    fs::write(hosts.0.path().join(reference.registry()).join("hosts.toml"), "").unwrap();
    for (from, name) in [(&authority, "ca.crt"), (&client, "client.cert")] {
        fs::copy(from, hosts.0.path().join(reference.registry()).join(name)).unwrap();
    }
    let reason = failure(&hosts.node().store, &reference).await;
    assert!(matches!(reason, PullFailure::NotFound(_)), "Docker's form does as well: {reason}");

    let text = format!("client = {authority:?}\n");
    let reason = failure(&hosts.write(reference.registry(), &text).node().store, &reference).await;
    let expected = "client holds no PEM certificate with its key";
    assert!(matches!(&reason, PullFailure::Configuration(text) if text.contains(expected)), "{reason}");
}
