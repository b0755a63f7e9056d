//! The file of policies, and what of it is served.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures::future::join_all;
use kubewasm_policy::{
    policies,
    server::{failure::LoadFailure, registry::PolicyRegistry},
    spec::Spec,
};

use super::super::settings::document;

/// How long after a failure that may pass it is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// The file, as it was last seen.
#[derive(Debug)]
pub(super) struct PolicyFile {
    path: PathBuf,
    /// Policies that cannot be loaded are refusals.
    continue_on_errors: bool,
    /// What was last in it, good or not.
    text: Vec<u8>,
    /// What it was good for.
    specs: BTreeMap<String, Spec>,
    /// What of that has to be tried again, and when.
    again: Option<(Instant, Vec<String>)>,
}

type Failures = Vec<(String, LoadFailure)>;

impl PolicyFile {
    pub(super) fn new(path: PathBuf, continue_on_errors: bool) -> Self {
        Self { path, continue_on_errors, text: Vec::new(), specs: BTreeMap::new(), again: None }
    }

    /// What is in the file.
    pub(super) async fn read(&mut self) -> anyhow::Result<BTreeMap<String, Spec>> {
        self.text = document(&self.path).await?;
        policies::parse(&self.text).with_context(|| format!("cannot use {}", self.path.display()))
    }

    /// Loads all policies for the first time.
    pub(super) async fn load(
        &mut self,
        registry: &PolicyRegistry,
        specs: BTreeMap<String, Spec>,
    ) -> anyhow::Result<()> {
        let failures = put(registry, &specs).await;
        self.specs = specs;
        if !failures.is_empty() && !self.continue_on_errors {
            let list: String = failures.iter().map(|(id, failure)| format!("\n  {id}: {failure}")).collect();
            bail!("{} of {} policies cannot be served:{list}", failures.len(), self.specs.len());
        }
        self.settle(registry, failures);
        Ok(())
    }

    /// Looks whether the file has changed, and serves what it says then; what cannot be loaded is served as it was. When asked,
    /// all policies are loaded again, since modules may have changed.
    pub(super) async fn look(&mut self, registry: &PolicyRegistry, is_asked: bool) {
        match document(&self.path).await {
            Ok(text) if text != self.text || is_asked => {
                self.text = text;
                match policies::parse(&self.text) {
                    Ok(specs) => self.change(registry, specs, is_asked).await,
                    Err(error) => {
                        tracing::error!(file = %self.path.display(), %error, "the new policies cannot be used; the old ones go on");
                    }
                }
            }
            Ok(_) => self.try_again(registry).await,
            Err(error) => {
                // Once; it may be about to be replaced.
                if !self.text.is_empty() {
                    tracing::error!(error = %format!("{error:#}"), "the policies cannot be read; the old ones go on");
                    self.text = Vec::new();
                }
            }
        }
    }

    async fn change(&mut self, registry: &PolicyRegistry, specs: BTreeMap<String, Spec>, all: bool) {
        let gone: Vec<String> = registry.ids().into_iter().filter(|id| !specs.contains_key(id)).collect();
        let changed = specs.iter().filter(|(id, spec)| all || self.specs.get(*id) != Some(*spec));
        let changed: BTreeMap<String, Spec> = changed.map(|(id, spec)| (id.clone(), spec.clone())).collect();
        let failures = put(registry, &changed).await;
        for id in &gone {
            registry.remove(id);
        }
        tracing::info!(
            changed = changed.len() - failures.len(),
            failed = failures.len(),
            removed = gone.len(),
            "the policies were read again"
        );
        self.specs = specs;
        self.settle(registry, failures);
    }

    /// Tells what has failed, and notes what of it is to be tried again.
    fn settle(&mut self, registry: &PolicyRegistry, failures: Failures) {
        let mut again = Vec::new();
        for (id, failure) in failures {
            tracing::error!(policy = %id, error = %failure, "a policy cannot be loaded");
            if self.continue_on_errors {
                registry.refuse_unless_served(&id, &failure.to_string());
            }
            if failure.is_transient() {
                again.push(id);
            }
        }
        self.again = (!again.is_empty()).then(|| (Instant::now() + RETRY, again));
    }

    async fn try_again(&mut self, registry: &PolicyRegistry) {
        let Some((_, ids)) = self.again.take_if(|(at, _)| *at <= Instant::now()) else { return };
        let specs: BTreeMap<String, Spec> =
            ids.into_iter().filter_map(|id| Some((id.clone(), self.specs.get(&id)?.clone()))).collect();
        let failures = put(registry, &specs).await;
        self.settle(registry, failures);
    }
}

/// Puts all of them, and returns those that cannot be.
async fn put(registry: &PolicyRegistry, specs: &BTreeMap<String, Spec>) -> Failures {
    let put = specs.iter().map(|(id, spec)| async move {
        let failure = registry.put(id, spec.clone()).await.err()?;
        Some((id.clone(), failure))
    });
    join_all(put).await.into_iter().flatten().collect()
}
