//! System calls that hosting guests never needs, refused by a filter.
//!
//! They are named one by one, and everything else is allowed. The other way round, a list of what is allowed,
//! would refuse more; but the libraries below us are free to use another call tomorrow, and what a guest then met
//! would be an error that nobody has ever tested. Of sockets there is such a list: what guests have is known.

use std::{collections::BTreeMap, io};

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Who is restricted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    /// Hosts guests.
    Worker,
    /// Mounts, and has no guests.
    Mounter,
}

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
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Signals to other processes; those that may be sent to this one are below.
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
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
    // Opening files past their folders, and making devices.
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_fanotify_init,
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
    libc::SYS_quotactl_fd,
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
    libc::SYS_ioprio_set,
];

/// Refused where nothing is mounted.
const MOUNTS: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
];
/// `open_tree_attr` of Linux 6.15, which the C library has no name for yet. The same on all architectures.
const OPEN_TREE_ATTR: i64 = 467;

/// Calls about a process or a thread, whose number is their first argument, and 0 for the caller: refused for others.
const ABOUT_OTHERS: &[i64] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setaffinity,
];
/// Calls that send a signal to a process, which is their first argument: refused for others.
const SIGNALS: &[i64] =
    &[libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo];

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
    libc::SYS_mknod,
    libc::SYS_sysfs,
];
#[cfg(not(target_arch = "x86_64"))]
const OF_THE_ARCHITECTURE: &[i64] = &[libc::SYS_kexec_file_load];

/// The only kinds of sockets that are made. Netlink is for what the C library asks of routes when it looks up a name.
/// `AF_UNIX` is none: a worker has its own from before, and what listens on others of the host trusts root.
const FAMILIES: [i32; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// Types of socket pairs that can be connected to something else later.
const UNBOUND_PAIRS: [i32; 3] = [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_RDM];
/// Bits of a socket's type that are no flags.
const TYPE: u64 = 0xf;

/// Installs the filter for this thread and all that it starts.
pub(super) fn refuse(profile: Profile) -> io::Result<String> {
    for filter in &filters(profile).map_err(io::Error::other)? {
        seccompiler::apply_filter(filter).map_err(io::Error::other)?;
    }
    Ok(format!("{} are refused", calls(profile).map_err(io::Error::other)?.len() + 1))
}

/// Several filters: an answer is of a filter, and not all calls have the same.
fn filters(profile: Profile) -> Result<Vec<BpfProgram>, BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = |rules, errno: i32| -> Result<BpfProgram, BackendError> {
        let answer = SeccompAction::Errno(errno.unsigned_abs());
        SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()
    };
    let mut filters = vec![
        // The flags of clone3 are in memory, where a filter cannot see them. Whoever is told that there is no such
        // call uses clone, as on older kernels.
        filter(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?,
        // As if the kernel had none of them: libraries go on without.
        filter(BTreeMap::from([(libc::SYS_socket, sockets()?)]), libc::EAFNOSUPPORT)?,
        // As if the caller had not the right.
        filter(calls(profile)?, libc::EPERM)?,
    ];
    filters.extend(other_numbers());
    Ok(filters)
}

/// The same calls have other numbers in the x32 ABI, which a list of numbers does not name: none of them exists.
fn other_numbers() -> Option<BpfProgram> {
    #[cfg(target_arch = "x86_64")]
    {
        use seccompiler::sock_filter;
        const X32: u32 = 0x4000_0000;
        #[expect(clippy::cast_possible_truncation, reason = "codes of instructions have 16 bits")]
        let instruction = |code: u32, jf, k| sock_filter { code: code as u16, jt: 0, jf, k };
        Some(vec![
            // The number of the call is the first word of what a filter sees.
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, X32),
            instruction(
                libc::BPF_RET | libc::BPF_K,
                0,
                libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(),
            ),
            instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        ])
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// The calls that are refused, each with the cases in which it is.
fn calls(profile: Profile) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mounts = if profile == Profile::Worker { MOUNTS } else { &[] };
    let mut rules: BTreeMap<_, _> =
        ALWAYS.iter().chain(OF_THE_ARCHITECTURE).chain(mounts).map(|call| (*call, Vec::new())).collect();
    // Threads, and no processes.
    let thread = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD.unsigned_abs().into());
    rules.insert(libc::SYS_clone, vec![all([argument(0, thread, 0)])?]);
    let us = std::process::id();
    for call in SIGNALS {
        rules.insert(*call, vec![all([argument(0, SeccompCmpOp::Ne, us)])?]);
    }
    for call in ABOUT_OTHERS {
        let others = [argument(0, SeccompCmpOp::Ne, us), argument(0, SeccompCmpOp::Ne, 0)];
        rules.insert(*call, vec![all(others)?]);
    }
    rules.insert(libc::SYS_setpriority, vec![all([argument(1, SeccompCmpOp::Ne, 0)])?]);
    let pairs =
        UNBOUND_PAIRS.map(|kind| all([argument(1, SeccompCmpOp::MaskedEq(TYPE), kind.unsigned_abs())]));
    rules.insert(libc::SYS_socketpair, pairs.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

/// The cases in which a socket is not made.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let is_not = |family: i32| argument(0, SeccompCmpOp::Ne, family.unsigned_abs());
    let is_netlink = argument(0, SeccompCmpOp::Eq, libc::AF_NETLINK.unsigned_abs());
    let is_not_about_routes = argument(2, SeccompCmpOp::Ne, libc::NETLINK_ROUTE.unsigned_abs());
    Ok(vec![all(FAMILIES.map(is_not))?, all([is_netlink, is_not_about_routes])?])
}

fn argument(index: u8, op: SeccompCmpOp, value: u32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, Dword, op, value.into())
}

