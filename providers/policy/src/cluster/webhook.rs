//! Webhook configurations: one for each policy, by which API servers ask for its verdicts.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::admissionregistration::v1::{RuleWithOperations, ValidatingWebhook},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};
use kube::core::{ApiResource, DynamicObject};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    MANAGED_BY, MANAGED_BY_LABEL, SERVER_LABEL,
    address::ServerAddress,
    labels,
    policy::{Asked, ClusterPolicy, PolicyVersion},
};

/// The label of a namespace that has its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// What a policy's name becomes a webhook's name with.
const SUFFIX: &str = ".kubewarden.admission";
/// On a configuration: which policy it is of, for people.
const POLICY: &str = "kubewasm.dev/policy";
/// On a configuration: the version of the policy that it was made of.
const UID: &str = "kubewasm.dev/policy-uid";
const GENERATION: &str = "kubewasm.dev/policy-generation";

/// The kinds of configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WebhookKind {
    /// Of policies that accept or refuse.
    Validating,
    /// Of policies that change objects.
    Mutating,
}

impl WebhookKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Validating, Self::Mutating];

    /// The resource of the API.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        let (kind, plural) = match self {
            Self::Validating => ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
            Self::Mutating => ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
        };
        ApiResource {
            group: "admissionregistration.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "admissionregistration.k8s.io/v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }

    /// That of a policy.
    #[must_use]
    pub fn of(asked: &Asked) -> Self {
        if asked.is_mutating() { Self::Mutating } else { Self::Validating }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Validating => Self::Mutating,
            Self::Mutating => Self::Validating,
        }
    }
}

/// What holds for all webhooks of a server.
#[derive(Clone, Debug)]
pub struct WebhookTarget {
    /// Name of the policy server.
    pub server: String,
    /// Where it is reached.
    pub address: ServerAddress,
    /// The namespace that it is in.
    pub namespace: String,
}

/// A configuration with its one webhook, every field of which is given: what is written is what is read, without the API server's
/// defaults in between.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookConfiguration {
    /// What it is.
    pub kind: WebhookKind,
    /// Its name: that under which the policy is served.
    pub name: String,
    /// Where it is from.
    annotations: BTreeMap<String, String>,
    server: String,
    webhook: ValidatingWebhook,
    /// Fields of the webhook that are ours to give, where it changes objects.
    is_whole: bool,
}

impl WebhookConfiguration {
    /// The configuration of a policy, whose server shows a certificate by one of the authorities in `bundle` (PEM).
    #[must_use]
    pub fn new(policy: &ClusterPolicy, asked: &Asked, target: &WebhookTarget, bundle: &str) -> Self {
        let name = policy.name.unique();
        let hook = &asked.hook;
        let or = |field: &Option<String>, default: &str| Some(field.as_deref().unwrap_or(default).to_owned());
        let rules = hook.rules.iter().map(|rule| rule_of(rule, policy.name.kind.is_namespaced()));
        let webhook = ValidatingWebhook {
            name: format!("{name}{SUFFIX}"),
            client_config: target.address.client_config(&format!("/validate/{name}"), bundle),
            rules: Some(rules.collect()),
            failure_policy: or(&hook.failure_policy, "Fail"),
            match_policy: or(&hook.match_policy, "Equivalent"),
            match_conditions: Some(hook.match_conditions.clone()).filter(|conditions| !conditions.is_empty()),
            namespace_selector: Some(namespace_selector(policy, asked, target)),
            object_selector: Some(hook.object_selector.clone().unwrap_or_default()),
            side_effects: or(&hook.side_effects, "None").unwrap_or_default(),
            timeout_seconds: Some(hook.timeout_seconds),
            admission_review_versions: vec!["v1".to_owned()],
        };
        let PolicyVersion { uid, generation } = &policy.version;
        let annotations =
            [(POLICY, policy.name.to_string()), (UID, uid.clone()), (GENERATION, generation.to_string())];
        Self {
            kind: WebhookKind::of(asked),
            name,
            annotations: annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            server: target.server.clone(),
            webhook,
            is_whole: true,
        }
    }

