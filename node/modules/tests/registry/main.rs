//! Pulls from real registries (Debian's docker-registry), from a real S3 server (moto), and from servers of our own, into
//! stores of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod artifacts;
mod bombs;
mod bucket;
mod containers;
mod cosign;
mod crashes;
mod downloads;
mod hostile;
mod memory;
mod mirrors;
mod proxies;
mod pushes;
mod refusals;
mod remote;
mod shared_code;
mod signatures;
mod support;
mod urls;
mod web;

use std::{
    fs,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::join_all;
use kubewasm_modules::{
    Credential, Digest, Image, ImageKind, ImageName, ModuleError, Progress, PullError, PullFailure,
    PullProgress, Reference, Store, StoreError, StoreOptions,
};
use serde_json::json;
use support::{Node, PASSWORD, Pushed, Registry, USER, artifact, container, gzip, module, tar};

const WASM: &str = "application/wasm";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

fn credential(password: &str) -> Credential {
    Credential { username: USER.to_owned(), password: password.to_owned() }
}

async fn pull(store: &Store, reference: &Reference) -> Result<Image, PullError> {
    store.pull(reference, &[], None).await.map(|fetched| fetched.image)
}

async fn failure(store: &Store, reference: &Reference) -> PullFailure {
    let error = pull(store, reference).await.unwrap_err();
    assert!(error.to_string().contains(&reference.to_string()), "{error}");
    error.reason
}

/// True for a line of the access log about a GET of something in whose path `what` is.
fn is_get(line: &str, what: &str) -> bool {
    line.split('"').nth(1).is_some_and(|request| request.starts_with("GET ") && request.contains(what))
}

/// A tar archive of one file whose name is not checked.
fn tar_named(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap()
}
