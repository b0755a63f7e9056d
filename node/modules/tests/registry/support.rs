//! A real registry for one test, and images to push to it.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use kubewasm_modules::{Reference, Store, StoreOptions};
use oci_client::{
    Client,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer},
    manifest::{ImageIndexEntry, OciImageIndex, OciImageManifest, OciManifest, Platform},
    secrets::RegistryAuth,
};
use tempfile::TempDir;

pub(crate) const USER: &str = "alice";
pub(crate) const PASSWORD: &str = "opensesame";
const ARTIFACT_TYPE: &str = "application/vnd.kubewasm.precompiled.v1";
const CODE_TYPE: &str = "application/vnd.kubewasm.precompiled.code.v1";
const FACTS_TYPE: &str = "application/vnd.kubewasm.precompiled.facts.v1+json";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// `htpasswd -Bbn -C 4 alice opensesame`
const HTPASSWD: &str = "alice:$2y$04$9v84l4RCySasehqywAVzQeBo4bnMj8dXQDkv0UcCXD6NadYpvA4Z.\n";

/// Debian's docker-registry, on a port of its own, with a storage directory of its own; killed when dropped.
pub(crate) struct Registry {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
    auth: RegistryAuth,
    protocol: ClientProtocol,
    access_log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Registry {
    /// A registry that is open to everybody and speaks plain HTTP.
    pub(crate) fn start() -> Self {
        Self::launch(RegistryAuth::Anonymous, ClientProtocol::Http, None)
    }

    /// A registry that wants [`USER`] and [`PASSWORD`].
    pub(crate) fn start_with_login() -> Self {
        let auth = RegistryAuth::Basic(USER.to_owned(), PASSWORD.to_owned());
        Self::launch(auth, ClientProtocol::Http, None)
    }

    /// A registry that speaks TLS, with a certificate that [`Self::authority`] vouches for.
    pub(crate) fn start_with_tls() -> Self {
        Self::launch(RegistryAuth::Anonymous, ClientProtocol::Https, None)
    }

    /// A registry that speaks TLS and wants tokens of the service at `realm`.
    pub(crate) fn start_with_token_service(realm: &str) -> Self {
        Self::launch(RegistryAuth::Anonymous, ClientProtocol::Https, Some(realm))
    }

    fn launch(auth: RegistryAuth, protocol: ClientProtocol, realm: Option<&str>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        fs::write(path("htpasswd"), HTPASSWD).unwrap();
        let identity = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(path("cert.pem"), identity.cert.pem()).unwrap();
        fs::write(path("key.pem"), identity.signing_key.serialize_pem()).unwrap();

        let mut config = serde_json::json!({
            "version": "0.1",
            "log": {"level": "info"},
            "http": {"addr": "127.0.0.1:0"},
            "storage": {"filesystem": {"rootdirectory": path("storage")}},
        });
        if protocol == ClientProtocol::Https {
            config["http"]["tls"] =
                serde_json::json!({"certificate": path("cert.pem"), "key": path("key.pem")});
        }
        if auth != RegistryAuth::Anonymous {
            config["auth"] = serde_json::json!({"htpasswd": {"realm": "test", "path": path("htpasswd")}});
        }
        if let Some(realm) = realm {
            config["auth"] = serde_json::json!({"token": {
                "realm": realm, "service": "s", "issuer": "i", "rootcertbundle": path("cert.pem"),
            }});
        }
        // JSON is YAML.
        fs::write(path("config.yml"), config.to_string()).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("these tests need a real registry: apt-get install docker-registry");

        // Its log says which port it got; its output is the access log.
        let (sender, address) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    let address: String =
                        rest.chars().take_while(|c| !matches!(c, '"' | ' ' | ',')).collect();
                    let _ = sender.send(address.parse().unwrap());
                }
            }
        });
        let access_log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, stdout) = (Arc::clone(&access_log), BufReader::new(child.stdout.take().unwrap()));
        let reader = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                log.lock().unwrap().push(line);
            }
        });
        let address = address.recv_timeout(Duration::from_secs(30)).expect("docker-registry did not start");
        Self { child, address, directory, auth, protocol, access_log, reader: Some(reader) }
    }

    /// `127.0.0.1:<port>/<name>`
    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    /// `http://127.0.0.1:<port>`
    pub(crate) fn url(&self) -> String {
        let scheme = if self.protocol == ClientProtocol::Https { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Pushes an image and returns the digest of its manifest.
    pub(crate) async fn push(&self, name: &str, image: Pushed) -> String {
        let client = self.client();
        let reference: oci_client::Reference = format!("{}/{name}", self.address).parse().unwrap();
        let manifest = OciImageManifest {
            media_type: Some(image.manifest_type.to_owned()),
            ..OciImageManifest::build(&image.layers, &image.config, None)
        };
        client.push(&reference, &image.layers, image.config, &self.auth, Some(manifest)).await.unwrap();
        client.fetch_manifest_digest(&reference, &self.auth).await.unwrap()
    }

    /// Pushes an index of images that are in the same repository: (digest, os, architecture).
    pub(crate) async fn push_index(&self, name: &str, images: &[(&str, &str, &str)]) -> String {
        let client = self.client();
        let reference: oci_client::Reference = format!("{}/{name}", self.address).parse().unwrap();
        let mut manifests = Vec::new();
        for (digest, os, architecture) in images {
            let by_digest = reference.clone_with_digest((*digest).to_owned());
            let (bytes, _) = client
                .pull_manifest_raw(&by_digest, &self.auth, &[oci_client::manifest::OCI_IMAGE_MEDIA_TYPE])
                .await
                .unwrap();
            manifests.push(ImageIndexEntry {
                media_type: oci_client::manifest::OCI_IMAGE_MEDIA_TYPE.to_owned(),
                digest: (*digest).to_owned(),
                size: i64::try_from(bytes.len()).unwrap(),
                platform: Some(Platform {
                    architecture: (*architecture).into(),
                    os: (*os).into(),
                    os_version: None,
                    os_features: None,
                    variant: None,
                    features: None,
                }),
                annotations: None,
                artifact_type: None,
            });
        }
        let index = OciImageIndex {
            schema_version: 2,
            media_type: Some(oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE.to_owned()),
            manifests,
            artifact_type: None,
            annotations: None,
        };
        client.push_manifest_list(&reference, &self.auth, index).await.unwrap();
        client.fetch_manifest_digest(&reference, &self.auth).await.unwrap()
    }

    /// Pushes code of a module of the image `subject`, whatever it is, and lists it as that image's referrer.
    pub(crate) async fn push_code(&self, repository: &str, subject: &str, code: &CodeArtifact) -> String {
        let client = self.client();
        let name = |tag: &str| -> oci_client::Reference {
            format!("{}/{repository}:{tag}", self.address).parse().unwrap()
        };
        let (by_digest, list) = (name("code"), name(&subject.replace(':', "-")));
        let layers = vec![
            ImageLayer::new(code.code.clone(), CODE_TYPE.to_owned(), None),
            ImageLayer::new(code.facts.clone(), FACTS_TYPE.to_owned(), None),
        ];
        let config = Config::new(b"{}".to_vec(), EMPTY_TYPE.to_owned(), None);
        let mut manifest = OciImageManifest {
            media_type: Some(oci_client::manifest::OCI_IMAGE_MEDIA_TYPE.to_owned()),
            artifact_type: Some(ARTIFACT_TYPE.to_owned()),
            ..OciImageManifest::build(&layers, &config, Some(code.annotations()))
        };
        if let Some(size) = code.told_size {
            manifest.layers[0].size = size;
        }
        client.push(&by_digest, &layers, config, &self.auth, Some(manifest)).await.unwrap();
        let (bytes, digest) = client
            .pull_manifest_raw(&by_digest, &self.auth, &[oci_client::manifest::OCI_IMAGE_MEDIA_TYPE])
            .await
            .unwrap();
        let mut index = match client.pull_manifest(&list, &self.auth).await {
            Ok((OciManifest::ImageIndex(index), _)) => index,
            _ => OciImageIndex {
                schema_version: 2,
                media_type: Some(oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE.to_owned()),
                manifests: Vec::new(),
                artifact_type: None,
                annotations: None,
            },
        };
        index.manifests.push(ImageIndexEntry {
            media_type: oci_client::manifest::OCI_IMAGE_MEDIA_TYPE.to_owned(),
            digest: digest.clone(),
            size: i64::try_from(bytes.len()).unwrap(),
            platform: None,
            annotations: None,
            artifact_type: Some(ARTIFACT_TYPE.to_owned()),
        });
        client.push_manifest_list(&list, &self.auth, index).await.unwrap();
        digest
    }

    /// Gives the manifest `from` (`repository:tag`) another tag, as whoever may push to the registry can.
    pub(crate) async fn copy(&self, from: &str, to: &str) {
        let (manifest, _) = self.manifest(from).await;
        let to: oci_client::Reference = format!("{}/{to}", self.address).parse().unwrap();
        self.client().push_manifest(&to, &manifest).await.unwrap();
    }

    /// The manifest of `name` (`repository:tag` or `repository@digest`), and its digest.
    async fn manifest(&self, name: &str) -> (OciManifest, String) {
        let reference: oci_client::Reference = format!("{}/{name}", self.address).parse().unwrap();
        self.client().pull_manifest(&reference, &self.auth).await.unwrap()
    }

    /// Digest and length of the blob that is the signature of an image, in either of cosign's forms.
    pub(crate) async fn signature_blob(
        &self,
        repository: &str,
        image: &str,
        by_tag: bool,
    ) -> (String, usize) {
        let tag = image.replace(':', "-");
        let mut name = match by_tag {
            true => format!("{repository}:{tag}.sig"),
            false => format!("{repository}:{tag}"),
        };
        loop {
            match self.manifest(&name).await.0 {
                OciManifest::ImageIndex(index) => {
                    name = format!("{repository}@{}", index.manifests[0].digest);
                }
                OciManifest::Image(manifest) => {
                    let layer = &manifest.layers[0];
                    return (layer.digest.clone(), usize::try_from(layer.size).unwrap());
                }
            }
        }
    }

    /// Pulls an artifact of one layer as others do: its manifest, its configuration and its layer.
    pub(crate) async fn pull_with_oci_client(&self, name: &str) -> (OciImageManifest, String, Vec<u8>) {
        let reference: oci_client::Reference = format!("{}/{name}", self.address).parse().unwrap();
        let client = self.client();
        let (manifest, _, config) = client.pull_manifest_and_config(&reference, &self.auth).await.unwrap();
        let mut layer = Vec::new();
        client.pull_blob(&reference, &manifest.layers[0], &mut layer).await.unwrap();
        (manifest, config, layer)
    }

    fn client(&self) -> Client {
        Client::new(ClientConfig {
            protocol: self.protocol.clone(),
            accept_invalid_certificates: true,
            ..ClientConfig::default()
        })
    }

    /// The certificate authority of a registry that speaks TLS.
    pub(crate) fn authority(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    /// The file in which the registry keeps a blob.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.directory.path().join("storage/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Ends the registry and returns the requests that it answered, one line each.
    pub(crate) fn stop(&mut self) -> Vec<String> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.access_log.lock().unwrap().clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An image before it is pushed.
pub(crate) struct Pushed {
    pub(crate) layers: Vec<ImageLayer>,
    pub(crate) config: Config,
    pub(crate) manifest_type: &'static str,
}

/// Compiled code before it is pushed.
pub(crate) struct CodeArtifact {
    pub(crate) module: String,
    /// Empty: it is not said.
    pub(crate) compiler: String,
    pub(crate) command: Option<String>,
    pub(crate) code: Vec<u8>,
    pub(crate) facts: Vec<u8>,
    /// What the manifest says of the size of the code, if not the truth.
    pub(crate) told_size: Option<i64>,
}

impl CodeArtifact {
    pub(crate) fn new(module: &str, compiler: &str) -> Self {
        Self {
            module: module.to_owned(),
            compiler: compiler.to_owned(),
            command: None,
            code: format!("machine code of {module}").into_bytes(),
            facts: br#"{"kind":"compiled elsewhere","imports":[],"exports":[]}"#.to_vec(),
            told_size: None,
        }
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let named = [
            ("module", Some(&self.module)),
            ("compiler", Some(&self.compiler)),
            ("command", self.command.as_ref()),
        ];
        let told = named
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));
        told.map(|(name, value)| (format!("dev.kubewasm.precompiled.{name}"), value.clone())).collect()
    }
}

/// A module that differs from others by its custom section.
pub(crate) fn module(text: &str) -> Vec<u8> {
    wat::parse_str(format!("(module (func (export \"_start\")) (@custom \"text\" \"{text}\"))")).unwrap()
}

/// An artifact of one module layer, with an empty configuration.
pub(crate) fn artifact(module: Vec<u8>, layer_type: &str, title: Option<&str>) -> Pushed {
    let annotations =
        title.map(|title| [("org.opencontainers.image.title".to_owned(), title.to_owned())].into());
    Pushed {
        layers: vec![ImageLayer::new(module, layer_type.to_owned(), annotations)],
        config: Config::new(b"{}".to_vec(), "application/vnd.oci.empty.v1+json".to_owned(), None),
        manifest_type: oci_client::manifest::OCI_IMAGE_MEDIA_TYPE,
    }
}

/// A container image of OCI's types; `config` is the `config` section of its configuration.
pub(crate) fn container(layers: Vec<(Vec<u8>, &str)>, config: serde_json::Value) -> Pushed {
    let file = serde_json::json!({
        "architecture": "wasm", "os": "wasi", "config": config, "rootfs": {"type": "layers", "diff_ids": []},
    });
    let layer = |(data, media_type): (Vec<u8>, &str)| ImageLayer::new(data, media_type.to_owned(), None);
    Pushed {
        layers: layers.into_iter().map(layer).collect(),
        config: Config::new(
            file.to_string().into_bytes(),
            oci_client::manifest::IMAGE_CONFIG_MEDIA_TYPE.to_owned(),
            None,
        ),
        manifest_type: oci_client::manifest::OCI_IMAGE_MEDIA_TYPE,
    }
}

/// A tar archive of files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// An empty store in a directory of its own.
pub(crate) struct Node {
    pub(crate) directory: TempDir,
    pub(crate) store: Store,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(StoreOptions::default())
    }

    pub(crate) fn with(options: StoreOptions) -> Self {
        let directory = TempDir::new().unwrap();
        let store = Store::open(directory.path(), options).unwrap();
        Self { directory, store }
    }

    /// Number of files right below a directory of the store.
    pub(crate) fn count(&self, directory: &str) -> usize {
        fs::read_dir(self.directory.path().join(directory)).unwrap().count()
    }

    /// Asserts that nothing of any image is in the store, whole or half.
    pub(crate) fn assert_empty(&self) {
        for directory in ["blobs/sha256", "images", "names", "rootfs", "signatures", "precompiled", "shared"]
        {
            assert_eq!(self.count(directory), 0, "{directory}");
        }
        let session =
            fs::read_dir(self.directory.path().join("tmp")).unwrap().next().unwrap().unwrap().path();
        let names: Vec<_> = fs::read_dir(session).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["owner"], "work is swept when it ends");
    }
}
