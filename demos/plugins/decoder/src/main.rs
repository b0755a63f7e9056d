//! `kubectl decoder secret NAME`: shows what is in a Secret.
//!
//! ```text
//!   API server ─Secret─► [decode] Decoded ─┬─► [report] text
//!                          ▲               └─► JSON, YAML
//!            [certificate] [token] [registries]
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::process::ExitCode;

use kubectl_plugin::k8s_openapi::api::core::v1::Secret;
use kubectl_plugin::{Argument, Arguments, Call, CommonFlag, Error, Output, Plugin, Result, json, yaml};

mod certificate;
mod decode;
mod registries;
mod report;
mod token;

const HELP: &str = "\
Show what is in a Secret: text as it is, certificates and tokens with what they say, logins to registries in the clear.

Examples:
  # Show the values of a Secret
  kubectl decoder secret db

  # Print one value alone, byte by byte
  kubectl decoder secret db --key password

  # How many days are left of a certificate
  kubectl decoder secret web-tls -o json | jq '.data[\"tls.crt\"].certificates[0].daysLeft'

Options:
  -k, --key NAME         Print the value of this key, and nothing else
  -n, --namespace NAME   The namespace of the Secret
  -o, --output FORMAT    json, yaml or name
      --context, --kubeconfig, --cluster, --user, --as, --as-uid, --as-group
                         As those of kubectl

Usage:
  kubectl decoder secret NAME [options]
";

const FLAGS: &[CommonFlag] = &[CommonFlag::Namespace, CommonFlag::Output];

struct Decoder;

/// What the arguments ask for.
#[derive(Debug, Default)]
struct Wanted {
    words: Vec<String>,
    key: Option<String>,
}

impl Plugin for Decoder {
    const HELP: &'static str = HELP;

    fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut arguments = Arguments::new(call.words.clone(), FLAGS);
        let wanted = wanted(&mut arguments)?;
        let name = name(&wanted.words)?;
        let namespace = arguments.flags.namespace.as_deref().unwrap_or(&call.namespace);
        let secret = call.client.namespaced::<Secret>(namespace).get(name)?;
        if let Some(key) = wanted.key {
            let data = secret.data.unwrap_or_default();
            let value = data.get(&key).ok_or_else(|| {
                let keys: Vec<_> = data.keys().map(String::as_str).collect();
                Error::failed(format!("secret {name:?} has no key {key:?}; it has: {}", keys.join(", ")))
            })?;
            return Ok(call.out.write_all(&value.0)?);
        }
        let now = (call.now)();
        let text = match arguments.flags.output {
            Output::Name => format!("secret/{name}\n"),
            Output::Json => json(&decode::secret(secret, now))?,
            Output::Yaml => yaml(&decode::secret(secret, now))?,
            Output::Human | Output::Wide => report::text(&decode::secret(secret, now)),
        };
        Ok(call.out.write_all(text.as_bytes())?)
    }

    fn complete(&self, call: &mut Call<'_>) -> Result<Vec<String>> {
        let Some((_, before)) = call.words.split_last() else { return Ok(Vec::new()) };
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        // A flag whose value is what is typed is not read as one without a value.
        let (before, flag) = match before.split_last() {
            Some((last, rest)) if ["-o", "--output", "-k", "--key"].contains(&last.as_str()) => {
                (rest, Some(last))
            }
            _ => (before, None),
        };
        let mut arguments = Arguments::new(before.to_vec(), FLAGS);
        let words = wanted(&mut arguments)?.words;
        let secrets =
            call.client.namespaced::<Secret>(arguments.flags.namespace.as_deref().unwrap_or(&call.namespace));
        match (flag.map(String::as_str), words.as_slice()) {
            (Some("-o" | "--output"), _) => Ok(owned(&["json", "name", "yaml"])),
            (Some(_), words) => Ok(secrets.get(name(words)?)?.data.unwrap_or_default().into_keys().collect()),
            (None, []) => Ok(owned(&["secret"])),
            (None, [kind]) if is_secret(kind) => secrets.names(),
            (None, _) => Ok(Vec::new()),
        }
    }
}

fn wanted(arguments: &mut Arguments) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Argument::Word(word) => wanted.words.push(word),
            Argument::Flag(flag) if flag == "-k" || flag == "--key" => wanted.key = Some(arguments.value()?),
            Argument::Flag(flag) => return Err(Arguments::unknown(&flag)),
        }
    }
    Ok(wanted)
}

/// The name of the Secret, of `secret NAME` or `secret/NAME`.
fn name(words: &[String]) -> Result<&str> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (kind, name) = match words.as_slice() {
        [both] => both.split_once('/').ok_or_else(|| match is_secret(both) {
            true => Error::usage("the name of a secret is missing"),
            false => Error::usage(format!("{both:?} is nothing that can be decoded: say `secret NAME`")),
        })?,
        [kind, name] => (*kind, *name),
        [] => return Err(Error::usage("say which secret: `secret NAME`")),
        _ => return Err(Error::usage("one secret at a time")),
    };
    match is_secret(kind) {
        true => Ok(name),
        false => Err(Error::usage(format!("{kind:?} is nothing that can be decoded: say `secret NAME`"))),
    }
}

fn is_secret(kind: &str) -> bool {
    matches!(kind, "secret" | "secrets")
}

fn main() -> ExitCode {
    kubectl_plugin::main(&Decoder)
}

#[cfg(test)]
mod tests;