    /// Reads one; none of one that is not ours. What was changed in it by others makes it differ from every one of ours.
    #[must_use]
    pub fn read(kind: WebhookKind, object: &DynamicObject) -> Option<Self> {
        let labels = object.metadata.labels.as_ref()?;
        if labels.get(MANAGED_BY_LABEL).map(String::as_str) != Some(MANAGED_BY) {
            return None;
        }
        let annotations = object.metadata.annotations.iter().flatten();
        let annotations = annotations
            .filter(|(key, _)| [POLICY, UID, GENERATION].contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()));
        let webhooks = object.data.get("webhooks").and_then(Value::as_array).map(Vec::as_slice);
        let only = match webhooks {
            Some([webhook]) => ValidatingWebhook::deserialize(webhook).ok(),
            _ => None,
        };
        let reinvocation =
            webhooks.and_then(|webhooks| webhooks.first()?.get("reinvocationPolicy")?.as_str());
        Some(Self {
            kind,
            name: object.metadata.name.clone()?,
            annotations: annotations.collect(),
            server: labels.get(SERVER_LABEL).cloned().unwrap_or_default(),
            is_whole: only.is_some() && reinvocation.is_none_or(|policy| policy == REINVOCATION),
            webhook: only.unwrap_or_default(),
        })
    }

    /// The same with other authorities; none where it is not as we have written it, so that nothing is known of it.
    #[must_use]
    pub fn with_bundle(&self, bundle: &str) -> Option<Self> {
        let mut other = self.clone();
        other.webhook.client_config.ca_bundle = Some(k8s_openapi::ByteString(bundle.as_bytes().to_vec()));
        self.is_whole.then_some(other)
    }

    /// The authorities, in PEM.
    #[must_use]
    pub fn bundle(&self) -> &str {
        let bundle = self.webhook.client_config.ca_bundle.as_ref();
        bundle.and_then(|bundle| std::str::from_utf8(&bundle.0).ok()).unwrap_or_default()
    }

    /// The version of the policy that it was made of.
    #[must_use]
    pub fn version(&self) -> Option<PolicyVersion> {
        Some(PolicyVersion {
            uid: self.annotations.get(UID)?.clone(),
            generation: self.annotations.get(GENERATION)?.parse().ok()?,
        })
    }

    /// What is applied.
    #[must_use]
    pub fn manifest(&self) -> Value {
        let resource = self.kind.resource();
        let mut webhook = json!(self.webhook);
        if self.kind == WebhookKind::Mutating {
            webhook["reinvocationPolicy"] = json!(REINVOCATION);
        }
        json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": self.name, "labels": labels(&self.server), "annotations": self.annotations },
            "webhooks": [webhook],
        })
    }
}

/// A policy sees a changed object once. Kubewarden's do, too.
const REINVOCATION: &str = "Never";

fn rule_of(rule: &RuleWithOperations, is_namespaced: bool) -> RuleWithOperations {
    let groups = rule.api_groups.clone().filter(|groups| !groups.is_empty());
    // The API server matches selectors of namespaces with objects in namespaces, and calls the webhook for all others. A policy
    // of one namespace is none for Nodes.
    let scope = if is_namespaced { "Namespaced" } else { rule.scope.as_deref().unwrap_or("*") };
    RuleWithOperations {
        api_groups: Some(groups.unwrap_or_else(|| vec![String::new()])),
        scope: Some(scope.to_owned()),
        ..rule.clone()
    }
}

fn namespace_selector(policy: &ClusterPolicy, asked: &Asked, target: &WebhookTarget) -> LabelSelector {
    let name = |operator: &str, namespace: &str| LabelSelectorRequirement {
        key: NAMESPACE_NAME.to_owned(),
        operator: operator.to_owned(),
        values: Some(vec![namespace.to_owned()]),
    };
    if let Some(namespace) = &policy.name.namespace {
        let only = vec![name("In", namespace)];
        return LabelSelector { match_expressions: Some(only), ..LabelSelector::default() };
    }
    let mut selector = asked.hook.namespace_selector.clone().unwrap_or_default();
    if !asked.hook.allow_inside_admission_controller_namespace {
        // What the server needs to come up again must not wait for its verdict.
        selector.match_expressions.get_or_insert_default().push(name("NotIn", &target.namespace));
    }
    selector
}
