//! Blob stores.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use kubewasm_workload::interfaces::{
    Settings, Tenant,
    blobstore::{BlobError, BlobRange, BlobStores, OpenContainer},
};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;

use crate::{
    servers::{PASSWORD, Server},
    settings,
};

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

fn stores(settings: &Settings) -> BlobStores {
    let mut stores = BlobStores::new();
    stores.add(None, settings).unwrap();
    stores
}

fn s3(server: &Server) -> Settings {
    settings(&[("endpoint", &server.url()), ("access_key_id", "id"), ("secret_access_key", PASSWORD)])
}

async fn write(container: &OpenContainer, object: &str, bytes: &[u8]) -> Result<(), BlobError> {
    let mut writer = container.writer(object).await?;
    for piece in bytes.chunks(50_000) {
        writer.write(Bytes::copy_from_slice(piece)).await?;
    }
    writer.finish().await
}

async fn read(container: &OpenContainer, object: &str, start: u64, end: u64) -> Result<Vec<u8>, BlobError> {
    let blob = container.read(object, BlobRange { start, end }).await?;
    let pieces: Vec<Bytes> = blob.bytes.try_collect().await?;
    let bytes = pieces.concat();
    assert_eq!(bytes.len() as u64, blob.size);
    Ok(bytes)
}

async fn names(container: &OpenContainer) -> Vec<String> {
    let mut names = container.list().await.unwrap();
    let mut all = Vec::new();
    loop {
        let (some, is_end) = names.read(3).await.unwrap();
        assert!(some.len() <= 3);
        all.extend(some);
        if is_end {
            all.sort();
            return all;
        }
    }
}

/// Bytes that are not alike anywhere.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect()
}

