//! Modules that are files: at HTTP addresses, and on this machine.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::web::{Body, Reply, WebServer, file, header, offset};

async fn pull_url(node: &Node, url: &str) -> Result<Image, PullError> {
    let name: ImageName = url.parse().unwrap();
    node.store.pull(&name, &[], None).await.map(|fetched| fetched.image)
}

async fn refusal(node: &Node, url: &str) -> PullFailure {
    let error = pull_url(node, url).await.unwrap_err();
    assert!(error.to_string().contains(url), "{error}");
    node.assert_empty();
    error.reason
}

#[tokio::test]
async fn a_module_at_an_address_is_an_image() {
    let bytes = module("web");
    let content = bytes.clone();
    let server = WebServer::start(move |request| file(request, &content)).await;
    let node = Node::new();
    let url = server.url("/team/app.wasm");
    let image = pull_url(&node, &url).await.unwrap();
    let digest = Digest::of(&bytes);
    assert_eq!((image.digest, image.manifest), (digest, digest));
    assert_eq!(image.kind, ImageKind::Module { module: digest });
    assert_eq!(image.id(), format!("{url}@{digest}"));
    assert_eq!(image.names, [image.id(), url.clone()]);
    assert_eq!(image.entrypoint, ["app.wasm"]);
    let found = node.store.module(&image, "whatever").await.unwrap();
    assert_eq!(fs::read(found.path).unwrap(), bytes);

    let name: ImageName = url.parse().unwrap();
    assert_eq!(node.store.get(&name).unwrap(), Some(image.clone()));
    assert_eq!(node.store.list().unwrap(), std::slice::from_ref(&image));
    node.store.remove(&image.id().parse().unwrap()).unwrap();
    node.assert_empty();
}

#[tokio::test]
async fn an_address_that_has_not_changed_moves_no_bytes() {
    let version = std::sync::Arc::new(AtomicUsize::new(0));
    let served = std::sync::Arc::clone(&version);
    let content = |number: usize| module(&format!("version {number}"));
    let server =
        WebServer::start(move |request| file(request, &content(served.load(Ordering::SeqCst)))).await;
    let node = Node::new();
    let url = server.url("/app.wasm");
    let first = pull_url(&node, &url).await.unwrap();
    assert_eq!(pull_url(&node, &url).await.unwrap(), first);
    version.store(1, Ordering::SeqCst);
    let second = pull_url(&node, &url).await.unwrap();
    assert_eq!((first.digest, second.digest), (Digest::of(&content(0)), Digest::of(&content(1))));
    assert_eq!(node.store.get(&url.parse().unwrap()).unwrap(), Some(second));

    let requests = server.requests();
    let asked: Vec<_> = requests.iter().map(|request| header(request, "if-none-match")).collect();
    let tag = format!("\"{}\"", Digest::of(&content(0)).hex());
    assert_eq!(asked, [None, Some(tag.as_str()), Some(&tag)]);
}

#[tokio::test]
async fn times_of_modification_serve_where_there_are_no_tags() {
    const TIME: &str = "Tue, 03 Nov 2026 08:00:00 GMT";
    let server = WebServer::start(|request| match header(request, "if-modified-since") {
        Some(TIME) => Reply::status("304 Not Modified"),
        _ => Reply::new("200 OK", &format!("last-modified: {TIME}\r\n"), Body::Whole(module("x"))),
    })
    .await;
    let node = Node::new();
    let url = server.url("/app.wasm");
    let first = pull_url(&node, &url).await.unwrap();
    assert_eq!(pull_url(&node, &url).await.unwrap(), first);
    assert_eq!(header(&server.requests()[1], "if-modified-since"), Some(TIME));
}

