//! The file of `--admission-policies`: that of a server of policies, and what only a node has to be told besides.

use std::collections::BTreeMap;

use kubewasm_policy::{
    policies::{self, InvalidPolicies},
    spec::{GroupSpec, Mode, PolicySpec, ProgramSpec, Spec},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_yaml_ng::{Mapping, Value};

use super::imports::ImportPattern;

/// A policy of a node, as the file has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PolicyEntry {
    /// What judges.
    pub(super) by: JudgedBy,
    /// Pods are judged.
    pub(super) judges_pods: bool,
    /// Modules are.
    pub(super) judges_modules: bool,
    /// What becomes of its verdicts.
    pub(super) mode: Mode,
    /// What becomes of what it comes to no verdict on.
    pub(super) failure_policy: FailurePolicy,
    /// Said in place of its own message.
    pub(super) message: Option<String>,
}

/// What judges.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum JudgedBy {
    /// A program, or a group of them.
    Programs(Spec),
    /// A list of imports that no module may have.
    Imports(Vec<ImportPattern>),
}

/// What becomes of what a policy comes to no verdict on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum FailurePolicy {
    /// It is refused.
    #[default]
    Fail,
    /// It is let through.
    Ignore,
}

/// Why a file has no policies for a node.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidFile {
    /// It is no map of policies.
    #[error("it is no object of policies by their ids: {0}")]
    Yaml(#[source] serde_yaml_ng::Error),
    /// There is nothing in it that would judge anything.
    #[error("it names no policy; leave --admission-policies away where there are none")]
    Empty,
    /// As a server of policies would say it.
    #[error(transparent)]
    Policies(#[from] InvalidPolicies),
    /// A policy says what cannot be on a node.
    #[error("{policy}.{field}: {problem}")]
    Field {
        /// Its name.
        policy: String,
        /// Which field.
        field: &'static str,
        /// What is the matter.
        problem: String,
    },
}

/// What a policy judges.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Judged {
    Pods,
    Modules,
}

/// What is beside `deniedImports`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ImportsEntry {
    #[serde(default)]
    policy_mode: WrittenMode,
    message: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenMode {
    #[default]
    Protect,
    Monitor,
}

/// Reads a file of policies.
pub(super) fn parse(text: &[u8]) -> Result<BTreeMap<String, PolicyEntry>, InvalidFile> {
    let written: Option<BTreeMap<String, Value>> =
        serde_yaml_ng::from_slice(text).map_err(InvalidFile::Yaml)?;
    let written = written.unwrap_or_default();
    if written.is_empty() {
        return Err(InvalidFile::Empty);
    }
    written.into_iter().map(|(id, value)| Ok((id.clone(), entry(id, value)?))).collect()
}

fn entry(policy: String, value: Value) -> Result<PolicyEntry, InvalidFile> {
    let mut fields = match value {
        Value::Mapping(fields) => fields,
        // What is wrong with it is said below.
        other => return programs(policy, other, Extras::default()),
    };
    let extras = Extras {
        judges: take(&policy, &mut fields, "judges")?,
        failure_policy: take(&policy, &mut fields, "failurePolicy")?.unwrap_or_default(),
    };
    match take::<Vec<String>>(&policy, &mut fields, "deniedImports")? {
        Some(patterns) => imports(policy, &patterns, fields, extras),
        None => programs(policy, Value::Mapping(fields), extras),
    }
}

/// What is beside what a server has.
#[derive(Default)]
struct Extras {
    judges: Option<Vec<Judged>>,
    failure_policy: FailurePolicy,
}

fn take<T: DeserializeOwned>(
    policy: &str,
    fields: &mut Mapping,
    field: &'static str,
) -> Result<Option<T>, InvalidFile> {
    let value = fields.remove(field).map(serde_yaml_ng::from_value).transpose();
    value.map_err(|error| wrong(policy, field, error.to_string()))
}

fn wrong(policy: &str, field: &'static str, problem: impl Into<String>) -> InvalidFile {
    InvalidFile::Field { policy: policy.to_owned(), field, problem: problem.into() }
}

fn imports(
    policy: String,
    patterns: &[String],
    fields: Mapping,
    extras: Extras,
) -> Result<PolicyEntry, InvalidFile> {
    const FIELD: &str = "deniedImports";
    if extras.judges.is_some_and(|judges| judges != [Judged::Modules]) {
        return Err(wrong(&policy, "judges", "deniedImports judge modules alone"));
    }
    let patterns: Vec<ImportPattern> =
        patterns.iter().map(|pattern| pattern.parse()).collect::<Result<_, _>>().map_err(
            |error: super::imports::InvalidImportPattern| wrong(&policy, FIELD, error.to_string()),
        )?;
    if patterns.is_empty() {
        return Err(wrong(&policy, FIELD, "it names none"));
    }
    let beside = serde_yaml_ng::from_value(Value::Mapping(fields));
    let ImportsEntry { policy_mode, message } = beside.map_err(|error| {
        wrong(&policy, FIELD, format!("{error}; make another policy of what has a module"))
    })?;
    Ok(PolicyEntry {
        by: JudgedBy::Imports(patterns),
        judges_pods: false,
        judges_modules: true,
        mode: match policy_mode {
            WrittenMode::Protect => Mode::Protect,
            WrittenMode::Monitor => Mode::Monitor,
        },
        failure_policy: extras.failure_policy,
        message,
    })
}

