//! The `wasmtime` command, for measuring the same guest on it: what a guest costs without a node around it.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use kubewasm_tests::{
    guests, process,
    progress::{Step, say},
};

/// The version that the node is built with, so that both run the same code.
const VERSION: &str = "48.0.8";

/// What it is built with: little more than what is measured, because the rest takes as long again.
const FEATURES: [&str; 12] = [
    "backtrace",
    "cache",
    "component-model",
    "component-model-async",
    "cranelift",
    "gc",
    "gc-copying",
    "parallel-compilation",
    "pooling-allocator",
    "run",
    "serve",
    "threads",
];

/// `$WASMTIME`, or the one in the folder of tools, which is built when it is not there: some minutes, once.
/// Where that is not possible the report goes without it, and the reason is said.
pub(crate) async fn find() -> Option<PathBuf> {
    match find_or_build().await {
        Ok(program) => Some(program),
        Err(error) => {
            say(&format!("  going on without wasmtime: {error:#}"));
            None
        }
    }
}

async fn find_or_build() -> Result<PathBuf> {
    if let Some(program) = env::var_os("WASMTIME").filter(|value| !value.is_empty()) {
        let program = PathBuf::from(program);
        process::run(&program, &["--version"]).await.context("$WASMTIME does not run")?;
        return Ok(program);
    }
    let tools = guests::cache()?.join(format!("tools/wasmtime-{VERSION}-{}", FEATURES.len()));
    let program = tools.join("bin/wasmtime");
    if !is_right(&program).await {
        let step = Step::begin(&format!("building wasmtime-cli {VERSION}, once (takes minutes)"));
        let tools = tools.display().to_string();
        let package = format!("wasmtime-cli@{VERSION}");
        let features = FEATURES.join(",");
        let arguments = [
            "-n",
            "19",
            "cargo",
            "install",
            "--locked",
            "--force",
            "--root",
            &tools,
            &package,
            "--no-default-features",
            "--features",
            &features,
        ];
        let nice = process::find_program("nice").context("there is no `nice`")?;
        process::run(&nice, &arguments).await.context("set WASMTIME to a wasmtime of yours")?;
        step.done();
    }
    Ok(program)
}

async fn is_right(program: &Path) -> bool {
    let version = process::run(program, &["--version"]).await;
    version.is_ok_and(|version| version.split_whitespace().nth(1) == Some(VERSION))
}
