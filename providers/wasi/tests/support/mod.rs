//! Lets a test program be a worker or a compiler: it is started again as its own test `process`, which does
//! nothing unless arguments follow a `--`.

use std::path::PathBuf;

use kubewasm_wasi::{
    compile,
    program::Program,
    protocol::Versions,
    worker::{self, WorkerOptions},
};

/// The running test program, as the program whose subcommands are workers and compilers. It must have a test
/// named `process` that calls [`process`].
pub(crate) fn program() -> Program {
    let this = Program::new(std::env::current_exe().unwrap());
    // One thread at a time makes the test run on the main thread, with no other beside it: workers want that.
    this.arg("process").arg("--exact").arg("--nocapture").arg("-q").arg("--test-threads=1").arg("--")
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
pub(crate) fn process() {
    let mut args: Vec<String> = std::env::args().skip_while(|arg| arg != "--").skip(1).collect();
    let versions = args.first().and_then(|arg| arg.strip_prefix("--versions=")).map(versions);
    if versions.is_some() {
        args.remove(0);
    }
    let value = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1).unwrap();
    let path = |name: &str| PathBuf::from(value(name));
    match args.first().map(String::as_str) {
        None => {}
        Some("worker") => {
            let mut options = WorkerOptions::new(path("--socket"));
            options.with_parent = args.iter().any(|arg| arg == "--with-parent");
            options.default_memory_limit = value("--default-memory-limit").parse().unwrap();
            let hidden = args.windows(2).filter(|pair| pair[0] == "--hidden");
            options.hidden = hidden.map(|pair| PathBuf::from(&pair[1])).collect();
            options.log.max_size = value("--log-max-size").parse().unwrap();
            options.versions = versions.unwrap_or(Versions::OURS);
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