#[tokio::test]
async fn a_pin_is_checked_and_what_is_pinned_and_here_asks_nobody() {
    let bytes = module("pinned");
    let content = bytes.clone();
    let server = WebServer::start(move |request| file(request, &content)).await;
    let node = Node::new();
    let wrong = format!("{}@{}", server.url("/app.wasm"), Digest::of(b"another"));
    let reason = refusal(&node, &wrong).await;
    assert!(matches!(&reason, PullFailure::Mismatch(text) if text.contains("is wanted")), "{reason}");

    let pinned = format!("{}@{}", server.url("/app.wasm"), Digest::of(&bytes));
    let image = pull_url(&node, &pinned).await.unwrap();
    assert_eq!((image.id(), image.names.as_slice()), (pinned.clone(), std::slice::from_ref(&pinned)));
    let before = server.requests().len();
    assert_eq!(pull_url(&node, &pinned).await.unwrap(), image);
    assert_eq!(server.requests().len(), before);
}

#[tokio::test]
async fn a_download_that_breaks_off_is_continued() {
    let bytes = [module("long"), vec![7; 1 << 20]].concat();
    let content = bytes.clone();
    let server = WebServer::start(move |request| match offset(request) {
        None => Reply::new("200 OK", "etag: \"v1\"\r\n", Body::Cut(content.clone(), 300_000)),
        Some(from) => {
            let range = format!("content-range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len());
            Reply::new("206 Partial Content", &range, Body::Whole(content[from..].to_vec()))
        }
    })
    .await;
    let node = Node::new();
    let image = pull_url(&node, &server.url("/app.wasm")).await.unwrap();
    assert_eq!(image.digest, Digest::of(&bytes));
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(header(&requests[1], "if-range"), Some("\"v1\""));
    assert!(offset(&requests[1]).is_some_and(|from| from <= 300_000));
}

#[tokio::test]
async fn what_is_no_module_is_refused_by_what_it_is() {
    let limit = 1 << 20;
    for (reply, found) in [
        (
            (|| Reply::ok("<!DOCTYPE html><title>Sign in</title>")) as fn() -> Reply,
            "an HTML page; check the address",
        ),
        (|| Reply::ok("hello"), "a text file"),
        (|| Reply::ok(gzip(b"x")), "a gzip archive"),
        (|| Reply::ok(b"\x7fELF\x02\x01\x01".to_vec()), "a Linux program"),
        (|| Reply::ok("(module)"), "in its text form"),
        (|| Reply::ok(""), "empty (0 bytes)"),
        (|| Reply::ok(b"\0as".to_vec()), "a binary file"),
        (|| Reply::new("200 OK", "", Body::Endless(b"")), "a text file"),
        (|| Reply::ok(vec![0; (1 << 20) + 1]), "more than 1048576 bytes, which is this node's limit"),
        (|| Reply::status("404 Not Found"), "answered 404 Not Found"),
        (|| Reply::status("401 Unauthorized"), "asked without credentials"),
        (|| Reply::status("500 Internal Server Error"), "answered 500"),
        (|| Reply::status("204 No Content"), "answered 204"),
        (|| Reply::status("304 Not Modified"), "answered 304"),
        (
            || Reply::new("403 Forbidden", "", Body::Whole(b"the secrets of the intranet".to_vec())),
            "answered 403 Forbidden; a",
        ),
    ] {
        let server = WebServer::start(move |_| reply()).await;
        let node = Node::with(StoreOptions { layer_limit: limit, ..StoreOptions::default() });
        let reason = refusal(&node, &server.url("/app.wasm")).await.to_string();
        assert!(reason.contains(found), "{found}: {reason}");
        assert!(!reason.contains("secrets"), "what is elsewhere in the network is not read out: {reason}");
    }
}

#[tokio::test]
async fn a_module_without_end_is_cut_off_at_the_limit() {
    let server = WebServer::start(|_| Reply::new("200 OK", "", Body::Endless(b"\0asm\x01\0\0\0"))).await;
    let node = Node::with(StoreOptions { layer_limit: 2 << 20, ..StoreOptions::default() });
    let reason = refusal(&node, &server.url("/app.wasm")).await;
    assert!(matches!(&reason, PullFailure::TooLarge(text) if text.contains("this node's limit")), "{reason}");
}

#[tokio::test]
async fn tls_with_an_authority_of_ones_own_and_nothing_below_it() {
    let plain = WebServer::start(|request| file(request, &module("x"))).await;
    let down = plain.url("/app.wasm");
    let server = WebServer::start_with_tls(move |request| match request.contains(" /down ") {
        true => Reply::redirect(&down),
        false => file(request, &module("x")),
    })
    .await;
    let options =
        StoreOptions { certificate_authorities: vec![server.authority()], ..StoreOptions::default() };
    let node = Node::with(options);
    pull_url(&node, &server.url("/app.wasm")).await.unwrap();

    let error = pull_url(&node, &server.url("/down")).await.unwrap_err().to_string();
    assert!(error.contains("redirects from HTTPS to HTTP"), "{error}");
    assert!(plain.requests().is_empty());
    let reason = refusal(&Node::new(), &server.url("/app.wasm")).await.to_string();
    assert!(reason.contains("certificate"), "{reason}");
}

#[tokio::test]
async fn redirects_are_followed_for_a_while_and_take_nothing_along() {
    let end = WebServer::start_on("127.0.0.2", |request| file(request, &module("x"))).await;
    let there = end.url("/there.wasm");
    let server = WebServer::start(move |request| match request.contains(" /loop") {
        true => Reply::redirect("/loop"),
        false => Reply::redirect(&there),
    })
    .await;
    let node = Node::new();
    let reason = refusal(&node, &server.url("/loop")).await;
    assert!(matches!(&reason, PullFailure::Unavailable(text) if text.contains("too often")), "{reason}");
    assert!(server.requests().len() <= 12);

    let name: ImageName = server.url("/app.wasm").parse().unwrap();
    let image = node.store.pull(&name, &[credential(PASSWORD)], None).await.unwrap().image;
    assert_eq!(image.names[1], server.url("/app.wasm"), "the name is what was asked for");
    assert!(end.requests().iter().all(|request| header(request, "authorization").is_none()));
}

#[tokio::test]
async fn in_the_clear_only_what_nobody_can_change_or_what_is_configured() {
    let node = Node::new();
    let reason = refusal(&node, "http://modules.invalid/app.wasm").await;
    let expected = "use https://, pin its digest by @sha256:…, or name the host with --insecure-registry";
    assert!(matches!(&reason, PullFailure::Unsupported(text) if text.contains(expected)), "{reason}");

    // These get as far as looking for the host.
    let pinned = format!("http://modules.invalid/app.wasm@{}", Digest::of(b"x"));
    assert!(matches!(refusal(&node, &pinned).await, PullFailure::Unavailable(_)));
    let insecure = vec!["modules.invalid".to_owned()];
    let node = Node::with(StoreOptions { insecure_registries: insecure, ..StoreOptions::default() });
    let reason = refusal(&node, "http://modules.invalid/app.wasm").await;
    assert!(matches!(reason, PullFailure::Unavailable(_)), "{reason}");
}

#[tokio::test]
async fn files_come_from_directories_that_are_allowed() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("app.wasm");
    fs::write(&path, module("first")).unwrap();
    let url = format!("file://{}", path.display());
    let reason = refusal(&Node::new(), &url).await;
    assert!(matches!(&reason, PullFailure::Denied(text) if text.contains("--allow-image-dir")), "{reason}");

    let allowed = vec![directory.path().to_owned()];
    let node = Node::with(StoreOptions { file_directories: allowed, ..StoreOptions::default() });
    let first = pull_url(&node, &url).await.unwrap();
    assert_eq!(first.digest, Digest::of(&module("first")));
    assert_eq!(first.id(), format!("{url}@{}", first.digest));
    assert_eq!(pull_url(&node, &url).await.unwrap(), first);

    fs::write(&path, module("another")).unwrap();
    assert_eq!(node.store.get(&url.parse().unwrap()).unwrap(), Some(first), "only a pull looks again");
    assert_eq!(pull_url(&node, &url).await.unwrap().digest, Digest::of(&module("another")));

    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).unwrap();
    for (name, found) in [("link", "leads out of"), ("none.wasm", "there is no file")] {
        let url = format!("file://{}/{name}", directory.path().display());
        let error = pull_url(&node, &url).await.unwrap_err().to_string();
        assert!(error.contains(found), "{error}");
    }
}
