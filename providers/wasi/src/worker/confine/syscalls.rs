//! System calls that hosting guests never needs, refused by a filter.
//!
//! They are named one by one, and everything else is allowed. The other way round, a list of what is allowed,
//! would refuse more; but the libraries below us are free to use another call tomorrow, and what a guest then met
//! would be an error that nobody has ever tested.

use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What the filter answers: as if the caller had not the right.
const REFUSED: u32 = libc::EPERM as u32;

/// Refused whatever their arguments are.
const ALWAYS: &[i64] = &[
    // Becoming another program. A worker is all that it ever is.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Looking into other processes, or taking their files.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Becoming another user.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    // Entering other namespaces and roots.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    // Opening files past their folders.
    libc::SYS_open_by_handle_at,
    // Code in the kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    // Keys of the kernel's, which know no namespaces.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Ways into the kernel that were ways around it more than once, and that nothing here uses.
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_personality,
    libc::SYS_lookup_dcookie,
];

/// Those that only this architecture has.
#[cfg(target_arch = "x86_64")]
const OF_THE_ARCHITECTURE: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
];
#[cfg(not(target_arch = "x86_64"))]
const OF_THE_ARCHITECTURE: &[i64] = &[libc::SYS_kexec_file_load];

/// Kinds of sockets that no guest has: the kernel's crypto, virtual machines, raw packets.
const FAMILIES: [u64; 4] =
    [libc::AF_ALG as u64, libc::AF_VSOCK as u64, libc::AF_PACKET as u64, libc::AF_KEY as u64];

/// Installs the filter for this thread and all that it starts.
pub(super) fn refuse() -> io::Result<String> {
    let filters = filters().map_err(io::Error::other)?;
    for filter in &filters {
        seccompiler::apply_filter(filter).map_err(io::Error::other)?;
    }
    Ok(format!("{} are refused", rules().map_err(io::Error::other)?.len() + 1))
}

/// Two filters: an answer is of a filter, and `clone3` has another one than the rest.
fn filters() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = |rules, errno| -> Result<BpfProgram, seccompiler::BackendError> {
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch)?.try_into()
    };
    // The flags of clone3 are in memory, where a filter cannot see them. Whoever is told that there is no such
    // call uses clone, as on older kernels.
    let clone3 = filter(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS as u32)?;
    Ok([clone3, filter(rules()?, REFUSED)?])
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<_, _> =
        ALWAYS.iter().chain(OF_THE_ARCHITECTURE).map(|call| (*call, Vec::new())).collect();
    // Threads, and no processes.
    let thread = libc::CLONE_THREAD as u64;
    let no_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![no_thread])?]);
    let families = FAMILIES.iter().map(|family| {
        let is_it = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *family)?;
        SeccompRule::new(vec![is_it])
    });
    rules.insert(libc::SYS_socket, families.collect::<Result<_, _>>()?);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_ones_that_the_kernel_takes() {
        // Instructions that the kernel allows a filter.
        const MOST: usize = 4096;
        for filter in filters().unwrap() {
            assert!(!filter.is_empty() && filter.len() <= MOST, "{}", filter.len());
        }
    }

    /// In a thread of its own, which alone is restricted.
    #[test]
    fn what_is_refused_fails_and_what_is_needed_works() {
        let thread = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            let before = std::process::Command::new("true").status();
            refuse().unwrap();
            let after = std::process::Command::new("true").status();
            // A thread can still be started, and files and sockets opened.
            let inner = std::thread::spawn(|| std::fs::read("/proc/self/status").is_ok()).join().unwrap();
            let listener = std::net::TcpListener::bind("127.0.0.1:0");
            let hostname = rustix::system::sethostname(b"x");
            (before.is_ok(), after.map_err(|error| error.kind()), inner, listener.is_ok(), hostname)
        });
        let (before, after, inner, listener, hostname) = thread.join().unwrap();
        assert!(before, "the program can be started without the filter");
        assert_eq!(after.unwrap_err(), io::ErrorKind::PermissionDenied);
        assert!(inner && listener);
        assert_eq!(hostname, Err(rustix::io::Errno::PERM));
    }
}
