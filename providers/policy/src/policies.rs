//! The file of a server's policies, `policies.yml`, as upstream's server reads it.
//!
//! ```yaml
//! annotations:
//!   module: registry://example.dev/annotations:v1
//!   settings: { forbiddenAnnotations: [debug] }
//! either:
//!   policies: { a: { module: … }, b: { module: …, settings: … } }
//!   expression: a() || b()
//!   message: neither a nor b
//! ```

mod fields;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use serde_yaml_ng::{Mapping, Value};

use self::fields::Fields;
use crate::{
    expression::{self, Expression},
    request::Settings,
    spec::{GroupSpec, Mode, PolicySpec, ProgramSpec, Spec},
};

/// Most bytes of the file, 16 MiB.
pub const LONGEST_FILE: usize = 16 << 20;
/// Most policies of a file.
const MOST_POLICIES: usize = 4096;
/// Most members of a group.
const MOST_MEMBERS: usize = 64;
/// Most characters of an id, which is a part of a path.
const LONGEST_ID: usize = 253;
/// Most seconds of a call: no API server waits for longer.
const LONGEST_CALL: u64 = 30;

/// What is wrong with a file of policies: all of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct InvalidPolicies(pub Vec<Mistake>);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}{}{message}", if .path.is_empty() { "" } else { ": " })]
pub struct Mistake {
    /// The policy and its field, such as `annotations.settings`; nothing where it is the whole file.
    pub path: String,
    /// What is the matter.
    pub message: String,
}

