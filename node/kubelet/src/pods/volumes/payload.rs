//! The files of a projected volume: a function from objects to paths, bytes and modes, after upstream's
//! `MakePayload` and `CollectData`.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, DownwardAPIProjection, KeyToPath, Pod, Secret, SecretProjection,
    ServiceAccountTokenProjection, VolumeProjection,
};

use super::{source::Projected, token::TokenKey, trust};
use crate::pods::{
    environment::{NodeFacts, volume_field},
    objects::TrustBundle,
};

/// One file.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PayloadFile {
    pub(super) bytes: Vec<u8>,
    /// Permission bits.
    pub(super) mode: u32,
}

// Contents stay out of logs.
impl fmt::Debug for PayloadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, mode {:o}", self.bytes.len(), self.mode)
    }
}

/// Files by their path in the volume: relative, and without `..`.
pub(super) type Payload = BTreeMap<String, PayloadFile>;

/// All that files are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs<'a> {
    pub(super) pod: &'a Pod,
    pub(super) node: &'a NodeFacts,
    /// Config maps by name; `Err` says why one is not there, `Ok(None)` that it does not exist.
    pub(super) config_maps: &'a BTreeMap<String, Result<Option<Arc<ConfigMap>>, String>>,
    /// Secrets, likewise.
    pub(super) secrets: &'a BTreeMap<String, Result<Option<Arc<Secret>>, String>>,
    pub(super) tokens: &'a BTreeMap<TokenKey, Result<super::token::Secret, String>>,
    /// All bundles of the cluster, where they were asked for.
    pub(super) trust: Result<&'a [TrustBundle], &'a str>,
}

/// The files of a volume.
///
/// # Errors
/// What is missing that is not optional, in upstream's words; it may appear later.
pub(super) fn of(projected: &Projected, inputs: Inputs<'_>) -> Result<Payload, String> {
    let mut payload = Payload::new();
    let mut errors = Vec::new();
    for source in &projected.sources {
        match of_source(source, projected.default_mode, inputs) {
            Ok(files) => payload.extend(files),
            Err(error) => errors.push(error),
        }
    }
    if let Some(path) = payload.keys().find(|path| !is_inside(path)) {
        errors.push(format!("invalid path {path:?}: it must be relative and must not contain '..'"));
    }
    match errors.as_slice() {
        [] => Ok(payload),
        [error] => Err(error.clone()),
        errors => Err(format!("[{}]", errors.join(", "))),
    }
}

fn of_source(source: &VolumeProjection, default_mode: u32, inputs: Inputs<'_>) -> Result<Payload, String> {
    if let Some(projection) = &source.config_map {
        return config_map(projection, default_mode, inputs);
    }
    if let Some(projection) = &source.secret {
        return secret(projection, default_mode, inputs);
    }
    if let Some(projection) = &source.downward_api {
        return downward_api(projection, default_mode, inputs);
    }
    if let Some(projection) = &source.service_account_token {
        return token(projection, default_mode, inputs);
    }
    if let Some(projection) = &source.cluster_trust_bundle {
        let bytes = trust::anchors(projection, inputs.trust)?;
        return Ok(Payload::from([(clean(&projection.path), PayloadFile { bytes, mode: default_mode })]));
    }
    Err("a projected source has no content that this node knows".to_owned())
}

/// An object by name; `None` where it does not exist and need not.
fn object<'a, K>(
    read: &'a BTreeMap<String, Result<Option<Arc<K>>, String>>,
    kind: &str,
    name: &str,
    optional: bool,
) -> Result<Option<&'a K>, String> {
    match read.get(name) {
        Some(Ok(Some(object))) => Ok(Some(object)),
        Some(Ok(None)) if optional => Ok(None),
        Some(Ok(None)) => Err(format!("{kind} \"{name}\" not found")),
        Some(Err(error)) => Err(error.clone()),
        None => Err(format!("{kind} \"{name}\" has not been read yet")),
    }
}

