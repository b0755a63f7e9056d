//! The system calls that compiling needs; everything else is refused.
//!
//! The list can be short, because a compiler is a function from bytes to bytes. What is not on it fails as if the
//! process had not the right, which the libraries below take for a host that does not have it.

use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

const REFUSED: u32 = libc::EPERM as u32;

/// Allowed whatever their arguments are.
const ALWAYS: &[i64] = &[
    // The three files.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_close,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads. clone3 gets another answer from another filter, see below.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_membarrier,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals to itself.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time, chance, and what the machine is.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Installs the filter for this thread and all that it starts.
pub(super) fn allow() -> io::Result<()> {
    for filter in filters().map_err(io::Error::other)? {
        seccompiler::apply_filter(&filter).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Two filters: an answer is of a filter, and `clone3` has another one than the rest.
fn filters() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    // The flags of clone3 are in memory, where a filter cannot see them. Whoever is told that there is no such
    // call uses clone, as on older kernels.
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let errno = SeccompAction::Errno(libc::ENOSYS as u32);
    let no_clone3 = SeccompFilter::new(no_clone3, SeccompAction::Allow, errno, arch)?;
    let errno = SeccompAction::Errno(REFUSED);
    let rest = SeccompFilter::new(rules()?, errno, SeccompAction::Allow, arch)?;
    Ok([no_clone3.try_into()?, rest.try_into()?])
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<_, _> = ALWAYS.iter().map(|call| (*call, Vec::new())).collect();
    let when = |argument, operator, value| -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value)?;
        Ok(vec![SeccompRule::new(vec![condition])?])
    };
    // Threads, and no processes.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, when(0, SeccompCmpOp::MaskedEq(thread), thread)?);
    // Code is written to the output, and never run here.
    let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    rules.insert(libc::SYS_mmap, when(2, executable.clone(), 0)?);
    rules.insert(libc::SYS_mprotect, when(2, executable, 0)?);
    // An abort is a signal to one's own process.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, when(0, SeccompCmpOp::Eq, own)?);
    // Looking at one's own limits, where stacks end.
    rules.insert(libc::SYS_prlimit64, when(2, SeccompCmpOp::Eq, 0)?);
    // The names of threads.
    rules.insert(libc::SYS_prctl, when(0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)?);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own, which alone is restricted.
    #[test]
    fn what_compiling_needs_works_and_nothing_else() {
        let thread = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            allow().unwrap();
            let inner = std::thread::spawn(|| vec![1_u8; 8 << 20].len()).join().unwrap();
            let kind = |error: io::Error| error.kind();
            let file = std::fs::read("/proc/self/status").map_err(kind);
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").map_err(kind);
            let program = std::process::Command::new("true").status().map_err(kind);
            let parent = rustix::process::test_kill_process(rustix::process::getpid());
            (inner, file.unwrap_err(), socket.unwrap_err(), program.unwrap_err(), parent)
        });
        let (inner, file, socket, program, parent) = thread.join().unwrap();
        assert_eq!(inner, 8 << 20);
        assert_eq!([file, socket, program], [io::ErrorKind::PermissionDenied; 3]);
        assert_eq!(parent, Err(rustix::io::Errno::PERM));
    }
}
