//! What strangers send goes to the disk, or nowhere: a process that pulls far more than it may needs little memory for that.

use std::{io::Read as _, process::Command};

use super::*;
use crate::{
    bombs::{config, manifest_of},
    web::{Body, Reply, WebServer},
};

/// Bytes of a layer, and of an image. Of each of these there is several times as much.
const LIMIT: u64 = 64 << 20;
/// Bytes that the process may have had at most. It needs some 24 million by itself.
const MOST: u64 = 64 << 20;

/// A tar archive of one file of zeros, through `pack`.
fn bomb(mut pack: impl std::io::Write) {
    let size = 6 * LIMIT;
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    pack.write_all(header.as_bytes()).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(size + 1024), &mut pack).unwrap();
    pack.flush().unwrap();
}

async fn too_much(node: &Node, image: ImageName) {
    let error = node.store.pull(&image, &[], None).await.unwrap_err();
    assert!(matches!(error.reason, PullFailure::TooLarge(_) | PullFailure::Mismatch(_)), "{error}");
    node.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by the test below: the memory is a process's"]
async fn pulls_of_too_much() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = || StoreOptions { layer_limit: LIMIT, image_limit: LIMIT, ..StoreOptions::default() };
    let registry =
        async |media_type: &'static str, digest: Digest, size: u64, layer: fn() -> Body, packed: Vec<u8>| {
            let (config_digest, config) = config();
            WebServer::start(move |request| {
                let path = request.split(' ').nth(1).unwrap_or_default();
                if path.contains("/manifests/") {
                    Reply::ok(manifest_of(media_type, &digest.to_string(), size))
                } else if path.ends_with(&config_digest) {
                    config()
                } else if packed.is_empty() {
                    Reply::new("200 OK", "", layer())
                } else {
                    Reply::ok(packed.clone())
                }
            })
            .await
        };
    let endless = || Body::Endless(b"\0asm\x01\0\0\0");
    for media_type in [TAR, WASM] {
        let server = registry(media_type, Digest::of(b"x"), LIMIT, endless, Vec::new()).await;
        too_much(&Node::with(options()), server.reference("app:v1").into()).await;
    }
    let server = registry(TAR, Digest::of(b"x"), 1, endless, Vec::new()).await;
    too_much(&Node::with(options()), server.url("/app.wasm").parse().unwrap()).await;

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    bomb(&mut gzip);
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    bomb(&mut zstd);
    for (media_type, packed) in [(TAR_GZIP, gzip.finish().unwrap()), (TAR_ZSTD, zstd.finish().unwrap())] {
        assert!((packed.len() as u64) < LIMIT / 16, "{media_type}: {} bytes are no bomb", packed.len());
        let (digest, size) = (Digest::of(&packed), packed.len() as u64);
        let server = registry(media_type, digest, size, endless, packed).await;
        too_much(&Node::with(options()), server.reference("app:v1").into()).await;
    }
    println!("{}", fs::read_to_string("/proc/self/status").unwrap());
}

#[test]
fn what_is_too_much_takes_little_memory() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "memory::pulls_of_too_much"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let peak = peak.unwrap().parse::<u64>().unwrap() << 10;
    assert!(peak < MOST, "{peak} bytes");
}
