//! The environment, command and host name of a container.
//!
//! [`References::of`] says which objects and files have to be fetched; [`variables`] then puts everything
//! together without I/O. From weakest to strongest: the image's environment, `HOSTNAME`, service variables,
//! `envFrom` in its order, `env` in its order. That is upstream's `makeEnvironmentVariables`, with what a
//! container runtime adds on Linux.

mod command;
mod env_file;
mod expand;
mod fields;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVar, EnvVarSource, Pod, Secret, Service,
};

pub use self::{
    command::argv,
    expand::expand,
    fields::{NodeFacts, volume_field},
};
use super::files::names::Names;

/// A container's environment cannot be made: `CreateContainerConfigError`, with this message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EnvironmentError(pub String);

/// Objects of the pod's namespace, and files of its volumes, that a container's environment is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Names of config maps.
    pub config_maps: BTreeSet<String>,
    /// Names of secrets.
    pub secrets: BTreeSet<String>,
    /// Files of variables, by volume and path.
    pub files: BTreeSet<(String, String)>,
}

impl References {
    /// What `env` and `envFrom` of the container name.
    #[must_use]
    pub fn of(container: &Container) -> Self {
        let mut references = Self::default();
        references.add(container.env_from.as_deref(), container.env.as_deref());
        references
    }

    /// What all containers of the pod name, and the secrets that its images are pulled with.
    #[must_use]
    pub fn of_pod(pod: &Pod) -> Self {
        let mut references = Self::default();
        let Some(spec) = &pod.spec else { return references };
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            references.add(container.env_from.as_deref(), container.env.as_deref());
        }
        for container in spec.ephemeral_containers.iter().flatten() {
            references.add(container.env_from.as_deref(), container.env.as_deref());
        }
        let pull_secrets = spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone());
        references.secrets.extend(pull_secrets.filter(|name| !name.is_empty()));
        references
    }

    fn add(&mut self, env_from: Option<&[EnvFromSource]>, env: Option<&[EnvVar]>) {
        for from in env_from.unwrap_or_default() {
            self.config_maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
            self.secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
        }
        for source in env.unwrap_or_default().iter().filter_map(|e| e.value_from.as_ref()) {
            self.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            self.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
            self.files.extend(source.file_key_ref.as_ref().map(|r| (r.volume_name.clone(), r.path.clone())));
        }
    }
}

/// All that an environment is made from.
#[derive(Clone, Copy, Debug)]
pub struct EnvironmentSources<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Addresses of the pod, the primary first.
    pub addresses: &'a [IpAddr],
    /// The node's addresses and resources.
    pub node: &'a NodeFacts,
    /// All services of the cluster.
    pub services: &'a [Arc<Service>],
    /// Config maps by name, those that exist.
    pub config_maps: &'a BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets by name, those that exist.
    pub secrets: &'a BTreeMap<String, Arc<Secret>>,
    /// Files of variables by volume and path, `None` for one that is not there.
    pub files: &'a BTreeMap<(String, String), Option<String>>,
    /// The image's environment.
    pub image: &'a [(String, String)],
}

/// An environment while it is being made: setting a variable again changes its value, not its place.
#[derive(Default)]
struct Environment {
    order: Vec<String>,
    values: HashMap<String, String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    fn into_pairs(mut self) -> Vec<(String, String)> {
        self.order
            .into_iter()
            .filter_map(|name| {
                let value = self.values.remove(&name)?;
                Some((name, value))
            })
            .collect()
    }
}

