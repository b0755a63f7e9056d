//! Reading a pod, and the ConfigMaps and Secrets that it refers to, from files.

mod publish;
mod references;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde::{Deserialize, de::DeserializeOwned};
use serde_yaml_ng::{Deserializer, Value};

pub(crate) use self::publish::{Publish, apply as publish};

/// Files larger than the largest object that a cluster takes are refused.
const LIMIT: u64 = 3 * 1024 * 1024;
/// Files that a folder may have.
const MAX_FILES: usize = 256;
/// The name by which standard input is asked for.
const STANDARD_INPUT: &str = "-";

/// What is run.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    /// The pod, with the namespace and the UID that a cluster would have given it.
    pub(crate) pod: Pod,
    /// ConfigMaps of its namespace, by name.
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    /// Secrets of its namespace, by name, with `stringData` in `data`.
    pub(crate) secrets: BTreeMap<String, Secret>,
}

/// Reads the one pod that these files, folders of files, or standard input (`-`) hold, as YAML or JSON, with its objects.
/// Images that are paths are taken from the folder of the pod's file, or, of standard input, from this process' own.
///
/// # Errors
/// What is wrong, with the file, the document in it, and the line where there is one.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Manifest> {
    let mut found = Found::default();
    for path in paths {
        if path.as_os_str() == STANDARD_INPUT {
            let text = bounded(std::io::stdin().lock()).context("cannot read standard input")?;
            found.take("standard input", Path::new("."), &text)?;
            continue;
        }
        for file in files(path)? {
            let name = file.display().to_string();
            let opened = std::fs::File::open(&file).with_context(|| format!("cannot read {name}"))?;
            let text = bounded(opened).with_context(|| format!("cannot read {name}"))?;
            let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            found.take(&name, folder, &text)?;
        }
    }
    let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    found.settle(&names.join(", "))
}

/// The file itself, or the manifests of a folder in the order of their names. Folders in it are not looked into.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.with_context(|| format!("cannot read {}", path.display()))?.path();
        let is_manifest = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if is_manifest && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("{} holds no file that ends in .yaml, .yml or .json", path.display());
    }
    if files.len() > MAX_FILES {
        bail!("{} holds {} manifests; {MAX_FILES} is the limit", path.display(), files.len());
    }
    files.sort();
    Ok(files)
}

fn bounded(from: impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LIMIT {
        bail!("it is too large for a pod and its objects: the limit is {LIMIT} bytes");
    }
    Ok(text)
}

/// An object, and where it was.
#[derive(Debug)]
struct Located<K> {
    object: K,
    place: String,
}

#[derive(Debug, Default)]
struct Found {
    pod: Option<Located<Pod>>,
    config_maps: Vec<Located<ConfigMap>>,
    secrets: Vec<Located<Secret>>,
}

impl Found {
    /// Takes all documents of a text.
    fn take(&mut self, file: &str, folder: &Path, text: &str) -> anyhow::Result<()> {
        let mut kinds = Vec::new();
        for document in Deserializer::from_str(text) {
            let value = Value::deserialize(document).with_context(|| place(file, kinds.len(), usize::MAX))?;
            kinds.push((!value.is_null()).then(|| {
                value.get("kind").and_then(Value::as_str).unwrap_or("nothing that says its kind").to_owned()
            }));
        }
        // Read again, because only from the text do errors say on which line they are.
        for (index, (document, kind)) in Deserializer::from_str(text).zip(&kinds).enumerate() {
            let place = place(file, index, kinds.len());
            match kind.as_deref() {
                None => {}
                Some("Pod") => self.take_pod(document, place, folder)?,
                Some("ConfigMap") => {
                    let object = decoded(document).with_context(|| place.clone())?;
                    self.config_maps.push(Located { object, place });
                }
                Some("Secret") => {
                    // The text of the error may be that of the secret.
                    let object = decoded(document).map_err(|error| {
                        let line = error.location().map(|at| format!(" (line {})", at.line())).unwrap_or_default();
                        anyhow!("{place}: this is not a Secret as the API has them{line}: data holds base64, stringData text")
                    })?;
                    self.secrets.push(Located { object, place });
                }
                Some(kind) => bail!(
                    "{place}: it holds {kind}; `kubewasm run` takes a Pod (apiVersion: v1, kind: Pod), ConfigMaps and \
                     Secrets"
                ),
            }
        }
        Ok(())
    }

