//! How compilers share processors with guests: they get what guests leave.

use std::{fs, io, thread, time::Duration};

/// What the compiler's share is made small by: a guest that computes gets nine times as much.
const NICE: i32 = 10;
/// How long a turn on a processor is that the scheduler gives: the longest that it knows. Whoever wakes up and is content
/// with shorter turns goes first (Linux 6.12 and newer). Guests that want a processor for a moment only would otherwise
/// wait until the compiler's turn is over.
const TURN: Duration = Duration::from_millis(100);
const CGROUP: &str = "/proc/self/cgroup";
/// Where the share of a session is made small; missing where processes are not grouped by their sessions.
const AUTOGROUP: &str = "/proc/self/autogroup";
/// All that are not root may write there ten times a second, together.
const AUTOGROUP_TRIES: u32 = 10;
const AUTOGROUP_PAUSE: Duration = Duration::from_millis(100);

/// Has the process, and each thread that it starts from now on, wait for others.
pub(super) fn wait_for_others() -> io::Result<()> {
    // Linux gives all sessions the same share (`CONFIG_SCHED_AUTOGROUP`), and who is nice is so to its own session only.
    rustix::process::setsid()?;
    let has_share = make_session_small()? && is_of_no_group(&fs::read_to_string(CGROUP)?);
    // With a share of the session's, nobody starves, and guests may wake up where nobody but a compiler is as if nobody were.
    let policy = if has_share { libc::SCHED_IDLE } else { libc::SCHED_OTHER };
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).map_err(io::Error::other)?,
        sched_policy: policy.unsigned_abs(),
        sched_flags: 0,
        sched_nice: rustix::process::nice(NICE)?,
        sched_priority: 0,
        sched_runtime: u64::try_from(TURN.as_nanos()).map_err(io::Error::other)?,
        sched_deadline: 0,
        sched_period: 0,
    };
    let (this_thread, no_flags) = (0, 0);
    #[expect(unsafe_code, reason = "neither rustix nor nix has this call")]
    // SAFETY: the kernel reads as much of the attributes as they say that they have, and they live until it returns.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setattr, this_thread, &raw const attributes, no_flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Says whether sessions have shares here.
fn make_session_small() -> io::Result<bool> {
    for _ in 1..AUTOGROUP_TRIES {
        match fs::write(AUTOGROUP, NICE.to_string()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(AUTOGROUP_PAUSE),
            result => return result.map(|()| true),
        }
    }
    fs::write(AUTOGROUP, NICE.to_string()).map(|()| true)
}

/// Whether a process with this `/proc/self/cgroup` is certainly in no group of its own for processors: those that are have
/// the group's share, and not their session's.
fn is_of_no_group(cgroups: &str) -> bool {
    let group = |is_it: fn(&str) -> bool| {
        let mut lines = cgroups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        lines.find(|(controllers, _)| is_it(controllers)).map(|(_, path)| path)
    };
    let of_cpu = group(|controllers| controllers.split(',').any(|controller| controller == "cpu"));
    of_cpu.or_else(|| group(str::is_empty)) == Some("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_a_group_for_processors_is_known() {
        for (cgroups, expected) in [
            ("0::/\n", true),
            ("0::/system.slice/kubewasm.service\n", false),
            ("4:memory:/a\n1:cpu:/\n0::/\n", true),
            ("4:cpu,cpuacct:/kubepods\n0::/\n", false),
            ("4:cpu,cpuacct:/\n0::/a\n", true),
            ("3:cpuset:/\n0::/a\n", false),
            ("", false),
        ] {
            assert_eq!(is_of_no_group(cgroups), expected, "{cgroups:?}");
        }
    }
}