fn config_map(projection: &ConfigMapProjection, mode: u32, inputs: Inputs<'_>) -> Result<Payload, String> {
    let optional = projection.optional == Some(true);
    let object = object(inputs.config_maps, "configmap", &projection.name, optional)?;
    let text = object.and_then(|o| o.data.as_ref()).into_iter().flatten();
    let binary = object.and_then(|o| o.binary_data.as_ref()).into_iter().flatten();
    let data: BTreeMap<&str, &[u8]> = binary
        .map(|(key, bytes)| (key.as_str(), bytes.0.as_slice()))
        .chain(text.map(|(key, text)| (key.as_str(), text.as_bytes())))
        .collect();
    select(&data, projection.items.as_deref(), mode, optional)
        .map_err(|key| format!("configmap references non-existent config key: {key}"))
}

fn secret(projection: &SecretProjection, mode: u32, inputs: Inputs<'_>) -> Result<Payload, String> {
    let optional = projection.optional == Some(true);
    let object = object(inputs.secrets, "secret", &projection.name, optional)?;
    let data = object.and_then(|o| o.data.as_ref()).into_iter().flatten();
    let data: BTreeMap<&str, &[u8]> = data.map(|(key, bytes)| (key.as_str(), bytes.0.as_slice())).collect();
    select(&data, projection.items.as_deref(), mode, optional)
        .map_err(|key| format!("references non-existent secret key: {key}"))
}

/// All keys, or those of `items` under their paths. The error is a key that is not there.
fn select(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let file = |bytes: &[u8]| PayloadFile { bytes: bytes.to_vec(), mode: default_mode };
        return Ok(data.iter().map(|(key, bytes)| ((*key).to_owned(), file(bytes))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => {
                let mode = item_mode(item.mode, default_mode);
                payload.insert(clean(&item.path), PayloadFile { bytes: bytes.to_vec(), mode });
            }
            None if optional => {}
            None => return Err(item.key.clone()),
        }
    }
    Ok(payload)
}

fn downward_api(
    projection: &DownwardAPIProjection,
    default_mode: u32,
    inputs: Inputs<'_>,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in projection.items.iter().flatten() {
        let text = volume_field(inputs.pod, item, inputs.node).map_err(|error| error.0)?;
        let mode = item_mode(item.mode, default_mode);
        payload.insert(clean(&item.path), PayloadFile { bytes: text.into_bytes(), mode });
    }
    Ok(payload)
}

fn token(
    projection: &ServiceAccountTokenProjection,
    default_mode: u32,
    inputs: Inputs<'_>,
) -> Result<Payload, String> {
    match inputs.tokens.get(&TokenKey::of(projection)) {
        Some(Ok(token)) => {
            let mode = if has_user(inputs.pod) { 0o600 } else { default_mode };
            let file = PayloadFile { bytes: token.0.clone().into_bytes(), mode };
            Ok(Payload::from([(clean(&projection.path), file)]))
        }
        Some(Err(error)) => Err(format!("failed to fetch token: {error}")),
        None => Err("the token has not been fetched yet".to_owned()),
    }
}

/// All containers run as one user, or the pod has a group for its files: a token is for them alone then.
fn has_user(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let security = spec.and_then(|s| s.security_context.as_ref());
    if security.and_then(|s| s.fs_group).is_some() {
        return true;
    }
    let of_pod = security.and_then(|s| s.run_as_user);
    let mut users = super::source::containers(pod)
        .map(|container| container.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next().flatten();
    first.is_some() && users.all(|user| user == first)
}

fn item_mode(mode: Option<i32>, default_mode: u32) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).map_or(default_mode, |mode| mode & 0o7777)
}

/// A path without empty and `.` parts.
fn clean(path: &str) -> String {
    let absolute = if path.starts_with('/') { "/" } else { "" };
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("{absolute}{}", parts.join("/"))
}

/// A path that stays in the volume, and that is not one of the writer's own names.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with('/')
        && !path.starts_with("..")
        && path.split('/').all(|p| p != "..")
}

#[cfg(test)]
mod tests;
