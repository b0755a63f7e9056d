//! What the compiling child gives up before it looks at the module.
//!
//! All it needs is on its three standard streams, memory and time. So it gives up the rest: root's power and root's
//! name, every file, the network, other processes, and with few exceptions the kernel. Each measure stands alone: where
//! the host does not allow one, the others hold, and the agent is told.

mod syscalls;
mod turns;

use std::io;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr as _, RulesetStatus, Scope,
};
use rustix::{
    fs::{Gid, Uid},
    process::{Resource, Rlimit, Signal},
    thread::CapabilitySet,
};

use super::{ADDRESS_SPACE, CPU_SECONDS};
use crate::confine;

/// The kernel that has no memory left ends compilers first: their work can be done again.
const OOM_SCORE: i16 = 900;
/// Whom the child of a node that runs as root is: nobody.
const NOBODY: u32 = 65534;
/// The newest interface of Landlock that is known here; a kernel has what it has of it.
const LANDLOCK: ABI = ABI::V7;
/// The standard streams, and nothing more.
const FILES: u64 = 3;

/// Gives something up.
type Measure = fn() -> io::Result<()>;

/// Gives up everything that can be; returns what could not, for people. Must be called while the process has one thread.
pub(super) fn enter() -> Vec<String> {
    let measures: [(&str, Measure); 12] = [
        ("inherited files", confine::close_inherited),
        ("oom score", || confine::oom_score(OOM_SCORE)),
        ("resources", resources),
        ("turns on processors", turns::wait_for_others),
        // While it can: what it takes to become nobody does not suffice.
        ("capabilities of programs", || confine::bound_capabilities(CapabilitySet::empty())),
        ("capabilities", || confine::keep_capabilities(user_changes()).map(drop)),
        ("user", become_nobody),
        ("tracing", confine::no_tracing),
        ("new privileges", confine::no_new_privileges),
        ("the parent's end", || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)),
        ("files", no_files),
        ("system calls", syscalls::allow),
    ];
    let failed = |(name, measure): (&str, Measure)| {
        measure()
            .err()
            .map(|error| format!("{name}: not restricted, because the host does not allow it ({error})"))
    };
    measures.into_iter().filter_map(failed).collect()
}

fn resources() -> io::Result<()> {
    confine::no_core_dumps()?;
    for (resource, most) in
        [(Resource::As, ADDRESS_SPACE), (Resource::Fsize, ADDRESS_SPACE), (Resource::Cpu, CPU_SECONDS)]
    {
        limit(resource, most)?;
    }
    Ok(())
}

/// A lower limit that is already there stays; only root could raise it.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let hard = rustix::process::getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
    Ok(rustix::process::setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) })?)
}

/// What it takes to become nobody; gone with that.
fn user_changes() -> CapabilitySet {
    CapabilitySet::SETUID | CapabilitySet::SETGID
}

/// Becomes nobody, and with that gives up what is left of root's power.
fn become_nobody() -> io::Result<()> {
    let changed = if rustix::process::geteuid().is_root() {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_groups(&[])
            .and_then(|()| rustix::thread::set_thread_res_gid(group, group, group))
            .and_then(|()| rustix::thread::set_thread_res_uid(user, user, user))
    } else {
        Ok(())
    };
    // Whatever came of it: root without capabilities is not much of a root.
    confine::keep_capabilities(CapabilitySet::empty())?;
    Ok(changed?)
}

/// No file can be opened, no address bound or connected to, and no process outside signalled: by Landlock, where the
/// kernel has it, and by the want of a free descriptor.
fn no_files() -> io::Result<()> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(io::Error::other);
    limit(Resource::Nofile, FILES)?;
    let status = status?;
    match status.ruleset {
        RulesetStatus::NotEnforced => {
            let why = match status.landlock {
                LandlockStatus::NotImplemented => "the kernel was built without Landlock",
                _ => "Landlock is switched off",
            };
            Err(io::Error::other(why))
        }
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}
