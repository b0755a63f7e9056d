//! Modules in buckets of an S3 server that nobody here wrote: moto.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use kubewasm_modules::S3Options;

use super::*;

/// A server of S3, killed when dropped.
struct Bucket {
    child: Child,
    endpoint: String,
    client: reqwest::Client,
}

/// The server's program, which `tests/tools/moto/build.sh` installs, once.
fn moto() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools/moto/build.sh");
    let made = Command::new(script).stderr(Stdio::inherit()).output().expect("the script cannot be run");
    assert!(made.status.success(), "these tests need an S3 server, which cannot be installed");
    Path::new(String::from_utf8(made.stdout).unwrap().trim_end()).join("moto_server")
}

impl Bucket {
    /// A server with one bucket, `modules`.
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let child = Command::new(moto())
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut bucket = Self { child, endpoint: format!("http://127.0.0.1:{port}"), client };
        let made = bucket.client.put(format!("{}/modules", bucket.endpoint));
        let made = || made.try_clone().unwrap().send();
        while !made().await.is_ok_and(|response| response.status().is_success()) {
            assert!(bucket.child.try_wait().unwrap().is_none(), "moto has ended before it has answered");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bucket
    }

    async fn put(&self, key: &str, bytes: Vec<u8>, acl: &str) {
        // The server wants to know who replaces an object, and believes it.
        let scope = "Credential=id/20260101/eu-central-1/s3/aws4_request";
        let request = self.client.put(format!("{}/modules/{key}", self.endpoint)).body(bytes);
        let request = request
            .header("authorization", format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"))
            .header("x-amz-acl", acl);
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.text().await.unwrap());
    }

    /// A node that knows the server, with keys or without any.
    fn node(&self, keys: bool) -> Node {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut pairs = vec![pair("AWS_ENDPOINT_URL", &self.endpoint), pair("AWS_REGION", "eu-central-1")];
        if keys {
            pairs.extend([pair("AWS_ACCESS_KEY_ID", "id"), pair("AWS_SECRET_ACCESS_KEY", "s3cret")]);
        } else {
            pairs.push(pair("AWS_SKIP_SIGNATURE", "true"));
        }
        Node::with(StoreOptions { s3: S3Options::new(pairs), ..StoreOptions::default() })
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn pull_object(node: &Node, url: &str) -> Result<Image, PullError> {
    let name: ImageName = url.parse().unwrap();
    node.store.pull(&name, &[], None).await.map(|fetched| fetched.image)
}

#[tokio::test]
async fn an_object_is_an_image_and_moves_only_when_it_changed() {
    let bucket = Bucket::start().await;
    let url = "s3://modules/team/app.wasm";
    for keys in [true, false] {
        let node = bucket.node(keys);
        bucket.put("team/app.wasm", module("first"), "public-read").await;
        let first = pull_object(&node, url).await.unwrap();
        assert_eq!(first.digest, Digest::of(&module("first")));
        assert_eq!(first.id(), format!("{url}@{}", first.digest));
        assert_eq!(first.entrypoint, ["app.wasm"]);
        assert_eq!(pull_object(&node, url).await.unwrap(), first);
        bucket.put("team/app.wasm", module("second"), "public-read").await;
        assert_eq!(pull_object(&node, url).await.unwrap().digest, Digest::of(&module("second")));
        let pinned = format!("{url}@{}", first.digest);
        assert_eq!(pull_object(&node, &pinned).await.unwrap().digest, first.digest, "it is still here");
    }
}

#[tokio::test]
async fn objects_that_are_not_there_or_no_modules() {
    let bucket = Bucket::start().await;
    let node = bucket.node(true);
    bucket.put("page", b"<html></html>".to_vec(), "public-read").await;
    for (url, found) in [
        ("s3://modules/none.wasm", "there is no object none.wasm in the bucket modules"),
        ("s3://nobodys/app.wasm", "or no such bucket"),
        ("s3://modules/page", "an HTML page"),
    ] {
        let error = pull_object(&node, url).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(found) && text.contains(url) && !text.contains("s3cret"), "{text}");
        node.assert_empty();
    }
}

#[tokio::test]
async fn an_object_that_is_not_for_everybody() {
    let bucket = Bucket::start().await;
    bucket.put("private.wasm", module("x"), "private").await;
    let url = "s3://modules/private.wasm";
    let reason = pull_object(&bucket.node(false), url).await.unwrap_err().reason;
    assert!(
        matches!(&reason, PullFailure::Denied(text) if text.contains("the node's own S3 credentials")),
        "{reason}"
    );
    pull_object(&bucket.node(true), url).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_in_the_clear_is_configured_or_refused() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let pairs = [("AWS_ENDPOINT_URL".to_owned(), "http://s3.invalid".to_owned())];
    let node = Node::with(StoreOptions { s3: S3Options::new(pairs), ..StoreOptions::default() });
    let reason = pull_object(&node, "s3://modules/app.wasm").await.unwrap_err().reason;
    assert!(
        matches!(&reason, PullFailure::Configuration(text) if text.contains("AWS_ALLOW_HTTP")),
        "{reason}"
    );
    let pairs = [("AWS_ENDPINT".to_owned(), "x".to_owned())];
    let node = Node::with(StoreOptions { s3: S3Options::new(pairs), ..StoreOptions::default() });
    let reason = pull_object(&node, "s3://modules/app.wasm").await.unwrap_err().reason;
    assert!(matches!(&reason, PullFailure::Configuration(text) if text.contains("AWS_ENDPINT")), "{reason}");
}
