//! The resource: `WasmExtension` of `wasmxds.tetrate.io/v1alpha1`.
//!
//! `manifests/extension/crd.yaml` is its definition; a test holds it against the types here. The API server has held objects
//! against the schema of their CRD. It may be another one than ours, upstream's among them, whose objects have only the first six
//! fields: everything else may be missing, and stands for its default then.

#[cfg(test)]
mod tests;

use std::fmt;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    ResourceExt as _,
    core::{ApiResource, DynamicObject},
};
use serde::{Deserialize, Serialize};

use crate::{
    name::ExtensionName,
    resource::{FailurePolicy, FilterType},
    selector::EnvoySelector,
    table::AfterDeletion,
};

/// The group of the resource.
pub const GROUP: &str = "wasmxds.tetrate.io";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// Its kind.
pub const KIND: &str = "WasmExtension";
/// The definition of the resource, in YAML: `manifests/extension/crd.yaml`.
pub const DEFINITION: &str = include_str!("../../../manifests/extension/crd.yaml");

/// The resource, as the API has it.
#[must_use]
pub fn api_resource() -> ApiResource {
    ApiResource {
        group: GROUP.to_owned(),
        version: VERSION.to_owned(),
        api_version: format!("{GROUP}/{VERSION}"),
        kind: KIND.to_owned(),
        plural: "wasmextensions".to_owned(),
    }
}

/// What leads to a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchProtocol {
    /// A file of the server.
    LocalFs,
    /// An object of a bucket.
    S3,
    /// HTTP in the clear.
    Http,
    /// HTTP over TLS.
    Https,
    /// A registry of images.
    Oci,
}

/// Whether a source is asked for what is here already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Each time, whether it is still the same.
    Always,
    /// Only where it is not here.
    IfNotPresent,
}

/// Where the module comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageSpec {
    /// What leads to it.
    pub protocol: FetchProtocol,
    /// Where it is, without a scheme.
    pub uri: String,
    /// The digest of the module, hexadecimal; an empty one is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// See [`PullPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// Name of a Secret of the same namespace, with credentials for the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret: Option<String>,
    /// Authorities to trust besides the server's, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
}

/// A key of a Secret or a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyReference {
    /// The key.
    pub key: String,
    /// Name of the object.
    pub name: String,
    /// Namespace of the object.
    pub namespace: String,
}

/// Where a configuration is taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigurationSource {
    /// A ConfigMap, which goes before a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyReference>,
    /// A Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyReference>,
}

/// What a plugin or its VM is configured with. `Debug` does not show the value.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigurationSpec {
    /// The configuration itself, which goes before all else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where it is.
    #[serde(rename = "valueFrom", skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ConfigurationSource>,
}

impl fmt::Debug for ConfigurationSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigurationSpec").field("value_from", &self.value_from).finish_non_exhaustive()
    }
}

/// A text in the metadata of an Envoy's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataMatch {
    /// The keys that lead to it.
    pub path: Vec<String>,
    /// What it is.
    pub value: String,
}

/// Which Envoys get an extension; see [`EnvoySelector`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelectorSpec {
    /// Ids of nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node_ids: Vec<String>,
    /// Clusters of nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    /// Texts in the metadata of nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<MetadataMatch>,
}

impl From<&SelectorSpec> for EnvoySelector {
    fn from(spec: &SelectorSpec) -> Self {
        let metadata = spec.metadata.iter().map(|text| (text.path.clone(), text.value.clone()));
        Self {
            node_ids: spec.node_ids.clone(),
            clusters: spec.clusters.clone(),
            metadata: metadata.collect(),
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WasmExtensionSpec {
    /// What runs the module in Envoy: `v8`, or empty for what it is built with.
    pub runtime: String,
    /// Names the VM.
    pub vm_id: String,
    /// Names a root context of the module.
    pub root_id: String,
    /// Where the module comes from.
    pub image: ImageSpec,
    /// What the plugin is configured with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_configuration: Option<ConfigurationSpec>,
    /// What the VM is configured with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_configuration: Option<ConfigurationSpec>,
    /// See [`FilterType`].
    #[serde(default)]
    pub filter_type: FilterType,
    /// See [`FailurePolicy`].
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// See [`AfterDeletion`].
    #[serde(default)]
    pub after_deletion: AfterDeletion,
    /// Which Envoys get it; none for all that may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<SelectorSpec>,
}

impl WasmExtensionSpec {
    /// Both configurations, those of the plugin and of the VM, as a user names them.
    pub fn configurations(&self) -> [(&'static str, Option<&ConfigurationSpec>); 2] {
        [
            ("plugin_configuration", self.plugin_configuration.as_ref()),
            ("vm_configuration", self.vm_configuration.as_ref()),
        ]
    }
}

/// What has become of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WasmExtensionStatus {
    /// The generation that this is about.
    pub observed_generation: i64,
    /// The digest of the module that is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved_digest: Option<String>,
    /// Its bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// When it was last fetched, or found to be the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_fetched: Option<Time>,
    /// The version that is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The ABI that the module is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abi_version: Option<String>,
    /// Envoys that ask for it.
    pub subscribers: u64,
    /// Those of them that have accepted what is published.
    pub acks: u64,
    /// Those of them that have refused it.
    pub nacks: u64,
    /// What is the case, and why.
    pub conditions: Vec<Condition>,
}

/// An extension, as the cluster has it.
#[derive(Clone, Debug, PartialEq)]
pub struct WasmExtension {
    /// Its name.
    pub name: ExtensionName,
    /// Tells it from others that had its name.
    pub uid: String,
    /// Of the spec.
    pub generation: i64,
    /// What is asked for, or what is wrong with that.
    pub spec: Result<WasmExtensionSpec, String>,
    /// What was last said of it.
    pub status: Option<WasmExtensionStatus>,
}

impl WasmExtension {
    /// Reads an object; none of one whose name Envoys cannot name.
    #[must_use]
    pub fn read(object: &DynamicObject) -> Option<Self> {
        let spec = object.data.get("spec").cloned().unwrap_or_default();
        let status = object.data.get("status").cloned();
        Some(Self {
            name: ExtensionName::new(object.namespace().as_deref()?, &object.name_any()).ok()?,
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            spec: serde_json::from_value(spec).map_err(|error| unreadable(&error)),
            status: status.and_then(|status| serde_json::from_value(status).ok()),
        })
    }
}

/// serde's texts repeat what stands there, which may be secret where something is mistyped: the field that is missing says enough.
fn unreadable(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
        Some((field, _)) => format!("the spec has no {field}"),
        None => "the spec cannot be read; apply the definition that `kubewasm extension crd` prints, and it says what is wrong"
            .to_owned(),
    }
}

/// The API has no fractions of seconds here: what is written is what is read.
#[must_use]
pub fn in_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}
