//! The program that workers and compilers of these tests are: `program.rs` here. Not the test program itself, because
//! a worker wants to be the only thread of its process when it starts, and tests are run by other threads than the
//! main one.

use std::path::PathBuf;

use kubewasm_wasi::{
    compile,
    program::Program,
    worker::{self, WorkerOptions},
};

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

/// What the program does when it is started as one of its subcommands.
#[allow(dead_code, reason = "not every user of this module needs all of it")]
pub(crate) fn process() {
    let args: Vec<String> = std::env::args().skip_while(|arg| arg != "--").skip(1).collect();
    let value = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1).unwrap();
    let path = |name: &str| PathBuf::from(value(name));
    match args.iter().map(String::as_str).find(|arg| *arg != NO_MOUNTS) {
        None => {}
        Some("worker") => {
            let mut options = WorkerOptions::new(path("--socket"));
            options.with_parent = args.iter().any(|arg| arg == "--with-parent");
            options.default_memory_limit = value("--default-memory-limit").parse().unwrap();
            options.no_mounts = args.iter().any(|arg| arg == NO_MOUNTS);
            options.log.max_size = value("--log-max-size").parse().unwrap();
            options.log.max_files = value("--log-max-files").parse().unwrap();
            worker::run(options).unwrap();
        }
        Some("compile") => {
            if let Err(error) = compile::child_main(&path("--input"), &path("--output")) {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
        Some(other) => panic!("unknown subcommand {other}"),
    }
}
