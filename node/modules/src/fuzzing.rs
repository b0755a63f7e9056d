//! What a fuzzer calls, in a build for one (`make fuzz`). Each reads something that a stranger has made, and checks what
//! must hold whatever that is; the fuzzer looks for panics, for memory without bound, and for inputs that take long.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "what a fuzzer is to find")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use crate::{
    image::ImageName,
    manifest::{self, Document, ImageConfig},
    media::Packing,
    registry,
    shared_code::artifact,
    signature,
    unpack::{UnpackLimits, Unpacker},
};

/// A name as people write it. One that is taken reads the same when it is written out again.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<ImageName>() {
        let again = name.to_string().parse::<ImageName>().expect("a name that was read can be read again");
        assert_eq!(again, name);
    }
}

/// The `hosts.toml` of a registry. An operator writes it, and means well.
pub fn hosts(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        registry::read_hosts(text);
    }
}

/// A manifest or an index, of an image or of compiled code, and what they lead to: a configuration, or facts.
pub fn manifest(data: &[u8]) {
    match manifest::parse(data) {
        Ok(Document::Manifest(manifest)) => {
            if let Ok(plan) = manifest::plan(&manifest) {
                assert!(!plan.layers().is_empty(), "there is something to download");
            }
        }
        Ok(Document::Index(index)) => {
            let _ = manifest::choose(&index);
        }
        Err(error) => assert!(error.to_string().len() < 4096, "the text of an error is bounded"),
    }
    let _ = ImageConfig::parse(data);
    if let Ok(candidates) = artifact::candidates(data, "engine") {
        assert!(candidates.len() <= data.len(), "no more than there are");
    }
    if let Err(error) = artifact::parse(data) {
        assert!(error.len() < 4096, "the text of an error is bounded");
    }
    let _ = artifact::facts(data);
}

/// A key whose other half nobody has any more.
const KEY: &[u8] = include_bytes!("signature/testdata/cosign.pub");

/// What a registry has for a signature: a list of referrers, a manifest, a bundle, or a signed text and, in the next line,
/// its signature. None is good.
pub fn signature(data: &[u8]) {
    signature::read_signature(data, KEY);
}

/// A policy for signatures. An operator writes it, and means well.
pub fn policy(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        signature::read_policy(text);
    }
}

/// The `WWW-Authenticate` headers of an answer, one in each line.
pub fn challenge(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(16) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    registry::read_challenge(&headers);
}

/// Two layers, one over the other: the first byte says how they are packed. Nothing beside their directory changes.
pub fn layer(data: &[u8]) {
    let Some((packing, data)) = data.split_first() else { return };
    let packing = [Packing::Plain, Packing::Gzip, Packing::Zstd][usize::from(packing % 3)];
    let dir = tempfile::tempdir().expect("there is room");
    let (root, witness) = (dir.path().join("root"), dir.path().join("witness"));
    fs::create_dir(&root).expect("there is room");
    fs::write(&witness, "untouched").expect("there is room");
    let cancelled = AtomicBool::new(false);
    let limits = UnpackLimits { bytes: 1 << 20, entries: 64 };
    let mut unpacker = Unpacker::new(root.clone(), limits, &cancelled);
    let (lower, upper) = data.split_at(data.len() / 2);
    for layer in [lower, upper] {
        if unpacker.layer(packing, layer).is_err() {
            break;
        }
    }
    assert!(unpacker.bytes() <= limits.bytes);
    let mut beside: Vec<PathBuf> = fs::read_dir(dir.path())
        .expect("it can be read")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    beside.sort();
    assert_eq!(beside, [root.clone(), witness.clone()]);
    assert_eq!(fs::read(&witness).expect("it is there"), b"untouched");
    links_stay_inside(&root, &root);
}

/// No link of the tree leads out of it.
fn links_stay_inside(dir: &Path, root: &Path) {
    for entry in fs::read_dir(dir).expect("it can be read") {
        let entry = entry.expect("it can be read");
        let kind = entry.file_type().expect("it can be read");
        if kind.is_dir() {
            links_stay_inside(&entry.path(), root);
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).expect("it is a link");
            assert!(!target.is_absolute(), "{} leads to {}", entry.path().display(), target.display());
            let mut depth = dir.strip_prefix(root).expect("below the root").components().count();
            for part in target.components() {
                match part {
                    std::path::Component::ParentDir => {
                        depth = depth.checked_sub(1).expect("the link leads out")
                    }
                    _ => depth += 1,
                }
            }
        }
    }
}
