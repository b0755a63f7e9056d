//! What the machine allows.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Stdio,
    time::Duration,
};

use kubewasm_host::{capacity, program::Program};
use kubewasm_kubelet::{config::Config, supply::Disk};
use kubewasm_network::PodNetwork;
use kubewasm_wasi::{confine::Confinement, mounter::MounterOptions, worker::WorkerOptions};
use tokio::process::Command;

use super::finding::Finding;
use crate::network_mode::NetworkMode;

/// The first version that changes the attributes of mounts that exist (`mount_setattr`).
const KERNEL: (u32, u32) = (5, 12);
/// Less room than this for modules, logs and volumes is no node.
const LEAST_ROOM: u64 = 1 << 30;
/// Open files that a full node needs.
const FILES: u64 = 65_536;
/// Time for one of our processes to say that it can work here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks at everything.
pub(super) async fn examine(config: &Config, network: NetworkMode) -> Vec<Finding> {
    let mut findings =
        vec![kernel(), user(), root(&config.root_dir), disk(&config.root_dir), files(), guests()];
    findings.extend(processes().await);
    findings.push(cgroups());
    findings.push(pod_network(network, &config.root_dir).await);
    findings.extend(ports(config));
    findings
}

fn kernel() -> Finding {
    const CHECK: &str = "kernel";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match version(&release) {
        Some(version) if version < KERNEL => Finding::warning(
            CHECK,
            format!("Linux {release} cannot make a container's files of mounts"),
            format!("use Linux {}.{} or newer", KERNEL.0, KERNEL.1),
        ),
        Some(_) => Finding::ok(CHECK, format!("Linux {release}")),
        None => Finding::warning(
            CHECK,
            format!("the version {release:?} says nothing"),
            "use Linux 5.12 or newer",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn user() -> Finding {
    const CHECK: &str = "user";
    let user = rustix::process::geteuid();
    if user.is_root() {
        return Finding::ok(CHECK, "root");
    }
    Finding::warning(
        CHECK,
        format!(
            "user {}, who may neither make networks for pods nor bound workers by cgroups of the system",
            user.as_raw()
        ),
        "run the node as root, or with `systemd-run --user --scope -p Delegate=yes` for cgroups alone",
    )
}

fn root(root: &Path) -> Finding {
    const CHECK: &str = "root directory";
    let shown = root.display();
    let existing = root.ancestors().find(|dir| dir.exists()).unwrap_or(root);
    let writable = tempfile::Builder::new().prefix(".doctor").tempfile_in(existing).map(drop);
    match (writable, fs::metadata(existing)) {
        (Err(error), _) | (_, Err(error)) => Finding::failed(
            CHECK,
            format!("{shown} cannot be used: {error}"),
            "choose another with --root-dir, or run the node as somebody who may write there",
        ),
        (Ok(()), Ok(metadata)) if existing == root && metadata.mode() & 0o077 != 0 => Finding::warning(
            CHECK,
            format!("{shown} is open to other users (mode {:04o})", metadata.mode() & 0o7777),
            "leave it: the node closes it when it starts",
        ),
        (Ok(()), Ok(_)) => Finding::ok(CHECK, shown.to_string()),
    }
}

fn disk(root: &Path) -> Finding {
    const CHECK: &str = "disk";
    let existing = root.ancestors().find(|dir| dir.exists()).unwrap_or(root);
    let disk = match Disk::of(existing) {
        Ok(disk) => disk,
        Err(error) => {
            let message = format!("{} cannot be measured: {error}", existing.display());
            return Finding::warning(CHECK, message, "look with `df`");
        }
    };
    let free = disk.available;
    let percent = free.saturating_mul(100).checked_div(disk.capacity).unwrap_or(0);
    let message = format!("{} MiB free at {}, {percent} %", free >> 20, existing.display());
    if free < LEAST_ROOM {
        return Finding::failed(CHECK, message, "make room, or choose another disk with --root-dir");
    }
    if percent < 15 {
        let remedy = "make room: below 15 % images are removed, below 10 % pods are evicted (evictionHard)";
        return Finding::warning(CHECK, message, remedy);
    }
    Finding::ok(CHECK, message)
}

fn files() -> Finding {
    const CHECK: &str = "open files";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    match limit {
        Some(limit) if limit < FILES => Finding::warning(
            CHECK,
            format!("a process may open {limit}"),
            format!("allow {FILES} or more: `LimitNOFILE=` in the unit, or `ulimit -Hn`"),
        ),
        Some(limit) => Finding::ok(CHECK, format!("a process may open {limit}")),
        None => Finding::ok(CHECK, "a process may open as many as it likes"),
    }
}

fn guests() -> Finding {
    const CHECK: &str = "memory maps";
    let room = capacity::guests();
    let message = format!("one worker has room for {room} guests");
    if room < 1_000 {
        return Finding::warning(CHECK, message, "raise it: `sysctl -w vm.max_map_count=262144`");
    }
    Finding::ok(CHECK, message)
}

/// Starts a worker, a mounter and a compiler as a node does that takes no less than all confinement; each ends as soon as it
/// is confined.
async fn processes() -> Vec<Finding> {
    const WAY_OUT: &str = "start the node as root, on Linux 5.12 or newer, or allow user namespaces \
                           (`sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0`)";
    let dir = match tempfile::Builder::new().prefix("kubewasm-doctor").tempdir() {
        Ok(dir) => dir,
        Err(error) => {
            let message = format!("there is no place for trying: {error}");
            return vec![Finding::warning(
                "confinement",
                message,
                "set TMPDIR to a directory that can be written to",
            )];
        }
    };
    let program = Program::current();
    let mut worker = WorkerOptions::new(dir.path().join("worker/worker.sock"));
    (worker.check, worker.confinement) = (true, Confinement::Required);
    let mounter = MounterOptions {
        dir: dir.path().join("mounts"),
        no_mounts: false,
        confinement: Confinement::Required,
    };
    let arguments = |command: &str, arguments: Vec<std::ffi::OsString>| {
        let mut command = program.command(command);
        command.args(arguments);
        command
    };
    let checks = [
        ("confinement of workers", arguments("worker", worker.args())),
        ("mounts", arguments("mounter", mounter.args())),
        ("confinement of compilers", arguments("compile", vec!["--confined".into(), "--check".into()])),
    ];
    let mut findings = Vec::new();
    for (check, command) in checks {
        findings.push(match said(command, check == "mounts").await {
            Ok(None) => Finding::ok(check, "all that a node asks for"),
            Ok(Some(words)) => Finding::warning(check, words, WAY_OUT),
            Err(error) => Finding::failed(
                check,
                format!("kubewasm cannot start itself: {error}"),
                "look at this program's file",
            ),
        });
    }
    findings
}

/// What a process says that cannot work as it should. A mounter speaks over a socket, whose other end is closed at once.
async fn said(mut command: Command, with_socket: bool) -> io::Result<Option<String>> {
    use std::os::fd::OwnedFd;
    command.stderr(Stdio::piped()).kill_on_drop(true);
    if with_socket {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        drop::<OwnedFd>(ours);
        command.stdin(Stdio::from(theirs));
    }
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 30 s"))??;
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rfind(|line| !line.trim().is_empty());
    // One that can make no mounts goes on without, and says so.
    let refused = last.filter(|line| !output.status.success() || line.contains("allows no mounts"));
    Ok(match refused {
        Some(line) => Some(line.trim_start_matches("kubewasm: ").to_owned()),
        None if output.status.success() => None,
        None => Some(format!("it ends with {} and says nothing", output.status)),
    })
}

/// Which cgroup a node that is started like this program has, and whether it may make others below it.
fn cgroups() -> Finding {
    const CHECK: &str = "cgroups";
    const DELEGATE: &str = "run the node by systemd with `Delegate=yes`, as root, or in a container with its own writable \
                            cgroup; until then limits hold for guests, and not for workers as a whole";
    let mount = Path::new("/sys/fs/cgroup");
    let Ok(controllers) = fs::read_to_string(mount.join("cgroup.controllers")) else {
        return Finding::warning(
            CHECK,
            "version 2 is not mounted at /sys/fs/cgroup",
            "boot with systemd.unified_cgroup_hierarchy=1; version 1 serves with its memory controller alone",
        );
    };
    if !controllers.split_whitespace().any(|name| name == "memory") {
        return Finding::warning(
            CHECK,
            "version 2, without the memory controller",
            "boot with cgroup_enable=memory",
        );
    }
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = membership.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = mount.join(own);
    let trial = own.join(format!("kubewasm-doctor-{}", std::process::id()));
    let made = fs::create_dir(&trial);
    let _ = fs::remove_dir(&trial);
    match made {
        Ok(()) => {
            Finding::ok(CHECK, format!("version 2, with memory; others can be made below {}", own.display()))
        }
        Err(error) => {
            Finding::warning(CHECK, format!("none can be made below {}: {error}", own.display()), DELEGATE)
        }
    }
}

async fn pod_network(mode: NetworkMode, root: &Path) -> Finding {
    const CHECK: &str = "networks of pods";
    if mode == NetworkMode::Host {
        return Finding::skipped(CHECK, "--network=host needs none");
    }
    if let Err(error) = PodNetwork::check(&root.display().to_string()).await {
        let message = format!("they cannot be made: {error}");
        let remedy = format!("{}; or choose --network=host", crate::network_mode::NEEDS);
        // `auto` does without.
        return match mode {
            NetworkMode::Auto => Finding::warning(CHECK, message, remedy),
            _ => Finding::failed(CHECK, message, remedy),
        };
    }
    if !PodNetwork::has_filter().await {
        return Finding::warning(
            CHECK,
            "they can be made, and there is no nft",
            "install nftables: without it, nothing beyond the cluster answers pods, and there are no host ports",
        );
    }
    Finding::ok(CHECK, "links, routes and nftables")
}

fn ports(config: &Config) -> Vec<Finding> {
    let kubelet = &config.kubelet;
    let all = [
        ("port of the API", kubelet.enable_server, kubelet.address, kubelet.port, "--port"),
        ("port of health", true, kubelet.healthz_bind_address, kubelet.healthz_port, "--healthz-port"),
    ];
    let used = all.into_iter().filter(|(_, is_used, _, port, _)| *is_used && *port != 0);
    used.map(|(check, _, address, port, flag)| self::port(check, address, port, flag)).collect()
}

fn port(check: &'static str, address: IpAddr, port: u16, flag: &str) -> Finding {
    let at = SocketAddr::from((address, port));
    match TcpListener::bind(at) {
        Ok(_) => Finding::ok(check, format!("{at} is free")),
        Err(error) => Finding::failed(
            check,
            format!("{at} cannot be listened on: {error}"),
            format!(
                "stop what listens there (`ss -ltnp`; a node that runs already?), or choose another with {flag}"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::State;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        assert_eq!(version("6.18.5-generic"), Some((6, 18)));
        assert_eq!(version("5.10+"), Some((5, 10)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn a_taken_port_is_a_failure_that_names_the_flag() {
        let taken = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0)).unwrap();
        let at = taken.local_addr().unwrap();
        let finding = port("port of the API", at.ip(), at.port(), "--port");
        assert_eq!(finding.state, State::Failed);
        assert!(finding.message.contains(&at.to_string()), "{finding}");
        assert!(finding.remedy.is_some_and(|remedy| remedy.contains("--port")));
    }

    #[test]
    fn a_root_that_cannot_be_written_to_is_a_failure() {
        assert_eq!(root(Path::new("/proc/kubewasm")).state, State::Failed);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(root(&dir.path().join("deep/below")).state, State::Ok);
    }
}
