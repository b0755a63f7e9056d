//! Events as lines.

use std::{collections::BTreeMap, io::Write};

use kubectl_plugin::k8s_openapi::api::core::v1::Pod;
use kubectl_plugin::{CommonFlags, Event, Identity, Output, Result, Table, Timestamp, visible};
use serde_json::json;

use crate::row::PodRow;

const GREEN: &str = "\u{1b}[32m";
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

/// The longest word for what happens, and the longest of the common states: lines that come later stand below those before.
const WIDEST: [&str; 2] = ["MODIFIED", "ContainerCreating"];

/// Prints events, and knows how every pod looked at last, for those that go while nobody can watch.
pub(crate) struct Printer {
    table: Table,
    output: Output,
    has_namespaces: bool,
    colours: bool,
    seen: BTreeMap<String, PodRow>,
    /// Lines that are not printed yet, each with its colour.
    waiting: Vec<(&'static str, Vec<String>)>,
}

impl Printer {
    pub(crate) fn new(flags: &CommonFlags, colours: bool) -> Self {
        let mut printer = Self {
            table: Table::new(),
            output: flags.output,
            has_namespaces: flags.all_namespaces,
            colours,
            seen: BTreeMap::new(),
            waiting: Vec::new(),
        };
        let mut widest = PodRow::heading();
        if let Some(status) = widest.get_mut(PodRow::STATUS) {
            WIDEST[1].clone_into(status);
        }
        printer.table = Table::new().with_room_for(&printer.cells(&widest, WIDEST[0]));
        if !flags.no_headers && matches!(flags.output, Output::Human | Output::Wide) {
            printer.waiting.push(("", printer.cells(&PodRow::heading(), "EVENT")));
        }
        printer
    }

    /// Takes one event. What is no event of a pod goes to `err`.
    pub(crate) fn add(
        &mut self,
        event: Event<Pod>,
        now: Timestamp,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<()> {
        let (kind, identity, pod) = match event {
            Event::Added(pod) => ("ADDED", None, Some(pod)),
            Event::Modified(pod) => ("MODIFIED", None, Some(pod)),
            Event::Deleted { identity, last } => ("DELETED", Some(identity), last),
            Event::Interrupted { reason, pause } => {
                let seconds = pause.as_secs();
                return Ok(writeln!(err, "{} (trying again in {seconds} s)", visible(&reason))?);
            }
            Event::Resumed => return Ok(writeln!(err, "The watch goes on.")?),
        };
        match self.output {
            Output::Json => {
                let object = match (&pod, &identity) {
                    (Some(pod), _) => json!(pod),
                    (None, identity) => nameless(identity.as_ref()),
                };
                writeln!(out, "{}", json!({"type": kind, "object": object}))?;
            }
            Output::Name => {
                let name = pod.and_then(|pod| pod.metadata.name).or(identity.map(|identity| identity.name));
                writeln!(out, "pod/{}", name.unwrap_or_default())?;
            }
            _ => self.add_row(kind, identity, pod, now),
        }
        Ok(())
    }

    fn add_row(&mut self, kind: &str, identity: Option<Identity>, pod: Option<Pod>, now: Timestamp) {
        let uid = match (&identity, &pod) {
            (Some(identity), _) => identity.uid.clone(),
            (None, pod) => pod.as_ref().and_then(|pod| pod.metadata.uid.clone()).unwrap_or_default(),
        };
        let before = if kind == "DELETED" { self.seen.remove(&uid) } else { None };
        // A pod that was never seen cannot have gone.
        let Some(row) = pod.as_ref().map(PodRow::of).or(before) else { return };
        let colour = match kind {
            "ADDED" => GREEN,
            "DELETED" => RED,
            _ => "",
        };
        self.waiting.push((colour, self.cells(&row.cells(now), kind)));
        if kind != "DELETED" {
            self.seen.insert(uid, row);
        }
    }

    /// Prints what was taken since the last time, aligned.
    pub(crate) fn print(&mut self, out: &mut dyn Write) -> Result<()> {
        let (colours, lines): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().unzip();
        let text = self.table.lines(&lines);
        for (line, colour) in text.lines().zip(colours) {
            match line.split_once(' ') {
                Some((kind, rest)) if self.colours && !colour.is_empty() => {
                    writeln!(out, "{colour}{kind}{PLAIN} {rest}")?;
                }
                _ => writeln!(out, "{line}")?,
            }
        }
        Ok(out.flush()?)
    }

    /// The columns that are wanted, of all.
    fn cells(&self, row: &[String; PodRow::COLUMNS], kind: &str) -> Vec<String> {
        let [namespace, name, ready, status, restarts, age, node, address] = row.clone();
        let mut cells = vec![kind.to_owned()];
        cells.extend(self.has_namespaces.then_some(namespace));
        cells.extend([name, ready, status, restarts, age, node]);
        cells.extend((self.output == Output::Wide).then_some(address));
        cells
    }
}

/// What is known of a pod that went while nobody could watch.
fn nameless(identity: Option<&Identity>) -> serde_json::Value {
    let Identity { namespace, name, uid, resource_version } = identity.cloned().unwrap_or_default();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
        "namespace": namespace, "name": name, "uid": uid, "resourceVersion": resource_version,
    }})
}