/// What all back ends do alike.
async fn behaves(stores: &BlobStores) {
    let container = stores.container(None, "the-container").unwrap();
    assert_eq!(container.created().await, Ok(None));
    container.create().await.unwrap();
    container.create().await.unwrap();
    assert!(container.created().await.unwrap().is_some());
    assert_eq!(container.object("a/b.txt").await, Ok(None));
    assert!(read(&container, "a/b.txt", 0, u64::MAX).await.is_err());

    let large = bytes(12 * MIB + 5);
    write(&container, "a/b.txt", &large).await.unwrap();
    assert!(read(&container, "a/b.txt", 0, u64::MAX).await.unwrap() == large);
    assert_eq!(container.object("a/b.txt").await.unwrap().unwrap().size, large.len() as u64);
    let (start, end) = (5 * MIB - 3, 7 * MIB);
    let part = read(&container, "a/b.txt", start as u64, end as u64).await.unwrap();
    assert!(part == large[start..=end], "both ends belong to it");
    assert_eq!(
        read(&container, "a/b.txt", large.len() as u64 - 1, u64::MAX).await.unwrap(),
        large[large.len() - 1..]
    );
    assert_eq!(read(&container, "a/b.txt", large.len() as u64 + 5, u64::MAX).await.unwrap(), b"");

    // What is not finished has not happened.
    let mut writer = container.writer("a/b.txt").await.unwrap();
    writer.write(Bytes::from(bytes(6 * MIB))).await.unwrap();
    writer.abort().await;
    assert_eq!(container.object("a/b.txt").await.unwrap().unwrap().size, large.len() as u64);

    write(&container, "a/b.txt", b"small").await.unwrap();
    write(&container, "empty", b"").await.unwrap();
    assert_eq!(read(&container, "a/b.txt", 0, u64::MAX).await.unwrap(), b"small");
    assert_eq!(read(&container, "empty", 0, u64::MAX).await.unwrap(), b"");
    for number in 0..8 {
        write(&container, &format!("n{number}"), b"n").await.unwrap();
    }
    assert_eq!(names(&container).await, ["a/b.txt", "empty", "n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"]);
    container.delete_objects(&["n0".to_owned(), "n1".to_owned(), "nothing".to_owned()]).await.unwrap();
    container.delete_object("n2").await.unwrap();
    container.delete_object("n2").await.unwrap();
    assert_eq!(names(&container).await.len(), 7);
    container.clear().await.unwrap();
    assert_eq!(names(&container).await, Vec::<String>::new());
    write(&container, "again", b"1").await.unwrap();
    container.delete().await.unwrap();
    container.delete().await.unwrap();
    assert_eq!(container.created().await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_files_behave() {
    behaves(&stores(&settings(&[]))).await;
    let dir = tempfile::tempdir().unwrap();
    let files = stores(&settings(&[("path", dir.path().join("root").to_str().unwrap())]));
    behaves(&files).await;
    for name in ["..", "../x", "/etc"] {
        let container = files.container(None, name).unwrap();
        container.create().await.unwrap();
        write(&container, "../../y", b"1").await.unwrap();
        assert_eq!(read(&container, "../../y", 0, u64::MAX).await.unwrap(), b"1");
        assert_eq!(names(&container).await, ["../../y"]);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let left: Vec<_> = std::fs::read_dir(dir.path().join("root/%2E.")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_behaves_and_others_read_it() {
    let server = Server::s3().await;
    let stores = stores(&s3(&server));
    behaves(&stores).await;
    let container = stores.container(None, "shared-bucket").unwrap();
    container.create().await.unwrap();
    write(&container, "a/b c.txt", b"hello").await.unwrap();
    // The server believes whoever says who asks.
    let scope = "Credential=id/20260101/us-east-1/s3/aws4_request";
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let raw = |method| {
        client
            .request(method, format!("{}/shared-bucket/a/b%20c.txt", server.url()))
            .header("authorization", format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"))
    };
    let text = raw(reqwest::Method::GET).send().await.unwrap().text().await.unwrap();
    assert_eq!(text, "hello");
    assert!(raw(reqwest::Method::PUT).body("others").send().await.unwrap().status().is_success());
    assert_eq!(read(&container, "a/b c.txt", 0, u64::MAX).await.unwrap(), b"others");
    for escape in ["../shared-bucket", "a/b", "..", "A?acl"] {
        assert!(stores.container(None, escape).unwrap().create().await.is_err(), "{escape}");
    }
    for escape in ["../other", "/x", "a/../../b", ""] {
        assert!(write(&container, escape, b"1").await.is_err(), "{escape}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_behaves_and_others_read_it() {
    let server = Server::nats().await;
    let stores = stores(&settings(&[("url", &server.url())]));
    behaves(&stores).await;
    let container = stores.container(None, "shared").unwrap();
    container.create().await.unwrap();
    let written = bytes(MIB + 1);
    write(&container, "a/b.txt", &written).await.unwrap();
    let client = server.nats_client().await;
    let jetstream = async_nats::jetstream::new(client);
    let raw = jetstream.get_object_store("shared").await.unwrap();
    let mut read_by_others = Vec::new();
    raw.get("a/b.txt").await.unwrap().read_to_end(&mut read_by_others).await.unwrap();
    assert!(read_by_others == written);
    raw.put("others.txt", &mut &b"others"[..]).await.unwrap();
    assert_eq!(read(&container, "others.txt", 0, u64::MAX).await.unwrap(), b"others");
    // What was replaced and what was not finished leaves nothing behind.
    write(&container, "a/b.txt", b"small").await.unwrap();
    let mut writer = container.writer("unfinished").await.unwrap();
    writer.write(Bytes::from(written)).await.unwrap();
    writer.abort().await;
    let mut stream = jetstream.get_stream("OBJ_shared").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 4, "two objects, of a piece each");
    for escape in ["..", "a.b", "a*", "a>"] {
        assert!(stores.container(None, escape).unwrap().create().await.is_err(), "{escape}");
    }
}

/// Memory of this process that is not of files, in bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// A blob goes there and back, and little of it is here at a time.
async fn streams(container: &OpenContainer, mebibytes: usize) {
    const MOST: usize = 96 * MIB;
    container.create().await.unwrap();
    let piece = Bytes::from(bytes(64 << 10));
    let (before, mut peak) = (memory(), 0);
    let mut written = Sha256::new();
    let mut writer = container.writer("large").await.unwrap();
    for number in 0..mebibytes * 16 {
        written.update(&piece);
        writer.write(piece.clone()).await.unwrap();
        if number % 64 == 0 {
            peak = peak.max(memory());
        }
    }
    writer.finish().await.unwrap();
    let mut blob = container.read("large", BlobRange::WHOLE).await.unwrap();
    assert_eq!(blob.size, (mebibytes * MIB) as u64);
    let (mut digest, mut number) = (Sha256::new(), 0);
    while let Some(piece) = blob.bytes.try_next().await.unwrap() {
        digest.update(&piece);
        number += 1;
        if number % 64 == 0 {
            peak = peak.max(memory());
        }
    }
    assert!(digest.finalize() == written.finalize());
    let grown = peak.saturating_sub(before);
    assert!(grown < MOST, "{grown} bytes more than before for {mebibytes} MiB");
    container.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_go_through_little_memory() {
    let is_full = std::env::var("KUBEWASM_TEST_SIZE").is_ok_and(|size| size == "full");
    let mebibytes = if is_full { 1024 } else { 192 };
    let dir = tempfile::tempdir().unwrap();
    let files = stores(&settings(&[("path", dir.path().to_str().unwrap())]));
    streams(&files.container(None, "large").unwrap(), mebibytes).await;
    let nats = Server::nats().await;
    streams(&stores(&settings(&[("url", &nats.url())])).container(None, "large").unwrap(), mebibytes).await;
    // This server holds all that it has in memory.
    let server = Server::s3().await;
    streams(&stores(&s3(&server)).container(None, "large-bucket").unwrap(), mebibytes.min(192)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_may_go_and_come_back() {
    let mut server = Server::nats().await;
    let stores = stores(&settings(&[("url", &server.url()), ("timeout_ms", "1000")]));
    let container = stores.container(None, "c").unwrap();
    container.create().await.unwrap();
    write(&container, "kept", b"1").await.unwrap();
    let mut writer = container.writer("kept").await.unwrap();
    writer.write(Bytes::from(bytes(MIB))).await.unwrap();
    server.kill();
    let finished = tokio::time::timeout(PATIENCE, writer.finish()).await.expect("the deadline holds");
    let error = finished.unwrap_err().to_string();
    assert!(!error.contains(PASSWORD), "{error}");
    server.start().await;
    let recovered = async {
        while read(&container, "kept", 0, u64::MAX).await.ok().as_deref() != Some(b"1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, recovered).await.expect("it recovers by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_that_is_away_is_an_error() {
    let mut server = Server::s3().await;
    let mut quick = BlobStores::new();
    let url = server.url();
    let pairs = [
        ("access_key_id", "id"),
        ("secret_access_key", PASSWORD),
        ("timeout_ms", "1000"),
        ("endpoint", &url),
    ];
    quick.add(None, &settings(&pairs)).unwrap();
    let container = quick.container(None, "the-bucket").unwrap();
    container.create().await.unwrap();
    server.freeze();
    let failed =
        tokio::time::timeout(PATIENCE, write(&container, "a", b"1")).await.expect("the deadline holds");
    assert!(failed.is_err());
    server.thaw();
    server.kill();
    let failed =
        tokio::time::timeout(PATIENCE, write(&container, "a", b"1")).await.expect("the deadline holds");
    let error = failed.unwrap_err().to_string();
    assert!(!error.contains(PASSWORD), "{error}");
    server.start().await;
    container.create().await.unwrap();
    write(&container, "a", b"2").await.unwrap();
    assert_eq!(read(&container, "a", 0, u64::MAX).await.unwrap(), b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn access_and_sizes_are_limited() {
    let mut stores = stores(&settings(&[("max_blob_bytes", "10"), ("max_memory_bytes", "1000")]));
    stores.add(Some("ro"), &settings(&[("read_only", "true"), ("buckets", "a,b")])).unwrap();
    let container = stores.container(None, "c").unwrap();
    container.create().await.unwrap();
    let error = write(&container, "large", &[0; 11]).await.unwrap_err();
    assert!(error.to_string().contains("max_blob_bytes"), "{error}");
    assert_eq!(container.object("large").await, Ok(None));
    write(&container, "small", &[0; 10]).await.unwrap();
    let mut full = Ok(());
    for number in 0..100 {
        full = full.and(write(&container, &format!("n{number}"), b"1").await);
    }
    assert!(full.unwrap_err().to_string().contains("max_memory_bytes"));
    container.clear().await.unwrap();
    write(&container, "room-again", b"1").await.unwrap();

    let error = stores.container(None, "ro/c").unwrap_err();
    assert!(error.to_string().contains("access denied"), "{error}");
    let error = stores.container(None, "ro/a").unwrap().create().await.unwrap_err();
    assert!(error.to_string().contains("access denied"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_do_not_see_each_others_objects() {
    let nats = Server::nats().await;
    let dir = tempfile::tempdir().unwrap();
    for place in [
        settings(&[("url", &nats.url())]),
        settings(&[("path", dir.path().to_str().unwrap())]),
        settings(&[]),
    ] {
        let of = |workload| stores(&place.clone().of_tenant(Tenant::of("test", workload)));
        let (one, other) =
            (of("one").container(None, "c").unwrap(), of("other").container(None, "c").unwrap());
        one.create().await.unwrap();
        write(&one, "object", b"1").await.unwrap();
        assert_eq!(other.created().await, Ok(None), "{place:?}");
        other.create().await.unwrap();
        assert_eq!(names(&other).await, Vec::<String>::new(), "{place:?}");
        other.delete().await.unwrap();
        assert_eq!(read(&one, "object", 0, u64::MAX).await.unwrap(), b"1", "{place:?}");
    }
}
