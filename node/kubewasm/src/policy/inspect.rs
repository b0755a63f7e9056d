//! `kubewasm policy inspect`

use clap::ValueEnum;
use kubewasm_policy::metadata::{Metadata, PolicyType, Rule, USAGE};

use super::source::{PolicySource, find};
use crate::module::{self, ModuleSession};

/// Arguments of `kubewasm policy inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// The policy: a file, an image, registry://…, https://…, or the beginning of the digest of one that is here.
    #[arg(value_name = "POLICY")]
    policy: PolicySource,

    /// How to say it.
    #[arg(short, long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// The metadata as YAML.
    Yaml,
    /// The metadata as JSON.
    Json,
}

pub(super) async fn run(session: &ModuleSession, args: &InspectArgs) -> anyhow::Result<()> {
    let found = find(session, &args.policy).await?;
    let metadata = found.metadata()?;
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(metadata)? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(metadata)?,
        Format::Text => text(&found.image.id(), metadata),
    };
    module::print(|out| out.write_all(text.as_bytes()))
}

fn text(id: &str, metadata: &Metadata) -> String {
    let mut lines = vec![("Policy".to_owned(), id.to_owned())];
    let name = |annotation: &str| annotation.rsplit('.').next().unwrap_or(annotation).to_owned();
    let annotations = metadata.annotations.iter().filter(|(annotation, _)| *annotation != USAGE);
    lines.extend(annotations.map(|(annotation, value)| (name(annotation), value.trim().replace('\n', " "))));
    lines.push((
        "Judges".to_owned(),
        match metadata.policy_type {
            PolicyType::Kubernetes => "requests to Kubernetes".to_owned(),
            PolicyType::Raw => "any JSON".to_owned(),
        },
    ));
    lines.push(("Called".to_owned(), metadata.execution_mode.name().to_owned()));
    lines.push(("Mutates".to_owned(), yes_or_no(metadata.mutating)));
    lines.push(("Audits".to_owned(), yes_or_no(metadata.background_audit)));
    for rule in &metadata.rules {
        lines.push(("Rule".to_owned(), of_rule(rule)));
    }
    for resource in &metadata.context_aware_resources {
        lines.push(("May read".to_owned(), format!("{} {}", resource.api_version, resource.kind)));
    }
    for capability in &metadata.host_capabilities {
        lines.push(("Asks for".to_owned(), capability.clone()));
    }
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default() + 1;
    let mut text: String =
        lines.iter().map(|(name, value)| format!("{:width$} {value}\n", format!("{name}:"))).collect();
    if let Some(usage) = metadata.annotations.get(USAGE) {
        text.push('\n');
        text.push_str(usage.trim());
        text.push('\n');
    }
    text
}

fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

fn of_rule(rule: &Rule) -> String {
    let operations = rule.operations.iter().map(|operation| {
        // An operation is written as a text.
        let text = serde_json::to_value(operation).ok();
        text.as_ref().and_then(|text| text.as_str()).unwrap_or_default().to_owned()
    });
    let groups: Vec<&str> =
        rule.api_groups.iter().map(|group| if group.is_empty() { "core" } else { group }).collect();
    format!(
        "{} of {} in {}/{}",
        operations.collect::<Vec<_>>().join(", "),
        rule.resources.join(", "),
        groups.join(", "),
        rule.api_versions.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_in_lines() {
        let metadata: Metadata = serde_json::from_value(serde_json::json!({
            "executionMode": "wasi", "mutating": true, "contextAwareResources": [{ "apiVersion": "v1", "kind": "Namespace" }],
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE", "*"] }],
            "annotations": { "io.kubewarden.policy.title": "labels", "io.kubewarden.policy.usage": "# Usage\n" },
        }))
        .unwrap();
        let expected = "\
Policy:   p@sha256:1
title:    labels
Judges:   requests to Kubernetes
Called:   wasi
Mutates:  yes
Audits:   yes
Rule:     CREATE, * of pods in core/v1
May read: v1 Namespace

# Usage
";
        assert_eq!(text("p@sha256:1", &metadata), expected);
    }
}
