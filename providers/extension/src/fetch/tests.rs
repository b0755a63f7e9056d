use std::{fs, os::unix::fs::symlink};

use tempfile::TempDir;

use super::*;
use crate::wasm_extension::{FetchProtocol, ImageSpec};

const FILTER: &str = "(module (func (export \"proxy_abi_version_0_2_1\")))";

struct Case {
    fetcher: ModuleFetcher,
    modules: TempDir,
    root: TempDir,
}

impl Case {
    fn new(max_bytes: u64) -> Self {
        let (modules, root) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let store =
            StoreOptions { file_directories: vec![modules.path().to_owned()], ..StoreOptions::default() };
        let options = FetchOptions { root: root.path().to_owned(), store, max_bytes };
        Self { fetcher: ModuleFetcher::new(options), modules, root }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.modules.path().join(name), bytes).unwrap();
    }

    fn request(&self, uri: &str, sha256: Option<String>, policy: Option<PullPolicy>) -> ModuleRequest {
        let image = ImageSpec {
            protocol: FetchProtocol::LocalFs,
            uri: uri.to_owned(),
            sha256,
            pull_policy: policy,
            pull_secret: None,
            ca_bundle: None,
        };
        ModuleRequest::new(&image, self.fetcher.directories()).unwrap()
    }

    async fn fetch(&self, namespace: &str, uri: &str) -> Result<FetchedModule, FetchFailure> {
        self.fetcher.fetch(namespace, &self.request(uri, None, None), &[]).await
    }

    /// The images that the store of a namespace has.
    async fn kept(&self, namespace: &str) -> usize {
        self.fetcher.stores.open(namespace, None).await.unwrap().list().unwrap().len()
    }
}

fn filter() -> Vec<u8> {
    wat::parse_str(FILTER).unwrap()
}

#[tokio::test]
async fn a_filter_is_fetched_and_its_bytes_are_shared() {
    let case = Case::new(1 << 20);
    case.put("a.wasm", &filter());
    case.put("b.wasm", &filter());
    let (one, other) = (case.fetch("x", "a.wasm").await.unwrap(), case.fetch("y", "b.wasm").await.unwrap());
    assert!(Arc::ptr_eq(&one.module, &other.module));
    assert_eq!((one.module.abi, one.module.size()), (AbiVersion::V0_2_1, filter().len() as u64));
    assert_eq!(one.module.inline.bytes(), &filter());
    assert_eq!((case.kept("x").await, case.kept("y").await, case.kept("z").await), (1, 1, 0));
}

#[tokio::test]
async fn what_is_not_what_was_asked_for_is_not_kept() {
    let case = Case::new(4096);
    case.put("page", b"<!doctype html><title>404</title>");
    case.put("module", &wat::parse_str("(module)").unwrap());
    case.put("broken", &filter()[..filter().len() - 1]);
    case.put("filter", &filter());
    case.put("large", &[&b"\0asm\x01\0\0\0"[..], &[0; 5000]].concat());
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("f"), filter()).unwrap();
    symlink(outside.path().join("f"), case.modules.path().join("far")).unwrap();
    for (uri, sha256, reason) in [
        ("page", None, FetchReason::NotWasm),
        ("module", None, FetchReason::NotProxyWasm),
        ("broken", None, FetchReason::NotWasm),
        ("filter", Some("0".repeat(64)), FetchReason::DigestMismatch),
        ("large", None, FetchReason::TooLarge),
        ("none", None, FetchReason::NotFound),
        ("far", None, FetchReason::Denied),
    ] {
        let request = case.request(uri, sha256, None);
        let failure = case.fetcher.fetch("team", &request, &[]).await.unwrap_err();
        assert_eq!(failure.reason, reason, "{uri}: {failure}");
        assert_eq!(case.kept("team").await, 0, "{uri}");
        assert_eq!(case.fetcher.kept("team", &request).await, None, "{uri}");
    }
    let right = case.request("filter", Some(Digest::of(&filter()).hex()), None);
    case.fetcher.fetch("team", &right, &[]).await.unwrap();
    assert_eq!(case.kept("team").await, 1);
}

#[tokio::test]
async fn a_source_is_asked_as_the_policy_says() {
    let case = Case::new(1 << 20);
    case.put("a", &filter());
    let other = wat::parse_str("(module (func (export \"proxy_abi_version_0_1_0\")))").unwrap();
    let always = case.request("a", None, None);
    let present = case.request("a", None, Some(PullPolicy::IfNotPresent));
    let fetch =
        async |request| case.fetcher.fetch("team", request, &[]).await.map(|fetched| fetched.module.abi);
    assert_eq!(fetch(&always).await, Ok(AbiVersion::V0_2_1));
    case.put("a", &other);
    assert_eq!(fetch(&present).await, Ok(AbiVersion::V0_2_1));
    assert_eq!(fetch(&always).await, Ok(AbiVersion::V0_1_0));
    fs::remove_file(case.modules.path().join("a")).unwrap();
    assert_eq!(fetch(&present).await, Ok(AbiVersion::V0_1_0));
    assert_eq!(fetch(&always).await.unwrap_err().reason, FetchReason::NotFound);
    assert_eq!(case.fetcher.kept("team", &always).await.unwrap().module.abi, AbiVersion::V0_1_0);
    // What one namespace has is not there for another.
    assert_eq!(case.fetcher.kept("other", &always).await, None);
}

#[tokio::test]
async fn a_bundle_of_authorities_has_a_store_of_its_own() {
    let case = Case::new(1 << 20);
    case.put("a", &filter());
    let mut request = case.request("a", None, None);
    request.ca_bundle = Some("none".to_owned());
    let failure = case.fetcher.fetch("team", &request, &[]).await.unwrap_err();
    assert_eq!(failure.reason, FetchReason::InvalidImage);
    assert!(failure.message.contains("image.ca_bundle"), "{failure}");
}

#[tokio::test]
async fn namespaces_without_extensions_leave_nothing_on_disk() {
    let case = Case::new(1 << 20);
    case.put("a", &filter());
    for namespace in ["x", "y"] {
        case.fetch(namespace, "a").await.unwrap();
    }
    case.fetcher.sweep(["x".to_owned()].into()).await;
    assert!(case.root.path().join("x").is_dir() && !case.root.path().join("y").exists());
    assert_eq!(case.kept("x").await, 1, "what was used a moment ago stays");
}
