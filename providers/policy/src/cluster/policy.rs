//! A policy of the cluster: what an object of the API says, as far as it can be understood.

#[cfg(test)]
mod tests;

use std::time::Duration;

use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::Value;

use super::{
    FINALIZER,
    identity::{PolicyKind, PolicyName},
    resource::{DEFAULT_SERVER, GroupFields, HookFields, PolicyFields, ProgramFields},
    status::PolicyStatus,
};
use crate::{
    request::Settings,
    spec::{GroupSpec, PolicySpec, ProgramSpec, Spec},
};

/// A policy of the cluster, as it was last seen.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterPolicy {
    /// Which it is.
    pub name: PolicyName,
    /// Which version of it.
    pub version: PolicyVersion,
    /// The server that is to serve it; the empty string where none is.
    pub server: String,
    /// It is being deleted.
    pub is_deleted: bool,
    /// Who is waited for before it is gone.
    pub finalizers: Vec<String>,
    /// Of the object, for a change of this version of it alone.
    pub resource_version: Option<String>,
    /// What it asks for, or why that cannot be understood.
    pub asked: Result<Asked, String>,
    /// What was last said to have become of it.
    pub status: Option<PolicyStatus>,
}

/// A version of one object: two objects of one name, one after the other, have none in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyVersion {
    /// Of the object.
    pub uid: String,
    /// Of its spec.
    pub generation: i64,
}

/// What a policy asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// When it is asked.
    pub hook: HookFields,
    /// What is served.
    pub served: Spec,
}

impl ClusterPolicy {
    /// Reads an object of this kind.
    #[must_use]
    pub fn read(kind: PolicyKind, object: &DynamicObject) -> Self {
        let metadata = &object.metadata;
        let spec = object.data.get("spec").unwrap_or(&Value::Null);
        let server = spec.get("policyServer").and_then(Value::as_str);
        let status = object.data.get("status").and_then(|status| PolicyStatus::deserialize(status).ok());
        Self {
            name: PolicyName {
                kind,
                namespace: metadata.namespace.clone().filter(|_| kind.is_namespaced()),
                name: metadata.name.clone().unwrap_or_default(),
            },
            version: PolicyVersion {
                uid: metadata.uid.clone().unwrap_or_default(),
                generation: metadata.generation.unwrap_or_default(),
            },
            server: server.unwrap_or(DEFAULT_SERVER).to_owned(),
            is_deleted: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone(),
            asked: Asked::read(kind, spec),
            status,
        }
    }
}

impl ClusterPolicy {
    /// Whether we are waited for before it is gone.
    #[must_use]
    pub fn has_finalizer(&self) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
    }
}

impl Asked {
    fn read(kind: PolicyKind, spec: &Value) -> Result<Self, String> {
        let invalid = |error: serde_json::Error| format!("spec: {error}");
        let hook = HookFields::deserialize(spec).map_err(invalid)?;
        let mode = hook.mode.into();
        let served = if kind.is_group() {
            let GroupFields { policies, expression, message } =
                GroupFields::deserialize(spec).map_err(invalid)?;
            let policies = policies.into_iter().map(|(name, fields)| {
                let program = program(kind, fields).map_err(|error| format!("policies.{name}.{error}"))?;
                Ok((name, program))
            });
            Spec::Group(GroupSpec {
                policies: policies.collect::<Result<_, String>>()?,
                expression,
                message,
                mode,
            })
        } else {
            let fields = PolicyFields::deserialize(spec).map_err(invalid)?;
            Spec::Policy(PolicySpec {
                program: program(kind, fields.program)?,
                mode,
                allowed_to_mutate: fields.mutating,
                message: fields.message.filter(|message| !message.is_empty()),
            })
        };
        Ok(Self { hook, served })
    }

    /// Whether the webhook changes objects.
    #[must_use]
    pub fn is_mutating(&self) -> bool {
        matches!(&self.served, Spec::Policy(policy) if policy.allowed_to_mutate)
    }
}

fn program(kind: PolicyKind, fields: ProgramFields) -> Result<ProgramSpec, String> {
    let ProgramFields { module, settings, timeout_eval_seconds, context_aware_resources } = fields;
    // Whoever may write policies of one namespace may not read the server's files by them.
    if kind.is_namespaced() && is_file(&module) {
        return Err(format!(
            "module: {module} is a file of the policy server; a policy of a namespace comes from a registry or a URL"
        ));
    }
    if kind.is_namespaced() && !context_aware_resources.is_empty() {
        return Err("contextAwareResources: a policy of a namespace asks the cluster for nothing".to_owned());
    }
    Ok(ProgramSpec {
        module,
        settings: Settings::from(settings.unwrap_or_default()),
        context_aware_resources: context_aware_resources.into_iter().collect(),
        timeout: timeout_eval_seconds.map(|seconds| Duration::from_secs(seconds.into())),
    })
}

fn is_file(module: &str) -> bool {
    let module = module.trim_start().to_ascii_lowercase();
    module.starts_with("file:") || module.starts_with(['/', '.', '~'])
}
