//! `kubectl podwatch`: prints what happens to pods, as it happens.
//!
//! ```text
//!   API server ─list, watch─► Watcher ─Event<Pod>─► [row] PodRow ─► lines of a table, or of JSON
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::process::ExitCode;

use kubectl_plugin::k8s_openapi::api::core::v1::Pod;
use kubectl_plugin::{Argument, Arguments, Call, CommonFlag, Error, ListOptions, Output, Plugin, Result};

mod printer;
mod row;

use printer::Printer;

const HELP: &str = "\
Print what happens to pods, as it happens: those that there are first, then every change, until Ctrl-C. It goes on when the
connection breaks or the API server restarts, and tells what happened meanwhile.

Examples:
  # Follow the pods of the namespace
  kubectl podwatch

  # Follow the pods of a label in all namespaces
  kubectl podwatch -A -l app=web

  # Follow one pod, as JSON with one event on each line
  kubectl podwatch web-0 -o json

Options:
  -A, --all-namespaces         The pods of all namespaces
      --field-selector QUERY   Those with these fields, as spec.nodeName=n1
  -n, --namespace NAME         The pods of this namespace
      --no-headers             Print no headings
  -o, --output FORMAT          wide, json or name
  -l, --selector QUERY         Those with these labels
      --context, --kubeconfig, --cluster, --user, --as, --as-uid, --as-group
                               As those of kubectl

Usage:
  kubectl podwatch [NAME] [options]
";

const FLAGS: &[CommonFlag] = &[
    CommonFlag::AllNamespaces,
    CommonFlag::FieldSelector,
    CommonFlag::Namespace,
    CommonFlag::NoHeaders,
    CommonFlag::Output,
    CommonFlag::Selector,
    // What it does anyway.
    CommonFlag::Watch,
];

struct PodWatch;

impl Plugin for PodWatch {
    const HELP: &'static str = HELP;

    fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut arguments = Arguments::new(call.words.clone(), FLAGS);
        let name = name(&mut arguments)?;
        let flags = &arguments.flags;
        if flags.output == Output::Yaml {
            return Err(Error::usage("events have no form in YAML: -o json has each on a line"));
        }
        let selected = selected(&flags.selected, name, flags.all_namespaces)?;
        let pods = call.client.within::<Pod>(call.namespace(flags));
        let mut printer = Printer::new(flags, call.colours);
        let mut events = pods.watch(&selected);
        while let Some(event) = events.next() {
            printer.add(event?, (call.now)(), call.out, call.err)?;
            if !events.is_ready() {
                printer.print(call.out)?;
            }
        }
        Ok(())
    }

    fn complete(&self, call: &mut Call<'_>) -> Result<Vec<String>> {
        let Some((_, before)) = call.words.split_last() else { return Ok(Vec::new()) };
        if before.last().is_some_and(|flag| flag == "-o" || flag == "--output") {
            return Ok(["json", "name", "wide"].map(str::to_owned).to_vec());
        }
        let mut arguments = Arguments::new(before.to_vec(), FLAGS);
        match (name(&mut arguments)?, call.namespace(&arguments.flags)) {
            (None, Some(namespace)) => call.client.namespaced::<Pod>(namespace).names(),
            _ => Ok(Vec::new()),
        }
    }
}

fn name(arguments: &mut Arguments) -> Result<Option<String>> {
    let mut name = None;
    while let Some(argument) = arguments.next()? {
        match argument {
            Argument::Word(word) if name.is_none() => name = Some(word),
            Argument::Word(_) => {
                return Err(Error::usage("one pod, or all: -l and --field-selector choose some"));
            }
            Argument::Flag(flag) => return Err(Arguments::unknown(&flag)),
        }
    }
    Ok(name)
}

/// What is asked for, of a pod by its name the same as by that field.
fn selected(given: &ListOptions, name: Option<String>, everywhere: bool) -> Result<ListOptions> {
    let mut selected = given.clone();
    if let Some(name) = name {
        if everywhere {
            return Err(Error::usage("a pod cannot be named across all namespaces"));
        }
        if !selected.fields.is_empty() {
            selected.fields.push(',');
        }
        selected.fields.push_str("metadata.name=");
        selected.fields.push_str(&name);
    }
    Ok(selected)
}

fn main() -> ExitCode {
    kubectl_plugin::main(&PodWatch)
}

#[cfg(test)]
mod tests;