    fn take_pod(&mut self, document: Deserializer<'_>, place: String, folder: &Path) -> anyhow::Result<()> {
        let mut object: Pod = decoded(document).with_context(|| place.clone())?;
        check(&object).with_context(|| place.clone())?;
        if let Some(before) = &self.pod {
            bail!("{place}: a second Pod, after that of {}; `kubewasm run` takes a single one", before.place);
        }
        let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
        resolve_images(&mut object, &folder);
        self.pod = Some(Located { object, place });
        Ok(())
    }

    /// Puts everything into the pod's namespace, and looks whether all that the pod cannot do without is there.
    fn settle(self, files: &str) -> anyhow::Result<Manifest> {
        let Some(Located { object: mut pod, place }) = self.pod else {
            bail!("{files}: there is no Pod (apiVersion: v1, kind: Pod)");
        };
        let meta = &mut pod.metadata;
        let namespace = meta.namespace.get_or_insert_with(|| "default".to_owned()).clone();
        meta.uid = Some(random_uid()?);
        let config_maps = by_name(self.config_maps, &namespace)?;
        let mut secrets = by_name(self.secrets, &namespace)?;
        for secret in secrets.values_mut() {
            let texts = secret.string_data.take().unwrap_or_default();
            let bytes =
                texts.into_iter().map(|(key, text)| (key, k8s_openapi::ByteString(text.into_bytes())));
            secret.data.get_or_insert_default().extend(bytes);
        }
        let manifest = Manifest { pod, config_maps, secrets };
        references::check(&manifest).with_context(|| place)?;
        Ok(manifest)
    }
}

/// Where a document is; a file with a single one needs no number.
fn place(file: &str, index: usize, of: usize) -> String {
    if of == 1 { file.to_owned() } else { format!("{file}, document {}", index + 1) }
}

fn decoded<K: DeserializeOwned>(document: Deserializer<'_>) -> Result<K, serde_yaml_ng::Error> {
    K::deserialize(document)
}

/// The objects of a namespace. One that does not say its namespace is meant for the pod's.
fn by_name<K: kube::Resource>(
    found: Vec<Located<K>>,
    namespace: &str,
) -> anyhow::Result<BTreeMap<String, K>> {
    let mut objects = BTreeMap::new();
    let mut places = BTreeMap::new();
    for Located { object, place } in found {
        let meta = object.meta();
        let name = meta.name.clone().filter(|name| !name.is_empty());
        let name = name.with_context(|| format!("{place}: it has no metadata.name"))?;
        if meta.namespace.as_deref().is_some_and(|other| other != namespace) {
            continue;
        }
        match places.entry(name.clone()) {
            Entry::Occupied(before) => {
                bail!("{place}: a second object of the name {name:?}, after that of {}", before.get())
            }
            Entry::Vacant(entry) => _ = entry.insert(place),
        }
        objects.insert(name, object);
    }
    Ok(objects)
}

fn check(pod: &Pod) -> anyhow::Result<()> {
    let spec = pod.spec.as_ref().context("the Pod has no spec")?;
    if spec.containers.is_empty() {
        bail!("the Pod has no containers");
    }
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        if container.image.as_deref().unwrap_or_default().is_empty() {
            bail!("container {:?} has no image", container.name);
        }
    }
    if pod.metadata.name.as_deref().unwrap_or_default().is_empty() {
        bail!("the Pod has no metadata.name");
    }
    Ok(())
}

fn random_uid() -> anyhow::Result<String> {
    let uid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot make a UID")?;
    Ok(uid.trim().to_owned())
}

/// An image that begins like a path is one; it is made absolute.
fn resolve_images(pod: &mut Pod, folder: &Path) {
    let Some(spec) = &mut pod.spec else { return };
    let all = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for image in all.filter_map(|container| container.image.as_mut()) {
        if is_path(image) {
            let joined: PathBuf = folder.join(&*image).components().collect();
            *image = joined.to_string_lossy().into_owned();
        }
    }
}

fn is_path(image: &str) -> bool {
    image.starts_with("./") || image.starts_with("../") || image.starts_with('/')
}

#[cfg(test)]
mod tests;