impl Mistake {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// Reads a file of policies. An empty one has none.
///
/// # Errors
/// [`InvalidPolicies`].
pub fn parse(text: &[u8]) -> Result<BTreeMap<String, Spec>, InvalidPolicies> {
    let of_file = |message: String| InvalidPolicies(vec![Mistake::new("", message)]);
    if text.len() > LONGEST_FILE {
        return Err(of_file(format!("there are more than {} MiB of it", LONGEST_FILE >> 20)));
    }
    let read: Option<Mapping> = serde_yaml_ng::from_slice(text)
        .map_err(|error| of_file(format!("it is no object of policies by their ids: {error}")))?;
    let read = read.unwrap_or_default();
    if read.len() > MOST_POLICIES {
        return Err(of_file(format!("it has {} policies, and may have {MOST_POLICIES}", read.len())));
    }
    let (mut specs, mut mistakes) = (BTreeMap::new(), Vec::new());
    for (id, spec) in read {
        match id_of(&id).and_then(|id| Ok((id.clone(), self::spec(&id, spec, &mut mistakes)?))) {
            Ok((id, Some(spec))) => drop(specs.insert(id, spec)),
            // What is wrong with it is among the mistakes.
            Ok((_, None)) => {}
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() { Ok(specs) } else { Err(InvalidPolicies(mistakes)) }
}

/// An id, which is a part of a path of HTTP.
fn id_of(id: &Value) -> Result<String, Mistake> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match id {
        Value::String(id) if !id.is_empty() && id.len() <= LONGEST_ID && id.chars().all(is_plain) => {
            Ok(id.clone())
        }
        other => {
            let shown = serde_json::to_string(other).unwrap_or_default();
            Err(Mistake::new(
                shown.chars().take(64).collect::<String>(),
                format!("an id is a text of at most {LONGEST_ID} letters, digits, `-`, `_` and `.`"),
            ))
        }
    }
}

/// One policy or group, or none where there are mistakes.
fn spec(id: &str, spec: Value, mistakes: &mut Vec<Mistake>) -> Result<Option<Spec>, Mistake> {
    let Value::Mapping(spec) = spec else {
        return Err(Mistake::new(
            id,
            "it is no object; it has at least a `module`, or `policies` and an `expression`",
        ));
    };
    let is_group = spec.contains_key("policies");
    let mut fields = Fields::new(id, spec);
    let spec =
        if is_group { group(&mut fields).map(Spec::Group) } else { policy(&mut fields).map(Spec::Policy) };
    fields.end();
    let found = fields.into_mistakes();
    let is_whole = found.is_empty();
    mistakes.extend(found);
    Ok(spec.filter(|_| is_whole))
}

fn policy(fields: &mut Fields) -> Option<PolicySpec> {
    let program = program(fields);
    let mode = mode(fields);
    let allowed_to_mutate = fields.bool("allowedToMutate").unwrap_or_default();
    let message = fields.text("message");
    Some(PolicySpec { program: program?, mode, allowed_to_mutate, message })
}

fn group(fields: &mut Fields) -> Option<GroupSpec> {
    let members = members(fields);
    let expression = fields.needed_text("expression");
    if let (Some(members), Some(expression)) = (&members, &expression)
        && let Err(error) = Expression::parse(expression, members.keys().map(String::as_str))
    {
        fields.mistake("expression", error.to_string());
    }
    let message = fields.needed_text("message");
    let mode = mode(fields);
    Some(GroupSpec { policies: members?, expression: expression?, message: message?, mode })
}

fn members(fields: &mut Fields) -> Option<BTreeMap<String, ProgramSpec>> {
    let read = fields.mapping("policies")?;
    if read.len() > MOST_MEMBERS || read.is_empty() {
        fields.mistake("policies", format!("it has {} members, and has 1 to {MOST_MEMBERS}", read.len()));
        return None;
    }
    let mut members = BTreeMap::new();
    for (name, spec) in read {
        let name = match name {
            Value::String(name) if expression::is_name(&name) => name,
            other => {
                let shown = serde_json::to_string(&other).unwrap_or_default();
                fields.mistake(
                    "policies",
                    format!("{shown} cannot be called in an expression: a name has letters, digits and `_`, and begins with no digit"),
                );
                continue;
            }
        };
        let path = format!("policies.{name}");
        let Value::Mapping(spec) = spec else {
            fields.mistake(&path, "it is no object; it has at least a `module`");
            continue;
        };
        let mut member = fields.below(&path, spec);
        let program = program(&mut member);
        member.end();
        fields.take_mistakes(member);
        members.extend(program.map(|program| (name, program)));
    }
    Some(members)
}

fn program(fields: &mut Fields) -> Option<ProgramSpec> {
    let (module, url) = (fields.text("module"), fields.text("url"));
    let settings = fields.mapping("settings").unwrap_or_default();
    let settings = match serde_yaml_ng::from_value::<serde_json::Map<_, _>>(Value::Mapping(settings)) {
        Ok(settings) => Settings::from(settings),
        Err(error) => {
            fields.mistake("settings", error.to_string());
            Settings::default()
        }
    };
    let context_aware_resources = fields.read("contextAwareResources", "a list of `apiVersion` and `kind`");
    let timeout = fields.number("timeoutEvalSeconds");
    if timeout.is_some_and(|timeout| !(1..=LONGEST_CALL).contains(&timeout)) {
        fields.mistake("timeoutEvalSeconds", format!("it is 1 to {LONGEST_CALL}"));
    }
    let module = match (module, url) {
        (Some(module), None) | (None, Some(module)) => module,
        (Some(_), Some(_)) => {
            fields.mistake("url", "`module` says it already; leave one of the two");
            return None;
        }
        (None, None) => {
            fields.mistake(
                "module",
                "it is missing: an image, such as registry://example.dev/policy:v1, a URL, or file://…",
            );
            return None;
        }
    };
    Some(ProgramSpec { module, settings, context_aware_resources, timeout: timeout.map(Duration::from_secs) })
}

fn mode(fields: &mut Fields) -> Mode {
    match fields.text("policyMode").as_deref() {
        None | Some("protect") => Mode::Protect,
        Some("monitor") => Mode::Monitor,
        Some(other) => {
            fields.mistake("policyMode", format!("it is `protect` or `monitor`, not {other:?}"));
            Mode::Protect
        }
    }
}
