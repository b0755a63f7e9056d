//! The program that workers and compilers of these tests are: `program.rs` here. Not the test program itself, because
//! a worker wants to be the only thread of its process when it starts, and tests are run by other threads than the
//! main one.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use kubewasm_host::{compile, program::Program};
use kubewasm_wasi::{
    protocol::Versions,
    worker::{self, WorkerOptions},
};

/// Waits until there is what is looked for. What does not come `within` this fails the test.
#[allow(dead_code, reason = "the program that this is a part of awaits nothing")]
pub(crate) async fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < within, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Put behind [`program`], makes workers that mount nothing.
#[allow(dead_code, reason = "not every user of this module needs all of it")]
pub(crate) const NO_MOUNTS: &str = "--no-mounts";

/// The program whose subcommands are workers and compilers.
#[allow(dead_code, reason = "not every user of this module needs all of it")]
pub(crate) fn program() -> Program {
    as_process(Program::new(path()))
}

/// Where that program is.
#[allow(dead_code, reason = "not every user of this module needs all of it")]
#[allow(
    clippy::option_env_unwrap,
    reason = "the program itself, which needs no path, is compiled without it"
)]
pub(crate) fn path() -> PathBuf {
    option_env!("CARGO_BIN_EXE_kubewasm-wasi-process").expect("cargo built it").into()
}

/// A program that starts that one, with what it takes to understand a subcommand.
#[allow(dead_code, reason = "not every user of this module needs all of it")]
pub(crate) fn as_process(program: Program) -> Program {
    program.arg("--")
}

/// [`program`], as if it were of another age.
#[allow(dead_code, reason = "not every test program has workers of other ages")]
pub(crate) fn program_of(versions: Versions) -> Program {
    program().arg(format!("--versions={}-{}", versions.min, versions.max))
}

fn versions(text: &str) -> Versions {
    let (min, max) = text.split_once('-').unwrap();
    Versions { min: min.parse().unwrap(), max: max.parse().unwrap() }
}

/// What the program does when it is started as one of its subcommands.
#[allow(dead_code, reason = "not every user of this module needs all of it")]
pub(crate) fn process() {
    let mut args: Vec<String> = std::env::args().skip_while(|arg| arg != "--").skip(1).collect();
    let versions = args.first().and_then(|arg| arg.strip_prefix("--versions=")).map(versions);
    if versions.is_some() {
        args.remove(0);
    }
    let value = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1).unwrap();
    let path = |name: &str| PathBuf::from(value(name));
    match args.iter().map(String::as_str).find(|arg| *arg != NO_MOUNTS) {
        None => {}
        Some("worker") => {
            let mut options = WorkerOptions::new(path("--socket"));
            options.with_parent = args.iter().any(|arg| arg == "--with-parent");
            options.default_memory_limit = value("--default-memory-limit").parse().unwrap();
            let hidden = args.windows(2).filter(|pair| pair[0] == "--hidden");
            options.hidden = hidden.map(|pair| PathBuf::from(&pair[1])).collect();
            options.no_mounts = args.iter().any(|arg| arg == NO_MOUNTS);
            options.log.max_size = value("--log-max-size").parse().unwrap();
            options.versions = versions.unwrap_or(Versions::OURS);
            options.log.max_files = value("--log-max-files").parse().unwrap();
            worker::run(options).unwrap();
        }
        Some("compile") => {
            if let Err(error) = compile::child_main() {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
        Some(other) => panic!("unknown subcommand {other}"),
    }
}
