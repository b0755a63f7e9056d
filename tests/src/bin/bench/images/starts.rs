//! The first start of a module on a node, which pulls and compiles it, against the second.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kubewasm_tests::progress::Step;
use serde::Serialize;

use super::Site;
use crate::{pods::Pods, quantiles::Quantiles};

/// How often a new module is started, and started again.
const ROUNDS: usize = 5;

/// Time for one pod to run, compilation included.
const ONE: Duration = Duration::from_secs(240);

/// Starts of the modules of one language.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GuestStarts {
    /// What it was written in.
    pub(crate) language: String,
    /// Size of the module.
    pub(crate) module_bytes: usize,
    /// From seen bound to seen Running, of a module that is new to the node.
    pub(crate) first_ms: Quantiles,
    /// The same of the next pod of the same image.
    pub(crate) second_ms: Quantiles,
}

/// Starts new modules and starts each again, one pod after the other.
///
/// # Errors
/// When a pod does not come to run, or cannot be removed.
pub(crate) async fn measure(site: Site<'_>, language: &str, module: &[u8]) -> Result<GuestStarts> {
    let step = Step::begin(&format!("first and second starts of {ROUNDS} modules of {language}"));
    let kind = language.to_lowercase();
    let (first, second) = (format!("{kind}-first"), format!("{kind}-second"));
    let mut rounds = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let name = format!("{kind}-{round}:v1");
        let image = super::push_new(site.registry, &name, module, &format!("starts {round}")).await?;
        rounds.push(Pods::new(site.client, &image));
    }
    let any = rounds.first().context("there is always a round")?;
    let (mut of_first, mut of_second) = (any.observe(&first).await?, any.observe(&second).await?);
    let mut durations = (Vec::new(), Vec::new());
    for (round, pods) in rounds.iter().enumerate() {
        pods.create(&first, site.node.name(), round).await?;
        durations.0 = of_first.running(round + 1, ONE).await?.durations();
        pods.create(&second, site.node.name(), round).await?;
        durations.1 = of_second.running(round + 1, ONE).await?.durations();
    }
    any.remove(&first, of_first).await?;
    any.remove(&second, of_second).await?;
    step.done();
    Ok(GuestStarts {
        language: language.to_owned(),
        module_bytes: module.len(),
        first_ms: Quantiles::of(durations.0).context("no pod was measured")?,
        second_ms: Quantiles::of(durations.1).context("no pod was measured")?,
    })
}