/// The whole environment of a container, in order, and without duplicates.
///
/// # Errors
/// [`EnvironmentError`] when something is missing that is not optional; it may appear later.
pub fn variables(
    container: &Container,
    sources: EnvironmentSources<'_>,
) -> Result<Vec<(String, String)>, EnvironmentError> {
    let mut environment = Environment::default();
    for (name, value) in sources.image {
        environment.set(name, value.clone());
    }
    let NodeFacts { hostname, cluster_domain, .. } = sources.node;
    let names = Names::of(sources.pod, hostname, cluster_domain).map_err(EnvironmentError)?;
    environment.set("HOSTNAME", names.hostname);
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = sources.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let services = services::variables(sources.services.iter().map(AsRef::as_ref), namespace, links);
    for (name, value) in &services {
        environment.set(name, value.clone());
    }

    // References in values see the pod's own variables and those of the services, not the image's.
    let mut visible: HashMap<String, String> = HashMap::new();
    for (name, value) in from_objects(container, &sources)? {
        environment.set(&name, value.clone());
        visible.insert(name, value);
    }
    for variable in container.env.iter().flatten() {
        let lookup = |name: &str| visible.get(name).or_else(|| services.get(name)).map(String::as_str);
        let value = match (&variable.value, &variable.value_from) {
            (Some(text), _) if !text.is_empty() => Some(expand(text, lookup)),
            (_, Some(source)) => value_from(container, variable, source, &sources)?,
            (_, None) => Some(String::new()),
        };
        // An optional reference to something that is not there sets nothing.
        let Some(value) = value else { continue };
        environment.set(&variable.name, value.clone());
        visible.insert(variable.name.clone(), value);
    }
    Ok(environment.into_pairs())
}

/// The variables of `envFrom`, in order. Names that no variable can have are left out.
fn from_objects(
    container: &Container,
    sources: &EnvironmentSources<'_>,
) -> Result<Vec<(String, String)>, EnvironmentError> {
    let mut out = Vec::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut take = |name: &str, value: String| {
            let name = format!("{prefix}{name}");
            if is_variable_name(&name) {
                out.push((name, value));
            }
        };
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(object) => {
                    object.data.iter().flatten().for_each(|(name, value)| take(name, value.clone()));
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvironmentError(format!("configmap \"{}\" not found", reference.name))),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(object) => {
                    for (name, value) in object.data.iter().flatten() {
                        take(name, String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvironmentError(format!("secret \"{}\" not found", reference.name))),
            }
        }
    }
    Ok(out)
}

fn value_from(
    container: &Container,
    variable: &EnvVar,
    source: &EnvVarSource,
    sources: &EnvironmentSources<'_>,
) -> Result<Option<String>, EnvironmentError> {
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &source.field_ref {
        return fields::field(sources.pod, &reference.field_path, sources.node, sources.addresses).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return fields::resource(sources.pod, container, reference, sources.node).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let object = sources.config_maps.get(&reference.name);
        let value = object.and_then(|o| o.data.as_ref()).and_then(|d| d.get(&reference.key)).cloned();
        return match (value, object, reference.optional == Some(true)) {
            (Some(value), ..) => Ok(Some(value)),
            (None, _, true) => Ok(None),
            (None, None, false) => {
                Err(EnvironmentError(format!("configmap \"{}\" not found", reference.name)))
            }
            (None, Some(_), false) => Err(EnvironmentError(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                reference.key, reference.name
            ))),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let object = sources.secrets.get(&reference.name);
        let value = object.and_then(|o| o.data.as_ref()).and_then(|d| d.get(&reference.key));
        return match (value, object, reference.optional == Some(true)) {
            (Some(value), ..) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            (None, _, true) => Ok(None),
            (None, None, false) => Err(EnvironmentError(format!("secret \"{}\" not found", reference.name))),
            (None, Some(_), false) => Err(EnvironmentError(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                reference.key, reference.name
            ))),
        };
    }
    if let Some(reference) = &source.file_key_ref {
        let file = (reference.volume_name.clone(), reference.path.clone());
        let text = sources.files.get(&file).and_then(Option::as_ref);
        let value = text
            .map(|text| env_file::value(text, &reference.key))
            .transpose()
            .map_err(|_| EnvironmentError("couldn't parse env file".to_owned()))?;
        let value = value.flatten().filter(|value| !value.is_empty());
        return match value {
            None if reference.optional != Some(true) => Err(EnvironmentError(format!(
                "environment variable key \"{}\" not found in file \"{}\" of volume \"{}\"",
                reference.key, reference.path, reference.volume_name
            ))),
            value => Ok(value),
        };
    }
    Err(EnvironmentError(format!(
        "environment variable {}: its valueFrom is of a kind that this node does not know",
        variable.name
    )))
}

/// Upstream's relaxed rule: printable ASCII without `=`.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

#[cfg(test)]
mod tests;
