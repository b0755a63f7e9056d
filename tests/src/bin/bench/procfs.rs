//! What Linux tells about a process: memory and processor time.

use std::{fs, iter::Sum, ops::Add, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use serde::Serialize;

/// Unit of the processor times in `/proc/PID/stat`, per second. `USER_HZ` is part of Linux' interface to
/// programs, and 100 on every architecture that we run on.
const TICKS_PER_SECOND: u32 = 100;

/// Resident memory, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Footprint {
    /// All of it.
    pub(crate) rss_kib: u64,
    /// With what is shared with other processes divided among them.
    pub(crate) pss_kib: u64,
}

impl Add for Footprint {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rss_kib: self.rss_kib + other.rss_kib, pss_kib: self.pss_kib + other.pss_kib }
    }
}

impl Sum for Footprint {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

/// Resident memory of a process.
///
/// # Errors
/// When it is gone, or belongs to somebody else.
pub(crate) fn footprint(pid: Pid) -> Result<Footprint> {
    let text = read(pid, "smaps_rollup")?;
    parse_rollup(&text).with_context(|| format!("smaps_rollup of process {pid} is not understood"))
}

/// Processor time that a process has used in all its threads.
///
/// # Errors
/// When it is gone.
pub(crate) fn cpu_time(pid: Pid) -> Result<Duration> {
    let text = read(pid, "stat")?;
    parse_stat(&text).with_context(|| format!("stat of process {pid} is not understood"))
}

/// The first argument of a process, after the program.
///
/// # Errors
/// When it is gone.
pub(crate) fn subcommand(pid: Pid) -> Result<String> {
    Ok(read(pid, "cmdline")?.split('\0').nth(1).unwrap_or_default().to_owned())
}

/// Whether a process listens on a TCP port, in the network that it lives in.
///
/// # Errors
/// When it is gone.
pub(crate) fn listens(pid: Pid, port: u16) -> Result<bool> {
    let mut sockets = parse_listening(&read(pid, "net/tcp")?, port);
    sockets.extend(parse_listening(&read(pid, "net/tcp6")?, port));
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let open = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    // What is closed meanwhile does not listen.
    Ok(open
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|link| sockets.iter().any(|socket| link.as_os_str() == format!("socket:[{socket}]").as_str())))
}

fn read(pid: Pid, file: &str) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// See <https://docs.kernel.org/filesystems/proc.html>, "smaps_rollup".
fn parse_rollup(text: &str) -> Option<Footprint> {
    let field = |name: &str| -> Option<u64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().strip_suffix("kB")?.trim_end().parse().ok()
    };
    Some(Footprint { rss_kib: field("Rss")?, pss_kib: field("Pss")? })
}

/// The inodes of sockets that listen on a port; see proc_pid_net(5), "/proc/pid/net/tcp": 0A is the state of a socket that listens.
fn parse_listening(text: &str, port: u16) -> Vec<u64> {
    let listening = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == "0A" && u16::from_str_radix(local, 16) == Ok(port);
        listens.then(|| fields.get(9)?.parse().ok())?
    };
    text.lines().filter_map(listening).collect()
}

/// See proc_pid_stat(5): `utime` and `stime` are the fields 14 and 15, and the second field, a name in
/// parentheses, may hold anything.
fn parse_stat(text: &str) -> Option<Duration> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(Duration::from_secs(1) * ticks()?.checked_add(ticks()?)? / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rollup_of_a_process_is_understood() {
        let text = "55d0-7ffd ---p 00000000 00:00 0   [rollup]\nRss:     11056 kB\nPss:      3241 kB\n\
                    Pss_Dirty:    1240 kB\nShared_Clean:  8120 kB\n";
        assert_eq!(parse_rollup(text), Some(Footprint { rss_kib: 11_056, pss_kib: 3_241 }));
        for broken in ["", "Rss: 1 kB", "Rss: 1 kB\nPss: many kB", "Rss: 1\nPss: 1"] {
            assert_eq!(parse_rollup(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_times() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 250 51 0 0 20 0 9 0 1000 1 1 1";
        assert_eq!(parse_stat(text), Some(Duration::from_millis(3_010)));
        for broken in ["", "42 (a) S 1", "42 (a) S 1 42 42 0 -1 4194304 100 0 0 0 x 51"] {
            assert_eq!(parse_stat(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn the_process_that_listens_on_a_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = rustix::process::getpid();
        assert!(listens(own, address.port()).unwrap());
        // Both ends of a connection have the port, and do not listen.
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (_accepted, _) = listener.accept().unwrap();
        drop(listener);
        assert!(!listens(own, address.port()).unwrap());
    }

    #[test]
    fn this_process_can_be_read() {
        let own = rustix::process::getpid();
        let footprint = footprint(own).unwrap();
        assert!(footprint.pss_kib > 0 && footprint.pss_kib <= footprint.rss_kib, "{footprint:?}");
        cpu_time(own).unwrap();
    }
}
