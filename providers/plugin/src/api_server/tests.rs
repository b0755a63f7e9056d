use super::*;

fn server(text: &str) -> ApiServer {
    text.parse().unwrap()
}

fn locate(server_text: &str, wanted: &str) -> Result<String, Elsewhere> {
    server(server_text).locate(&wanted.parse().unwrap()).map(|uri| uri.to_string())
}

#[test]
fn a_server_is_read_as_kubectl_reads_it() {
    for (text, url) in [
        ("https://10.0.0.1:6443", "https://10.0.0.1:6443"),
        ("https://API.example/", "https://api.example:443"),
        ("https://[2001:db8::1]:6443", "https://[2001:db8::1]:6443"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("localhost:8080", "http://localhost:8080"),
        ("https://rancher.example/k8s/clusters/c-1/", "https://rancher.example:443/k8s/clusters/c-1"),
    ] {
        assert_eq!(server(text).url(), url, "{text}");
    }
    for (text, expected) in [
        ("", InvalidServer::Empty),
        ("ftp://x", InvalidServer::Url),
        ("https://", InvalidServer::Url),
        ("https://me:hunter2@x", InvalidServer::Credentials),
    ] {
        let error = text.parse::<ApiServer>().unwrap_err();
        assert_eq!(error, expected, "{text}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[test]
fn scheme_host_and_port_are_compared_and_nothing_else_is_reached() {
    const SERVER: &str = "https://127.0.0.1:6443";
    for wanted in [
        "https://127.0.0.1:6443/api",
        "https://kubernetes.default.svc/api",
        "https://Kubernetes.Default.Svc:443/api",
    ] {
        assert_eq!(locate(SERVER, wanted).unwrap(), "https://127.0.0.1:6443/api", "{wanted}");
    }
    for wanted in [
        "https://127.0.0.1:6444/api",
        "https://127.0.0.1/api",
        "http://127.0.0.1:6443/api",
        "https://127.0.0.2:6443/api",
        "https://localhost:6443/api",
        "https://user@127.0.0.1:6443/api",
        "http://kubernetes.default.svc/api",
        "https://kubernetes.default.svc:6443/api",
        "https://user@kubernetes.default.svc/api",
        "https://kubernetes.default.svc.example/api",
        "https://kubernetes.default.svc./api",
        "https://169.254.169.254/",
        "/api",
    ] {
        assert_eq!(locate(SERVER, wanted), Err(Elsewhere::Server(SERVER.to_owned())), "{wanted}");
    }
}

#[test]
fn a_port_that_is_not_written_is_that_of_the_scheme() {
    assert!(locate("https://a.example", "https://a.example:443/x").is_ok());
    assert!(locate("https://a.example:443", "https://A.example/x").is_ok());
    assert!(locate("http://a.example", "http://a.example/x").is_ok());
    assert!(locate("http://a.example:443", "http://a.example/x").is_err());
    assert!(locate("https://[2001:db8::1]:6443", "https://[2001:db8::1]:6443/x").is_ok());
}

/// One server may have several clusters, and other things.
#[test]
fn a_server_with_a_path_is_reached_below_that_path_alone() {
    const SERVER: &str = "https://r.example/k8s/c1";
    let located = locate(SERVER, "https://kubernetes.default.svc/api/v1?watch=1").unwrap();
    assert_eq!(located, "https://r.example:443/k8s/c1/api/v1?watch=1");
    assert_eq!(server(SERVER).api_path(&located.parse().unwrap()), "/api/v1");
    assert!(locate(SERVER, "https://r.example/k8s/c1/api").is_ok());
    for wanted in
        ["https://r.example/k8s/c2/api", "https://r.example/k8s/c11/api", "https://r.example/v3/tokens"]
    {
        assert!(matches!(locate(SERVER, wanted), Err(Elsewhere::Prefix(_))), "{wanted}");
    }
    for wanted in
        ["/k8s/c1/../c2/api", "/k8s/c1/%2E%2e/c2", "/k8s/c1/.%2e/c2", "/k8s/c1/x%2f..%2fc2", "/k8s/c1/..\\c2"]
    {
        let wanted = format!("https://r.example{wanted}");
        if let Ok(uri) = wanted.parse::<Uri>() {
            assert_eq!(server(SERVER).locate(&uri), Err(Elsewhere::Dots), "{wanted}");
        }
    }
    let virtual_one = locate(SERVER, "https://kubernetes.default.svc/../c2/api");
    assert_eq!(virtual_one, Err(Elsewhere::Dots));
}
