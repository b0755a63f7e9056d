//! What workers and the mounter give up before they do anything for somebody else.
//!
//! A guest is held by its sandbox. What is given up here is for the day on which one gets out of it: the process
//! that it finds itself in has no credentials and no files of its parent's open, cannot become anything else, and cannot
//! ask the kernel for what hosting guests never needs. Of the host's files it may read what programs need, and change
//! nothing; of the node's files it sees its own directory and the modules, and of its pods' what it was handed. Everything
//! is given up by the first thread, from which all others come.
//!
//! Where the host does not allow a measure, a worker runs without it, and says so, in its log and in Hello; or it does not
//! run, where confinement is [required](Confinement::Required).

mod hide;
mod syscalls;

use std::{
    fmt, fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    str::FromStr,
};

use kubewasm_host::confine;
use rustix::{
    fs::{Mode, OFlags},
    thread::CapabilitySet,
};

use crate::files::mount_api::{self, Reach};
use syscalls::Profile;

/// What a worker of root's keeps of root's power:
/// - `DAC_OVERRIDE` and `FOWNER` let its guests use what belongs to other users, as files in volumes may: the first to open
///   them, the second to set their times and to remove them from a directory like `/tmp`;
/// - `NET_BIND_SERVICE` lets guests of the host's network listen below port 1024; in a network namespace of their own, they
///   need it not, and their worker has it not.
const OF_WORKERS: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::DAC_OVERRIDE, "dac_override"),
    (CapabilitySet::FOWNER, "fowner"),
    (CapabilitySet::NET_BIND_SERVICE, "net_bind_service"),
];
/// What the mounter keeps: to mount, and to make and copy files that belong to others. An overlay does what it does to the
/// layers below it with the rights of who mounted it.
const OF_THE_MOUNTER: [(CapabilitySet, &str); 5] = [
    (CapabilitySet::SYS_ADMIN, "sys_admin"),
    (CapabilitySet::CHOWN, "chown"),
    (CapabilitySet::DAC_OVERRIDE, "dac_override"),
    (CapabilitySet::FOWNER, "fowner"),
    (CapabilitySet::FSETID, "fsetid"),
];
/// The kernel that has no memory left ends workers before it ends their agent, and never the machine's own
/// daemons before them. From -1000, never, to 1000, first.
const OOM_SCORE: &str = "500";

/// Whom the files are used as, and made, by workers and the mounter of a node that runs as root: no user of any
/// distribution's. `ext4` and its kin let root, and whom an administrator names, have the last blocks of a file system.
const FILE_USER: u32 = 65533;

/// What becomes of a process that cannot be confined as a whole: a worker, the mounter, or a compiler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confinement {
    /// It runs, and says what is missing.
    #[default]
    BestEffort,
    /// It does not run.
    Required,
}

/// A text that is no [`Confinement`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of best-effort and required")]
pub struct InvalidConfinement(String);

impl FromStr for Confinement {
    type Err = InvalidConfinement;

    fn from_str(text: &str) -> Result<Self, InvalidConfinement> {
        match text {
            "best-effort" => Ok(Self::BestEffort),
            "required" => Ok(Self::Required),
            other => Err(InvalidConfinement(other.to_owned())),
        }
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BestEffort => "best-effort",
            Self::Required => "required",
        })
    }
}

/// Something that was to be given up, and what came of it.
#[derive(Debug)]
pub(crate) struct Measure {
    name: &'static str,
    result: io::Result<String>,
}

impl Measure {
    fn take(name: &'static str, measure: impl FnOnce() -> io::Result<String>) -> Self {
        Self { name, result: measure() }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, result } = self;
        match result {
            Ok(text) => write!(f, "{name}: {text}"),
            Err(error) => write!(f, "{name}: not restricted, because the host does not allow it ({error})"),
        }
    }
}

/// All measures for people, or, where confinement is required, those that could not be taken.
pub(crate) fn judge(measures: &[Measure], confinement: Confinement) -> Result<Vec<String>, Vec<String>> {
    let missing: Vec<_> =
        measures.iter().filter(|measure| measure.result.is_err()).map(Measure::to_string).collect();
    match confinement {
        Confinement::Required if !missing.is_empty() => Err(missing),
        Confinement::Required | Confinement::BestEffort => {
            Ok(measures.iter().map(Measure::to_string).collect())
        }
    }
}

