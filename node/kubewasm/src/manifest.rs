//! Reading a pod from a file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize as _;

/// Files larger than the largest object that a cluster takes are refused.
const LIMIT: u64 = 3 * 1024 * 1024;

/// Reads the one pod that the file holds, as YAML or JSON, and fills in what a cluster would: a namespace
/// and a UID. Images that are paths are taken from the file's own folder.
///
/// # Errors
/// What is wrong with the file, with the line where there is one.
pub(crate) fn read(path: &Path) -> anyhow::Result<Pod> {
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > LIMIT {
        bail!("{}: {size} bytes are too much for a pod; the limit is {LIMIT}", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut pod = parse(&text).with_context(|| path.display().to_string())?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
    resolve_images(&mut pod, &folder);
    Ok(pod)
}

fn parse(text: &str) -> anyhow::Result<Pod> {
    let mut documents = serde_yaml_ng::Deserializer::from_str(text);
    let document = documents.next().context("the file is empty; it should hold a Pod")?;
    let value = serde_yaml_ng::Value::deserialize(document)?;
    if value.is_null() {
        bail!("the file is empty; it should hold a Pod");
    }
    let kind = value.get("kind").and_then(|k| k.as_str()).unwrap_or("nothing that says its kind");
    if kind != "Pod" {
        bail!("the file holds {kind}; `kubewasm run` takes a Pod (apiVersion: v1, kind: Pod)");
    }
    if documents.next().is_some() {
        bail!("the file holds more than one document; `kubewasm run` takes a single Pod");
    }
    // Read again from the text, because only then do errors say on which line they are.
    let mut pod: Pod = serde_yaml_ng::from_str(text)?;
    let spec = pod.spec.as_ref().context("the Pod has no spec")?;
    if spec.containers.is_empty() {
        bail!("the Pod has no containers");
    }
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        if container.image.as_deref().unwrap_or_default().is_empty() {
            bail!("container {:?} has no image", container.name);
        }
    }
    let meta = &mut pod.metadata;
    if meta.name.as_deref().unwrap_or_default().is_empty() {
        bail!("the Pod has no metadata.name");
    }
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    meta.uid = Some(random_uid()?);
    Ok(pod)
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    image: ./c.wasm\n";

    #[test]
    fn a_pod_gets_a_namespace_a_uid_and_absolute_paths() {
        let mut pod = parse(POD).unwrap();
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(pod.metadata.uid.as_deref().map(str::len), Some(36));
        resolve_images(&mut pod, Path::new("/demo"));
        assert_eq!(pod.spec.unwrap().containers.first().unwrap().image.as_deref(), Some("/demo/c.wasm"));
    }

    #[test]
    fn what_is_no_pod_is_named() {
        let table = [
            ("", "the file is empty"),
            ("kind: Deployment\n", "the file holds Deployment"),
            ("a: 1\n", "nothing that says its kind"),
            ("kind: Pod\nmetadata: {name: p}\n", "no spec"),
            ("kind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n", "no containers"),
            ("kind: Pod\nmetadata: {}\nspec: {containers: [{name: c, image: i}]}\n", "no metadata.name"),
            (
                "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\n",
                "container \"c\" has no image",
            ),
            ("kind: Pod\nmetadata: [\n", "line 3"),
            ("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: c\n    args: 7\n", "line 6"),
        ];
        for (text, expected) in table {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{text:?} gives {error:?}");
        }
        let two = format!("{POD}---\n{POD}");
        assert!(format!("{:#}", parse(&two).unwrap_err()).contains("more than one document"));
    }
}
