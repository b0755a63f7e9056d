//! From what is known of an extension to what Envoys get: a pure function.

use kubewasm_modules::Digest;

use super::{
    grants::GrantState,
    references::ReferencedObjects,
    resolve::{ConfigurationFailure, ResolvedConfigurations, configurations},
};
use crate::{
    fetch::{FetchFailure, FetchedModule},
    name::ExtensionName,
    resource::{EncodedResource, ResourceSpec},
    table::PublishedExtension,
    wasm_extension::WasmExtensionSpec,
};

/// What the names of engines begin with in Envoy.
const RUNTIMES: &str = "envoy.wasm.runtime.";
/// The one that an empty name stands for.
const DEFAULT_RUNTIME: &str = "v8";

/// What has become of the module that an extension names.
#[derive(Clone, Debug, PartialEq)]
pub enum ModuleState {
    /// It is being fetched.
    Fetching,
    /// It is not to be had.
    Failed(FetchFailure),
    /// It is here.
    Fetched(FetchedModule),
}

/// All that a published extension is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishInputs {
    spec: WasmExtensionSpec,
    module: Digest,
    configurations: ResolvedConfigurations,
}

/// What can be published of an extension, and what is in the way.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishPlan {
    /// Whether its configurations have their texts.
    pub configurations: Result<ResolvedConfigurations, ConfigurationFailure>,
    /// What it is made of, where all is there.
    pub inputs: Option<PublishInputs>,
}

impl PublishPlan {
    /// Looks at one.
    #[must_use]
    pub fn new(
        name: &ExtensionName,
        spec: &WasmExtensionSpec,
        module: &ModuleState,
        objects: &ReferencedObjects,
        grants: &GrantState,
    ) -> Self {
        let configurations = configurations(name.namespace(), spec.configurations(), objects, grants);
        let inputs = match (module, &configurations) {
            (ModuleState::Fetched(fetched), Ok(configurations)) => Some(PublishInputs {
                spec: spec.clone(),
                module: fetched.module.digest,
                configurations: configurations.clone(),
            }),
            _ => None,
        };
        Self { configurations, inputs }
    }
}

impl PublishInputs {
    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &WasmExtensionSpec {
        &self.spec
    }

    /// What Envoys get. The module is the one that it was made with.
    #[must_use]
    pub fn publish(&self, name: &ExtensionName, fetched: &FetchedModule) -> PublishedExtension {
        let Self { spec, configurations, .. } = self;
        let engine = if spec.runtime.is_empty() { DEFAULT_RUNTIME } else { &spec.runtime };
        let resource = EncodedResource::new(&ResourceSpec {
            name,
            filter: spec.filter_type,
            runtime: &format!("{RUNTIMES}{engine}"),
            vm_id: &spec.vm_id,
            root_id: &spec.root_id,
            module: &fetched.module.inline,
            vm_configuration: configurations.vm.as_ref().map(|text| text.reveal()),
            plugin_configuration: configurations.plugin.as_ref().map(|text| text.reveal()),
            failure_policy: spec.failure_policy,
        });
        let selector = spec.selector.as_ref().map(Into::into).unwrap_or_default();
        PublishedExtension::new(name.clone(), spec.filter_type, resource, selector, spec.after_deletion)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        cluster::references::{ObjectKind, ObjectName, ObjectState},
        fetch::FetchReason,
    };

    fn name() -> ExtensionName {
        ExtensionName::parse("team/filter").unwrap()
    }

    fn spec(more: Value) -> WasmExtensionSpec {
        let mut spec = json!({
            "runtime": "v8", "vm_id": "vm", "root_id": "root", "image": { "protocol": "https", "uri": "h/f.wasm" },
            "vm_configuration": { "value": "v" },
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn with_secret(namespace: &str) -> WasmExtensionSpec {
        let reference = json!({ "namespace": namespace, "name": "s", "key": "k" });
        spec(json!({ "plugin_configuration": { "valueFrom": { "secretKeyRef": reference } } }))
    }

    fn objects(text: &str) -> ReferencedObjects {
        let secret =
            json!({ "stringData": {}, "data": { "k": k8s_openapi::ByteString(text.as_bytes().to_vec()) } });
        let secret = Arc::new(serde_json::from_value(secret).unwrap());
        let named = |namespace: &str| ObjectName {
            kind: ObjectKind::Secret,
            namespace: namespace.to_owned(),
            name: "s".to_owned(),
        };
        ["team", "vault"].map(|namespace| (named(namespace), ObjectState::Secret(Arc::clone(&secret)))).into()
    }

    #[test]
    fn an_extension_is_published_when_all_of_it_is_there() {
        let here = ModuleState::Fetched(FetchedModule::in_memory(b"m"));
        let gone = ModuleState::Failed(FetchFailure::new(FetchReason::NotFound, "404"));
        let (some, none) = (objects("p"), ReferencedObjects::new());
        for (spec, module, objects, is_published, config) in [
            (spec(json!({})), &here, &none, true, None),
            (spec(json!({})), &gone, &none, false, None),
            (spec(json!({})), &ModuleState::Fetching, &none, false, None),
            (with_secret("team"), &here, &some, true, None),
            (with_secret("team"), &here, &none, false, Some("Pending")),
            (with_secret("vault"), &here, &some, false, Some("RefNotPermitted")),
        ] {
            let plan = PublishPlan::new(&name(), &spec, module, objects, &GrantState::NotInstalled);
            assert_eq!(plan.inputs.is_some(), is_published, "{spec:?} {module:?}");
            assert_eq!(plan.configurations.err().map(|failure| failure.reason()), config, "{spec:?}");
        }
    }

    #[test]
    fn what_is_published_is_what_is_asked_for_and_has_its_own_version() {
        let module = FetchedModule::in_memory(b"m");
        let version = |spec: &WasmExtensionSpec, module: &FetchedModule, secret: &str| {
            let state = ModuleState::Fetched(module.clone());
            let plan = PublishPlan::new(&name(), spec, &state, &objects(secret), &GrantState::NotInstalled);
            plan.inputs.unwrap().publish(&name(), module).version().to_string()
        };
        let first = version(&with_secret("team"), &module, "p");
        assert_eq!(version(&with_secret("team"), &module, "p"), first, "it does not change by itself");
        // An empty runtime is Envoy's own.
        let empty = WasmExtensionSpec { runtime: String::new(), ..with_secret("team") };
        assert_eq!(version(&empty, &module, "p"), first);
        let other_module = FetchedModule::in_memory(b"other");
        for other in [
            version(&with_secret("team"), &module, "q"),
            version(&with_secret("team"), &other_module, "p"),
            version(&spec(json!({})), &module, "p"),
            version(&WasmExtensionSpec { runtime: "wamr".into(), ..with_secret("team") }, &module, "p"),
            version(&WasmExtensionSpec { root_id: "r".into(), ..with_secret("team") }, &module, "p"),
        ] {
            assert_ne!(other, first);
        }
        let selected = spec(
            json!({ "selector": { "node_ids": ["a"], "metadata": [{ "path": ["x", "y"], "value": "z" }] } }),
        );
        let state = ModuleState::Fetched(module.clone());
        let plan = PublishPlan::new(&name(), &selected, &state, &objects("p"), &GrantState::NotInstalled);
        let published = plan.inputs.unwrap().publish(&name(), &module);
        assert_eq!(published.selector().node_ids, ["a"]);
        assert_eq!(published.selector().metadata, [(vec!["x".to_owned(), "y".to_owned()], "z".to_owned())]);
    }
}