/// What a worker has of the host's files.
#[derive(Debug)]
pub(crate) struct ConfinedView<'a> {
    /// Its own directory, which it may write to.
    pub(crate) home: &'a Path,
    /// Files and directories that it must not see.
    pub(crate) hidden: &'a [PathBuf],
    /// What it sees in spite of that.
    pub(crate) shown: &'a [PathBuf],
    /// Whether it has a mount namespace of its own.
    pub(crate) mounts: bool,
}

/// Narrows what a worker sees of the host's files, and what it may change there. Nothing may be open for writing.
pub(crate) fn narrow(view: &ConfinedView<'_>) -> Vec<Measure> {
    let mounted = |measure: &dyn Fn() -> io::Result<String>| match view.mounts {
        true => measure(),
        false => Err(io::Error::other("it has no mount namespace of its own")),
    };
    // What is missing has been said.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    vec![
        Measure::take("hidden files", || mounted(&|| hide::hide(view.hidden, view.home, view.shown))),
        Measure::take("the host's files", || mounted(&|| close_host(view.home))),
    ]
}

/// Gives up everything that a worker has no use for once it has its sockets.
pub(crate) fn worker(own_network: bool) -> Vec<Measure> {
    let kept: Vec<_> = OF_WORKERS
        .into_iter()
        .filter(|(capability, _)| !own_network || *capability != CapabilitySet::NET_BIND_SERVICE)
        .collect();
    vec![
        Measure::take("oom score", oom_score),
        Measure::take("core dumps", core_dumps),
        Measure::take("tracing", tracing),
        Measure::take("user of files", file_user),
        Measure::take("capabilities", || capabilities(&kept)),
        Measure::take("new privileges", new_privileges),
        Measure::take("system calls", || syscalls::refuse(Profile::Worker)),
    ]
}

/// Gives up everything that the mounter has no use for.
pub(crate) fn mounter() -> Vec<Measure> {
    vec![
        Measure::take("core dumps", core_dumps),
        Measure::take("tracing", tracing),
        Measure::take("user of files", file_user),
        Measure::take("capabilities", || capabilities(&OF_THE_MOUNTER)),
        Measure::take("new privileges", new_privileges),
        Measure::take("system calls", || syscalls::refuse(Profile::Mounter)),
    ]
}

/// Makes all that is mounted here read-only and without devices, but for one directory.
fn close_host(home: &Path) -> io::Result<String> {
    let open = |path: &Path| -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(path, flags, Mode::empty())?)
    };
    let kept = mount_api::clone(&open(home)?, Reach::One)?;
    mount_api::seal(&kept, mount_api::RESTRICTED, Reach::One)?;
    // Programs of the host are libraries too, and code is mapped from the store's files.
    mount_api::restrict(&open(Path::new("/"))?, mount_api::READ_ONLY_HOST, Reach::All)?;
    mount_api::attach(&kept, &open(home)?)?;
    Ok(format!("read-only, but for {}", home.display()))
}

fn oom_score() -> io::Result<String> {
    let score = fs::read_to_string("/proc/self/oom_score_adj")?;
    match score.trim() {
        OOM_SCORE => Ok(OOM_SCORE.to_owned()),
        other => Err(io::Error::other(format!("it is {other}"))),
    }
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

fn file_user() -> io::Result<String> {
    if !rustix::process::geteuid().is_root() {
        return Ok("its own, not root".to_owned());
    }
    match confine::use_files_as(FILE_USER)? {
        FILE_USER => Ok(FILE_USER.to_string()),
        // Who is root here is not root to the machine's file systems.
        _ => Ok("its own, root of a user namespace".to_owned()),
    }
}

fn capabilities(kept: &[(CapabilitySet, &str)]) -> io::Result<String> {
    let keep = kept.iter().fold(CapabilitySet::empty(), |all, (capability, _)| all | *capability);
    let left = confine::keep_capabilities(keep)?;
    let names: Vec<_> = kept.iter().filter(|(one, _)| left.contains(*one)).map(|(_, name)| *name).collect();
    Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

fn new_privileges() -> io::Result<String> {
    confine::no_new_privileges()?;
    Ok("none".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confinement_is_read_as_it_is_written() {
        for confinement in [Confinement::BestEffort, Confinement::Required] {
            assert_eq!(confinement.to_string().parse(), Ok(confinement));
        }
        let error = "strict".parse::<Confinement>().unwrap_err().to_string();
        assert_eq!(error, "\"strict\" is none of best-effort and required");
    }
}
