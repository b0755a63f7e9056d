//! What a process gives up before it deals with what strangers have made: the parts that workers and compilers share.
//!
//! Everything is given up by the first thread, from which all others come.

use std::{fs, io};

use rustix::{
    process::{DumpableBehavior, Resource, Rlimit},
    thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets},
};

/// Capabilities that a kernel may have; those that it does not know cannot be asked for.
const CAPABILITIES: u32 = 64;

/// Closes whatever the process has inherited but its standard streams. Must be called before the process opens
/// anything itself.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn close_inherited() -> io::Result<()> {
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // One of them was the directory itself, and is closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// Says how early the kernel ends this process when it has no memory left: from -1000, never, to 1000, first.
///
/// # Errors
/// When the host does not allow it.
pub fn oom_score(score: i16) -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", score.to_string())
}

/// Leaves no core behind, which would hold the memory of every guest.
///
/// # Errors
/// When the host does not allow it.
pub fn no_core_dumps() -> io::Result<()> {
    Ok(rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// Lets nobody but root look into this process. It cannot look at itself in `/proc` either then, unless it is root's.
///
/// # Errors
/// When the host does not allow it.
pub fn no_tracing() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Gives up all capabilities but these, for good; returns those that are left.
///
/// # Errors
/// When the host does not allow it.
pub fn keep_capabilities(keep: CapabilitySet) -> io::Result<CapabilitySet> {
    bound_capabilities(keep)?;
    let has = rustix::thread::capabilities(None)?;
    // Kernels before 4.3 have no such set.
    let _ = rustix::thread::clear_ambient_capability_set();
    let permitted = has.permitted & keep;
    let inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: permitted, permitted, inheritable })?;
    Ok(permitted)
}

/// Gives up, for good, that starting a program could ever bring more than these. It takes `CAP_SETPCAP`.
///
/// # Errors
/// When the host does not allow it.
pub fn bound_capabilities(most: CapabilitySet) -> io::Result<()> {
    let has = rustix::thread::capabilities(None)?;
    for bit in 0..CAPABILITIES {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if !most.contains(one) && rustix::thread::capability_is_in_bounding_set(one).unwrap_or(false) {
            match rustix::thread::remove_capability_from_bounding_set(one) {
                // Who has no power has none to give up either.
                Err(rustix::io::Errno::PERM) if has.permitted.is_empty() => break,
                result => result?,
            }
        }
    }
    Ok(())
}

/// Uses files as this user from now on, and keeps the capabilities: the files that the process makes are this user's,
/// and it is not root to file systems that keep blocks for root. To everything else it is who it was. Takes
/// `CAP_SETPCAP` and `CAP_SETUID`, and is of this thread and those that it starts. Returns the user that files are used as:
/// another one where the process' user namespace has no such user.
///
/// # Errors
/// When the host does not allow it.
pub fn use_files_as(user: u32) -> io::Result<u32> {
    // Otherwise the kernel takes the capabilities for files from who is no longer root to files.
    rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    nix::unistd::setfsuid(user.into());
    // No user, so that nothing changes: it returns who it is.
    Ok(nix::unistd::setfsuid(u32::MAX.into()).as_raw())
}

/// Gets no rights by starting programs any more.
///
/// # Errors
/// When the host does not allow it.
pub fn no_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}
