//! The program that workers and compilers of these tests are: `program.rs` here. Not the test program itself, because
//! a worker wants to be the only thread of its process when it starts, and tests are run by other threads than the
//! main one.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use kubewasm_host::{
    compile::{self, ChildOptions},
    program::Program,
};
use kubewasm_wasi::{
    mounter::{self, MounterOptions},
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
    let path = |name: &str| PathBuf::from(value(&args, name));
    match args.iter().map(String::as_str).find(|arg| *arg != NO_MOUNTS) {
        None => {}
        Some("worker") => {
            if let Err(error) = worker::run(worker_options(&args, versions)) {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
        Some("inside") => inside(worker_options(&args, versions), &args),
        Some("mounter") => {
            let no_mounts = args.iter().any(|arg| arg == NO_MOUNTS);
            let confinement = value(&args, "--confinement").parse().unwrap();
            if let Err(error) = mounter::run(&MounterOptions { dir: path("--dir"), no_mounts, confinement }) {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
        Some("compile") => {
            let has = |flag: &str| args.iter().any(|arg| arg == flag);
            let options = ChildOptions { confined: has("--confined"), check: has("--check") };
            if let Err(error) = compile::child_main(options) {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
        Some(other) => panic!("unknown subcommand {other}"),
    }
}

fn value<'a>(args: &'a [String], name: &str) -> &'a str {
    args.iter().skip_while(|arg| *arg != name).nth(1).unwrap()
}

fn values<'a>(args: &'a [String], name: &'a str) -> impl Iterator<Item = &'a str> {
    args.windows(2).filter(move |pair| pair[0] == name).map(|pair| pair[1].as_str())
}

fn worker_options(args: &[String], versions: Option<Versions>) -> WorkerOptions {
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let mut options = WorkerOptions::new(value(args, "--socket"));
    options.with_parent = has("--with-parent");
    options.default_memory_limit = value(args, "--default-memory-limit").parse().unwrap();
    options.hidden = values(args, "--hidden").map(PathBuf::from).collect();
    options.shown = values(args, "--shown").map(PathBuf::from).collect();
    options.confinement = value(args, "--confinement").parse().unwrap();
    options.no_mounts = has(NO_MOUNTS);
    options.own_network = has("--own-network");
    options.check = has("--check");
    options.log.max_size = value(args, "--log-max-size").parse().unwrap();
    options.log.max_files = value(args, "--log-max-files").parse().unwrap();
    options.versions = versions.unwrap_or(Versions::OURS);
    options
}

/// Becomes a worker, as far as one is confined, and says of everything behind `--try` what comes of it.
fn inside(options: WorkerOptions, args: &[String]) {
    let confined = worker::confine(options).unwrap();
    for attempt in values(args, "--try") {
        let (what, path) = attempt.split_once(':').unwrap_or((attempt, ""));
        let result = match what {
            "read" => std::fs::read(path).map(drop),
            "list" => std::fs::read_dir(path).map(drop),
            "write" => std::fs::OpenOptions::new().append(true).open(path).map(drop),
            "create" => std::fs::File::create(path).map(drop),
            "connect" => std::os::unix::net::UnixStream::connect(path).map(drop),
            "mount" => nix::mount::mount(
                Some("none"),
                path,
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                None::<&str>,
            )
            .map_err(Into::into),
            "unmount" => nix::mount::umount(path).map_err(Into::into),
            "look-up" => std::net::ToSocketAddrs::to_socket_addrs(&(path, 1)).map(drop),
            "capabilities" => {
                let all = rustix::thread::capabilities(None).unwrap();
                println!("{attempt}: {:x}", (all.effective | all.permitted | all.inheritable).bits());
                continue;
            }
            other => panic!("unknown attempt {other}"),
        };
        match result {
            Ok(()) => println!("{attempt}: done"),
            Err(error) => println!("{attempt}: {:?}", error.kind()),
        }
    }
    drop(confined);
}
