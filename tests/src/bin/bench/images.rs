//! What images cost: the first start of a module against its second, many pods of one new module, a pull against `curl`,
//! and guests that run while others are compiled.
//!
//! ```text
//!  starts   ── pods, one by one, each of a new module and again ──► kubewasm node
//!  shared   ── 100 pods of one new module ────────────────────────► (the same) ──► registry ─ its access log
//!  burst    ── 20 pods of 20 new modules, beside guests ──────────► (the same) ──► the guests' own times
//!  pulls    ── kubewasm module pull, curl ─────────────────────────────────────► registry
//! ```

pub(crate) mod burst;
pub(crate) mod generated;
pub(crate) mod pulls;
pub(crate) mod shared;
pub(crate) mod starts;

use anyhow::Result;
use kube::Client;
use kubewasm_tests::{
    guests,
    home::Home,
    node::Node,
    process,
    progress::say,
    registry::{Registry, image::Content},
};
use serde::Serialize;

use self::{burst::CompileBurst, pulls::PullSpeed, shared::SharedImage, starts::GuestStarts};

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Images {
    /// First and second starts of a guest of C, and of one of Go where that is installed.
    pub(crate) starts: Vec<GuestStarts>,
    /// Many pods of one new module.
    pub(crate) shared: SharedImage,
    /// Guests that run while others are compiled.
    pub(crate) burst: CompileBurst,
    /// How fast images are pulled, by what they are made of.
    pub(crate) pulls: Vec<PullSpeed>,
}

/// Where images come from and where they go to.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    /// The API server.
    pub(crate) client: &'a Client,
    /// The registry.
    pub(crate) registry: &'a Registry,
    /// The node.
    pub(crate) node: &'a Node,
}

/// Measures all of it.
///
/// # Errors
/// When a pod does not come to run, or an image cannot be pushed or pulled.
pub(crate) async fn measure(home: &Home, site: Site<'_>) -> Result<Images> {
    let mut guests = vec![("C", guests::guest("actor.c").await?)];
    match guests::guest("clerk.go").await {
        Ok(module) => guests.push(("Go", module)),
        Err(error) => say(&format!("  going on without a guest of Go: {error:#}")),
    }
    let mut starts = Vec::with_capacity(guests.len());
    for (language, module) in &guests {
        starts.push(starts::measure(site, language, module).await?);
    }
    let shared = shared::measure(site).await?;
    let burst = burst::measure(site).await?;
    let curl = process::find_program("curl");
    if curl.is_none() {
        say("  going on without curl: it is not installed");
    }
    let pulls = pulls::measure(home, site.registry, curl.as_deref()).await?;
    Ok(Images { starts, shared, burst, pulls })
}

/// Pushes a module that no node has seen: `module` with `mark` in it, in an image as builders make them. Returns the image's
/// name.
async fn push_new(registry: &Registry, name: &str, module: &[u8], mark: &str) -> Result<String> {
    let new = guests::with_section(module, mark.as_bytes());
    Ok(registry.push(name, &Content::program("main", new)).await?.tagged)
}
