//! `kubewasm policy scaffold`

use anyhow::{Context as _, ensure};
use clap::{Subcommand, ValueEnum};
use kubewasm_modules::ImageName;
use kubewasm_policy::{
    metadata::{Metadata, PolicyType},
    request::Settings,
};
use serde_json::{Value, json};

use super::{
    settings::SettingsArgs,
    source::{PolicySource, find},
};
use crate::module::{self, ModuleSession};

/// Arguments of `kubewasm policy scaffold`.
#[derive(Debug, clap::Args)]
pub(super) struct ScaffoldArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A resource that enforces the policy in a cluster with Kubewarden's.
    Manifest(ManifestArgs),
}

#[derive(Debug, clap::Args)]
struct ManifestArgs {
    /// The policy: an image, registry://… or https://….
    #[arg(value_name = "POLICY")]
    policy: PolicySource,

    /// Which resource.
    #[arg(short = 't', long = "type", value_enum, value_name = "KIND")]
    kind: Kind,

    #[command(flatten)]
    settings: SettingsArgs,

    /// Name of the resource [default: the policy's title].
    #[arg(long, value_name = "NAME")]
    title: Option<String>,

    /// Let the policy read what it wants of the cluster.
    #[arg(long)]
    allow_context_aware: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// For all namespaces.
    #[value(name = "ClusterAdmissionPolicy")]
    Cluster,
    /// For one.
    #[value(name = "AdmissionPolicy")]
    Namespaced,
}

pub(super) async fn run(session: &ModuleSession, args: ScaffoldArgs) -> anyhow::Result<()> {
    let What::Manifest(args) = args.what;
    let settings = args.settings.read().await?;
    let found = find(session, &args.policy).await?;
    let (reference, metadata) = (&found.image.reference, found.metadata()?);
    metadata.validate().with_context(|| format!("the metadata of {reference}"))?;
    ensure!(
        metadata.policy_type == PolicyType::Kubernetes,
        "{reference} judges any JSON, and has no resource in a cluster"
    );
    let name = args.title.as_deref().or_else(|| title(metadata)).unwrap_or("generated-policy");
    let manifest = manifest(
        args.kind,
        &module(reference),
        &dns_name(name),
        metadata,
        &settings,
        args.allow_context_aware,
    );
    let manifest = serde_yaml_ng::to_string(&manifest)?;
    module::print(|out| out.write_all(manifest.as_bytes()))
}

fn title(metadata: &Metadata) -> Option<&str> {
    metadata.annotations.get("io.kubewarden.policy.title").map(String::as_str)
}

/// A policy's name as the resource has it.
fn module(name: &ImageName) -> String {
    match name {
        ImageName::Reference(reference) => format!("registry://{reference}"),
        ImageName::Url(url) => url.to_string(),
        ImageName::Path(path) => format!("file://{}", path.display()),
    }
}

/// A text as the name of a resource.
fn dns_name(text: &str) -> String {
    let name: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    name.get(..name.len().min(253)).unwrap_or(name).to_owned()
}

fn manifest(
    kind: Kind,
    module: &str,
    name: &str,
    metadata: &Metadata,
    settings: &Settings,
    context_aware: bool,
) -> Value {
    let mut manifest = json!({
        "apiVersion": "policies.kubewarden.io/v1",
        "kind": match kind {
            Kind::Cluster => "ClusterAdmissionPolicy",
            Kind::Namespaced => "AdmissionPolicy",
        },
        "metadata": { "name": name },
        "spec": {
            "module": module,
            "settings": settings,
            "rules": metadata.rules,
            "mutating": metadata.mutating,
            "backgroundAudit": metadata.background_audit,
        },
    });
    let wanted = &metadata.context_aware_resources;
    if context_aware
        && kind == Kind::Cluster
        && !wanted.is_empty()
        && let Some(spec) = manifest.get_mut("spec")
    {
        spec["contextAwareResources"] = json!(wanted);
    }
    manifest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_has_what_the_policy_says() {
        let metadata: Metadata = serde_json::from_value(json!({
            "executionMode": "wasi", "mutating": true, "contextAwareResources": [{ "apiVersion": "v1", "kind": "Namespace" }],
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"] }],
        }))
        .unwrap();
        let settings = Settings::parse(b"a: 1").unwrap();
        let of = |kind, context_aware| {
            manifest(kind, "registry://r.io/p:v1", "p", &metadata, &settings, context_aware)
        };
        let mut expected = json!({
            "apiVersion": "policies.kubewarden.io/v1", "kind": "AdmissionPolicy", "metadata": { "name": "p" },
            "spec": {
                "module": "registry://r.io/p:v1", "settings": { "a": 1 }, "mutating": true, "backgroundAudit": true,
                "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"] }],
            },
        });
        assert_eq!(of(Kind::Namespaced, true), expected);
        expected["kind"] = json!("ClusterAdmissionPolicy");
        assert_eq!(of(Kind::Cluster, false), expected);
        expected["spec"]["contextAwareResources"] = json!([{ "apiVersion": "v1", "kind": "Namespace" }]);
        assert_eq!(of(Kind::Cluster, true), expected);
    }

    #[test]
    fn titles_become_names() {
        for (title, name) in [("No root!", "no-root"), ("psp/Über", "psp--ber"), ("-a.b-", "a.b")] {
            assert_eq!(dns_name(title), name, "{title}");
        }
    }
}
