//! The plugins of a network, run in their order.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value, json};

use crate::{
    attachment::{Attachment, INTERFACE},
    config::{NetworkConfig, PluginConfig},
    exec::{self, PluginError, PluginFailure, Verb},
    result::{self, AddResult, VersionResult},
    version::SpecVersion,
};

/// Longest run of a plugin that does something: what the kubelet gives a container runtime for a whole sandbox.
const ACTION: Duration = Duration::from_secs(4 * 60);
/// Longest run of a plugin that is asked something.
const QUESTION: Duration = Duration::from_secs(30);

/// Why a network could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChainError {
    #[error(transparent)]
    Plugin(#[from] Box<PluginError>),
}

/// A network and where its plugins are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain<'a> {
    pub(crate) network: &'a NetworkConfig,
    pub(crate) bin_dirs: &'a [PathBuf],
}

/// What one run is about, besides the plugin.
#[derive(Clone, Copy, Default)]
struct RunContext<'a> {
    attachment: Option<&'a Attachment>,
    namespace: Option<&'a Path>,
    previous: Option<&'a AddResult>,
    valid: Option<&'a [String]>,
}

impl Chain<'_> {
    /// Attaches a namespace to the network, and returns the result of the last plugin.
    pub(crate) async fn add(
        &self,
        attachment: &Attachment,
        namespace: &Path,
    ) -> Result<AddResult, ChainError> {
        let (attachment, namespace) = (Some(attachment), Some(namespace));
        let mut last: Option<AddResult> = None;
        for plugin in &self.network.plugins {
            let context = RunContext { attachment, namespace, previous: last.as_ref(), valid: None };
            let answer = self.run(plugin, Verb::Add, context).await?;
            let read = result::add(&answer, self.network.version);
            last = Some(read.map_err(|error| failed(plugin, Verb::Add, error.into()))?);
        }
        Ok(last.unwrap_or_default())
    }

    /// Asks whether what was added is there. Fine where nobody can be asked.
    pub(crate) async fn check(
        &self,
        attachment: &Attachment,
        namespace: &Path,
        added: &AddResult,
    ) -> Result<(), ChainError> {
        if self.network.disable_check || !self.network.version.has_check() {
            return Ok(());
        }
        let (attachment, namespace) = (Some(attachment), Some(namespace));
        for plugin in &self.network.plugins {
            let context = RunContext { attachment, namespace, previous: Some(added), valid: None };
            self.run(plugin, Verb::Check, context).await?;
        }
        Ok(())
    }

    /// Takes away what was added, or was begun to be, the last first. The namespace may be gone.
    pub(crate) async fn del(
        &self,
        attachment: &Attachment,
        namespace: Option<&Path>,
        added: Option<&AddResult>,
    ) -> Result<(), ChainError> {
        let previous = added.filter(|_| self.network.version.has_check());
        for plugin in self.network.plugins.iter().rev() {
            let context = RunContext { attachment: Some(attachment), namespace, previous, valid: None };
            self.run(plugin, Verb::Del, context).await?;
        }
        Ok(())
    }

    /// Has plugins take away what is of none of these containers. All of them are asked; the first error is told. Nothing
    /// happens where the network does not want it, or its version does not know of it.
    pub(crate) async fn gc(&self, containers: &[String]) -> Result<(), ChainError> {
        if self.network.disable_gc || !self.network.version.has_status_and_gc() {
            return Ok(());
        }
        let context = RunContext { valid: Some(containers), ..RunContext::default() };
        let mut all = Ok(());
        for plugin in &self.network.plugins {
            let done = self.run(plugin, Verb::Gc, context).await;
            all = all.and(done.map(|_| ()));
        }
        all
    }

    /// Asks whether pods can be attached.
    pub(crate) async fn status(&self) -> Result<(), ChainError> {
        for plugin in &self.network.plugins {
            if self.network.version.has_status_and_gc() {
                self.run(plugin, Verb::Status, RunContext::default()).await?;
            } else {
                self.program(plugin, Verb::Status).await?;
            }
        }
        Ok(())
    }

    /// Finds out whether all plugins are there and speak the version of the network's configuration.
    pub(crate) async fn validate(&self) -> Result<(), ChainError> {
        for plugin in &self.network.plugins {
            let answer = self.run(plugin, Verb::Version, RunContext::default()).await?;
            let spoken = serde_json::from_slice::<VersionResult>(&answer);
            let spoken = spoken.map(|answer| answer.supported_versions).unwrap_or_default();
            let wanted = self.network.version.as_str();
            if !spoken.iter().any(|version| version == wanted) {
                let spoken: String = spoken.join(", ").chars().take(200).collect();
                return Err(failed(plugin, Verb::Version, PluginFailure::Version { spoken, wanted }));
            }
        }
        Ok(())
    }

    async fn run(
        &self,
        plugin: &PluginConfig,
        verb: Verb,
        context: RunContext<'_>,
    ) -> Result<Vec<u8>, ChainError> {
        let program = self.program(plugin, verb).await?;
        let (variables, input) = (self.variables(verb, context), self.input(plugin, verb, context));
        let within = match verb {
            Verb::Add | Verb::Check | Verb::Del | Verb::Gc => ACTION,
            Verb::Status | Verb::Version => QUESTION,
        };
        let answer = exec::run(&program, &variables, &input, within).await;
        answer.map_err(|failure| failed(plugin, verb, failure))
    }

    async fn program(&self, plugin: &PluginConfig, verb: Verb) -> Result<PathBuf, ChainError> {
        let (kind, dirs) = (plugin.kind.clone(), self.bin_dirs.to_vec());
        let found = tokio::task::spawn_blocking(move || exec::find(&kind, &dirs)).await;
        let found = found.unwrap_or_else(|error| Err(PluginFailure::Spawn(std::io::Error::other(error))));
        found.map_err(|failure| failed(plugin, verb, failure))
    }

    fn variables(&self, verb: Verb, context: RunContext<'_>) -> Vec<(&'static str, String)> {
        let dirs: Vec<_> = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
        let mut variables = vec![("CNI_COMMAND", verb.command().to_owned()), ("CNI_PATH", dirs.join(":"))];
        if let Some(attachment) = context.attachment {
            let namespace = context.namespace.map(|path| path.display().to_string());
            variables.extend([
                ("CNI_CONTAINERID", attachment.container_id.clone()),
                ("CNI_NETNS", namespace.unwrap_or_default()),
                ("CNI_IFNAME", INTERFACE.to_owned()),
                ("CNI_ARGS", attachment.arguments()),
            ]);
        }
        variables
    }

    /// The configuration of a plugin for one run.
    fn input(&self, plugin: &PluginConfig, verb: Verb, context: RunContext<'_>) -> Vec<u8> {
        if verb == Verb::Version {
            return json!({ "cniVersion": SpecVersion::NEWEST }).to_string().into_bytes();
        }
        let mut input: Map<String, Value> = plugin.object.clone();
        input.insert("name".to_owned(), self.network.name.clone().into());
        input.insert("cniVersion".to_owned(), self.network.version.as_str().into());
        let arguments = context.attachment.map(|attachment| plugin.arguments(&attachment.capabilities));
        if let Some(arguments) = arguments.filter(|arguments| !arguments.is_empty()) {
            input.insert("runtimeConfig".to_owned(), arguments.into());
        }
        if let Some(previous) = context.previous {
            input.insert("prevResult".to_owned(), previous.clone().into());
        }
        if let Some(valid) = context.valid {
            let of = |id: &String| json!({ "containerID": id, "ifname": INTERFACE });
            input.insert("cni.dev/valid-attachments".to_owned(), valid.iter().map(of).collect());
        }
        Value::Object(input).to_string().into_bytes()
    }
}

fn failed(plugin: &PluginConfig, verb: Verb, failure: PluginFailure) -> ChainError {
    Box::new(PluginError { plugin: plugin.kind.clone(), verb, failure }).into()
}

#[cfg(test)]
mod tests;
