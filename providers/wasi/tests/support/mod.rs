//! Lets a test program be a worker or a compiler: it is started again as its own test `process`, which does
//! nothing unless arguments follow a `--`.

use std::path::PathBuf;

use kubewasm_wasi::{
    compile,
    program::Program,
    worker::{self, WorkerOptions},
};

/// The running test program, as the program whose subcommands are workers and compilers. It must have a test
/// named `process` that calls [`process`].
pub(crate) fn program() -> Program {
    let this = Program::new(std::env::current_exe().unwrap());
    this.arg("process").arg("--exact").arg("--nocapture").arg("-q").arg("--")
}

/// What the program does when it is started as one of its subcommands.
pub(crate) fn process() {
    let args: Vec<String> = std::env::args().skip_while(|arg| arg != "--").skip(1).collect();
    let value = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1).unwrap();
    let path = |name: &str| PathBuf::from(value(name));
    match args.first().map(String::as_str) {
        None => {}
        Some("worker") => {
            let mut options = WorkerOptions::new(path("--socket"));
            options.with_parent = args.iter().any(|arg| arg == "--with-parent");
            options.default_memory_limit = value("--default-memory-limit").parse().unwrap();
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