fn programs(policy: String, value: Value, extras: Extras) -> Result<PolicyEntry, InvalidFile> {
    let one = Mapping::from_iter([(Value::String(policy.clone()), value)]);
    let text = serde_yaml_ng::to_string(&one).map_err(InvalidFile::Yaml)?;
    // One goes in, and one comes out.
    let Some((_, spec)) = policies::parse(text.as_bytes())?.pop_first() else {
        return Err(InvalidFile::Empty);
    };
    let asks = |program: &ProgramSpec| !program.context_aware_resources.is_empty();
    let (mode, message, asks) = match &spec {
        Spec::Policy(PolicySpec { allowed_to_mutate: true, .. }) => {
            let problem = "the node takes what was asked for, or does not; a policy of it changes nothing";
            return Err(wrong(&policy, "allowedToMutate", problem));
        }
        Spec::Policy(PolicySpec { program, mode, message, .. }) => (*mode, message.clone(), asks(program)),
        // The message of a group is its own.
        Spec::Group(GroupSpec { policies, mode, .. }) => (*mode, None, policies.values().any(asks)),
    };
    if asks {
        return Err(wrong(&policy, "contextAwareResources", "a node asks no cluster for its policies"));
    }
    let judges = extras.judges.unwrap_or_else(|| vec![Judged::Pods]);
    if judges.is_empty() {
        return Err(wrong(&policy, "judges", "it names nothing that would be judged"));
    }
    Ok(PolicyEntry {
        by: JudgedBy::Programs(spec),
        judges_pods: judges.contains(&Judged::Pods),
        judges_modules: judges.contains(&Judged::Modules),
        mode,
        failure_policy: extras.failure_policy,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_protects_pods_unless_it_says_otherwise() {
        let entries = parse(
            b"
plain: { module: file:///p.wasm }
whole:
  url: registry://example.dev/p:v1
  settings: { a: 1 }
  judges: [modules]
  policyMode: monitor
  failurePolicy: Ignore
  allowedToMutate: false
  message: not here
  timeoutEvalSeconds: 7
either:
  policies: { a: { module: m }, b: { module: m } }
  expression: a() || b()
  message: neither
  judges: [pods, modules]
no-sockets: { deniedImports: ['wasi:sockets/*'], message: no sockets, policyMode: monitor }
",
        )
        .unwrap();
        let judges = |id: &str| (entries[id].judges_pods, entries[id].judges_modules);
        assert_eq!(judges("plain"), (true, false));
        assert_eq!(
            (entries["plain"].mode, entries["plain"].failure_policy),
            (Mode::Protect, FailurePolicy::Fail)
        );
        assert_eq!(judges("whole"), (false, true));
        let whole = &entries["whole"];
        assert_eq!((whole.mode, whole.failure_policy), (Mode::Monitor, FailurePolicy::Ignore));
        assert_eq!(whole.message.as_deref(), Some("not here"));
        let JudgedBy::Programs(Spec::Policy(spec)) = &whole.by else { panic!("{whole:?}") };
        assert_eq!(spec.program.settings.document(), br#"{"a":1}"#);
        assert_eq!(judges("either"), (true, true));
        assert!(matches!(&entries["either"].by, JudgedBy::Programs(Spec::Group(_))));
        assert_eq!(judges("no-sockets"), (false, true));
        assert_eq!(
            (entries["no-sockets"].mode, entries["no-sockets"].message.as_deref()),
            (Mode::Monitor, Some("no sockets"))
        );
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (text, expected) in [
            ("", "it names no policy"),
            ("{}", "it names no policy"),
            ("[]", "it is no object of policies"),
            ("p: 7", "p: it is no object"),
            ("p: {}", "p.module: it is missing"),
            ("p: { modul: m }", "p.modul: "),
            ("p: { module: m, deniedImports: [a] }", "p.deniedImports: unknown field `module`"),
            ("p: { module: m, allowedToMutate: true }", "p.allowedToMutate: "),
            ("p: { module: m, judges: [nodes] }", "p.judges: "),
            ("p: { module: m, judges: [] }", "p.judges: it names nothing"),
            ("p: { module: m, failurePolicy: Maybe }", "p.failurePolicy: "),
            (
                "p: { module: m, contextAwareResources: [{ apiVersion: v1, kind: Node }] }",
                "p.contextAwareResources: a node asks no cluster",
            ),
            ("p: { deniedImports: [] }", "p.deniedImports: it names none"),
            ("p: { deniedImports: ['wasi:*/a'] }", "p.deniedImports: \"wasi:*/a\" names no imports"),
            ("p: { deniedImports: [a], judges: [pods] }", "p.judges: "),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
