//! What a worker gives up before it hosts anything.
//!
//! A guest is held by its sandbox. What is given up here is for the day on which one gets out of it: the process
//! that it finds itself in has no credentials and no files of its parent's open, cannot become anything else,
//! and cannot ask the kernel for what hosting guests never needs. Everything is given up by the first thread,
//! from which all others come.
//!
//! Where the host does not allow a measure, the worker runs without it, and says so: in its log, and in Hello.

mod hide;
mod syscalls;

use std::{io, path::Path};

use kubewasm_host::confine;
use rustix::thread::CapabilitySet;

use super::WorkerOptions;

/// What a worker of root's keeps of root's power:
/// - `SYS_ADMIN` mounts its guests' files;
/// - the three that follow let it use what belongs to other users, as volumes may;
/// - `NET_BIND_SERVICE` lets guests of the host's network listen below port 1024.
const KEPT: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::SYS_ADMIN, "sys_admin"),
    (CapabilitySet::CHOWN, "chown"),
    (CapabilitySet::DAC_OVERRIDE, "dac_override"),
    (CapabilitySet::FOWNER, "fowner"),
    (CapabilitySet::FSETID, "fsetid"),
    (CapabilitySet::NET_BIND_SERVICE, "net_bind_service"),
];
/// The kernel that has no memory left ends workers before it ends their agent, and never the machine's own
/// daemons before them.
const OOM_SCORE: i16 = 500;

/// Gives something up, and says what.
type Measure = fn() -> io::Result<String>;

/// Gives up everything that can be, and says what that was. `mounts`: the process has a mount namespace of its
/// own.
pub(super) fn apply(options: &WorkerOptions, mounts: bool) -> Vec<String> {
    let home = options.socket.parent().unwrap_or(Path::new("."));
    let hidden = match mounts {
        true => hide::hide(&options.hidden, home),
        false => Err(io::Error::other("it has no mount namespace of its own")),
    };
    let measures: [(&str, Measure); 6] = [
        ("oom score", oom_score),
        ("core dumps", core_dumps),
        ("tracing", tracing),
        ("capabilities", capabilities),
        ("new privileges", new_privileges),
        ("system calls", syscalls::refuse),
    ];
    let say = |(name, result): (&str, io::Result<String>)| match result {
        Ok(text) => format!("{name}: {text}"),
        Err(error) => format!("{name}: not restricted, because the host does not allow it ({error})"),
    };
    let measured = measures.into_iter().map(|(name, measure)| (name, measure()));
    std::iter::once(("hidden files", hidden)).chain(measured).map(say).collect()
}

fn oom_score() -> io::Result<String> {
    confine::oom_score(OOM_SCORE)?;
    Ok(OOM_SCORE.to_string())
}

fn core_dumps() -> io::Result<String> {
    confine::no_core_dumps()?;
    Ok("none".to_owned())
}

/// Root's alone: for others, a process that cannot be looked at cannot look at itself either.
fn tracing() -> io::Result<String> {
    if !rustix::process::geteuid().is_root() {
        return Ok("by the same user".to_owned());
    }
    confine::no_tracing()?;
    Ok("by root".to_owned())
}

fn capabilities() -> io::Result<String> {
    let keep = KEPT.iter().fold(CapabilitySet::empty(), |all, (capability, _)| all | *capability);
    let left = confine::keep_capabilities(keep)?;
    let names: Vec<_> = KEPT.iter().filter(|(one, _)| left.contains(*one)).map(|(_, name)| *name).collect();
    Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

fn new_privileges() -> io::Result<String> {
    confine::no_new_privileges()?;
    Ok("none".to_owned())
}