/// The case in which all of this holds.
fn all(
    conditions: impl IntoIterator<Item = Result<SeccompCondition, BackendError>>,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, ToSocketAddrs as _},
        os::unix::net::{UnixDatagram, UnixStream},
    };

    use rustix::{
        io::Errno,
        net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with},
    };

    use super::*;

    /// Runs something in a thread of its own, which alone is restricted.
    fn restricted<T: Send + 'static>(profile: Profile, run: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            refuse(profile).unwrap();
            run()
        };
        std::thread::spawn(thread).join().unwrap()
    }

    #[test]
    fn the_filters_are_ones_that_the_kernel_takes() {
        // Instructions that the kernel allows a filter.
        const MOST: usize = 4096;
        for filter in [Profile::Worker, Profile::Mounter].into_iter().flat_map(|p| filters(p).unwrap()) {
            assert!(!filter.is_empty() && filter.len() <= MOST, "{}", filter.len());
        }
    }

    #[test]
    fn what_is_needed_works() {
        assert!(std::process::Command::new("true").status().is_ok(), "without the filter");
        let refused = restricted(Profile::Worker, || {
            assert!(std::thread::spawn(|| std::fs::read("/proc/self/status").is_ok()).join().unwrap());
            TcpListener::bind("127.0.0.1:0").unwrap();
            assert!(("localhost", 1).to_socket_addrs().unwrap().next().is_some());
            // What tokio takes signals with.
            UnixStream::pair().unwrap();
            // What a runtime ends itself with.
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::CONT).unwrap();
            rustix::process::nice(1).unwrap();
            rustix::process::getrlimit(rustix::process::Resource::Nofile);
            std::process::Command::new("true").status().unwrap_err().kind()
        });
        assert_eq!(refused, io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn there_are_no_sockets_to_the_host() {
        restricted(Profile::Worker, || {
            let make = |family, kind, protocol| {
                socket_with(family, kind, SocketFlags::CLOEXEC, protocol).map(drop).unwrap_err()
            };
            for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
                assert_eq!(make(AddressFamily::UNIX, kind, None), Errno::AFNOSUPPORT);
            }
            assert_eq!(make(AddressFamily::VSOCK, SocketType::STREAM, None), Errno::AFNOSUPPORT);
            let audit = Some(netlink::AUDIT);
            assert_eq!(make(AddressFamily::NETLINK, SocketType::RAW, audit), Errno::AFNOSUPPORT);
            assert_eq!(UnixDatagram::pair().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        });
    }

    #[test]
    fn other_processes_are_left_alone() {
        // One that lives for as long as this one.
        let parent = rustix::process::getppid().unwrap();
        assert!(rustix::process::test_kill_process(parent).is_ok());
        let (signal, limit) = restricted(Profile::Worker, move || {
            let limit = rustix::process::Resource::Core;
            let none = rustix::process::Rlimit { current: None, maximum: None };
            (
                rustix::process::test_kill_process(parent),
                rustix::process::prlimit(Some(parent), limit, none).map(drop),
            )
        });
        assert_eq!((signal, limit), (Err(Errno::PERM), Err(Errno::PERM)));
    }

    #[test]
    fn only_the_mounter_mounts() {
        use crate::files::mount_api::{self, Reach};
        let refused = |profile| {
            restricted(profile, || {
                let root = std::fs::File::open("/").unwrap();
                let hostname = rustix::system::sethostname(b"x").unwrap_err();
                (mount_api::clone(&root, Reach::One).map_err(|error| error.kind()).err(), hostname)
            })
        };
        let denied = Some(io::ErrorKind::PermissionDenied);
        assert_eq!(refused(Profile::Worker), (denied, Errno::PERM));
        if rustix::process::geteuid().is_root() {
            assert_eq!(refused(Profile::Mounter), (None, Errno::PERM));
        }
    }
}
