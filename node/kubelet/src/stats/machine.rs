//! What the kernel says of the machine and of the agent's process, from `/proc`. What cannot be read is left out.

use std::{collections::HashMap, fs, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::usage::{CpuUsage, Interface, MachineUsage, Pressure, ProcessUsage, Processes, Stall, Traffic};
use crate::supply::MemoryInfo;

/// Ticks per second in `/proc/stat` and `/proc/*/stat`: what Linux shows to user space, on every architecture.
const TICKS: u64 = 100;

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count.saturating_mul(1000 / TICKS))
}

/// The machine now. Blocks.
pub(super) fn machine() -> MachineUsage {
    let stat = read("/proc/stat");
    let pressure = |of: &str| parse_pressure(&read(&format!("/proc/pressure/{of}")));
    MachineUsage {
        at: Timestamp::now(),
        booted_at: booted_at(&stat),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        cpu: CpuUsage { used: busy(&stat), nano_cores: None },
        memory: MemoryInfo::parse(&read("/proc/meminfo")),
        cpu_pressure: pressure("cpu"),
        memory_pressure: pressure("memory"),
        io_pressure: pressure("io"),
        interfaces: parse_interfaces(&read("/proc/net/dev")),
        default_interface: parse_default_route(&read("/proc/net/route")),
        processes: parse_processes(&read("/proc/loadavg"), &read("/proc/sys/kernel/pid_max")),
    }
}

/// The agent's process now. Blocks.
pub(super) fn agent() -> ProcessUsage {
    let Some(process) = ProcessTimes::parse(&read("/proc/self/stat")) else { return ProcessUsage::default() };
    let after_boot = SignedDuration::try_from(process.started_after_boot).unwrap_or_default();
    let started_at = booted_at(&read("/proc/stat")).and_then(|boot| boot.checked_add(after_boot).ok());
    ProcessUsage {
        started_at,
        cpu: CpuUsage { used: process.cpu, nano_cores: None },
        resident: kibibytes(&read("/proc/self/status"), "VmRSS").unwrap_or(0),
    }
}

/// What `/proc/*/stat` says of a process' time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessTimes {
    /// User and system time together.
    pub(crate) cpu: Duration,
    pub(crate) started_after_boot: Duration,
    pub(crate) threads: u64,
    pub(crate) virtual_bytes: u64,
}

impl ProcessTimes {
    /// Reads `/proc/*/stat`. The second field, a name, may hold anything; what follows its last parenthesis are numbers.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (_, numbers) = text.rsplit_once(')')?;
        let fields: Vec<&str> = numbers.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // Fields 14 (user), 15 (system), 20 (threads), 22 (start) and 23 (virtual memory) of the whole line.
        Some(Self {
            cpu: ticks(number(11)?.saturating_add(number(12)?)),
            started_after_boot: ticks(number(19)?),
            threads: number(17)?,
            virtual_bytes: number(20)?,
        })
    }
}

/// When the machine was booted, by `/proc/stat`.
pub(crate) fn booted_at(stat: &str) -> Option<Timestamp> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

/// The number of a line of the form `Name:  12 kB`, in bytes.
pub(crate) fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Time of all processors that was not idle. That of guests of a hypervisor is in the users' already.
fn busy(stat: &str) -> Duration {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let fields: Vec<u64> =
        line.unwrap_or_default().split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user, nice, system, irq, softirq, steal; idle and waiting for disks are the fourth and fifth.
    ticks([0, 1, 2, 5, 6, 7].iter().filter_map(|index| fields.get(*index)).sum())
}

fn parse_pressure(text: &str) -> Option<Pressure> {
    let stall = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let fields: HashMap<&str, &str> =
            line.split_whitespace().filter_map(|field| field.split_once('=')).collect();
        let share = |name: &str| fields.get(name)?.parse::<f64>().ok();
        let micros = fields.get("total")?.parse::<u64>().ok()?;
        let total_nanos = micros.saturating_mul(1000);
        Some(Stall { avg10: share("avg10")?, avg60: share("avg60")?, avg300: share("avg300")?, total_nanos })
    };
    // Before Linux 5.13, nothing was told of all tasks together that wait for a processor.
    Some(Pressure { some: stall("some ")?, full: stall("full ").unwrap_or_default() })
}

fn parse_interfaces(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let fields: Vec<u64> = numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let traffic = |first: usize| {
            let number = |index: usize| fields.get(first + index).copied();
            Some(Traffic { bytes: number(0)?, packets: number(1)?, errors: number(2)?, dropped: number(3)? })
        };
        Some(Interface { name: name.trim().to_owned(), received: traffic(0)?, sent: traffic(8)? })
    };
    text.lines().filter_map(interface).filter(|interface| interface.name != "lo").collect()
}

/// The interface of the default route with the lowest metric.
fn parse_default_route(text: &str) -> Option<String> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = *fields.get(1)? == "00000000" && *fields.get(7)? == "00000000";
        let metric: u64 = fields.get(6)?.parse().ok()?;
        is_default.then(|| (metric, (*fields[0]).to_owned()))
    };
    text.lines().filter_map(route).min().map(|(_, interface)| interface)
}

fn parse_processes(loadavg: &str, limit: &str) -> Option<Processes> {
    let (_, all) = loadavg.split_whitespace().nth(3)?.split_once('/')?;
    Some(Processes { current: all.parse().ok()?, limit: limit.trim().parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let stat = "cpu  100 10 20 1000 500 3 4 5 60 70\ncpu0 1 1 1 1\nbtime 17\n";
        assert_eq!(busy(stat), Duration::from_millis(1420));
        assert_eq!(booted_at(stat).unwrap().as_second(), 17);
        let pressure = parse_pressure("some avg10=1.50 avg60=0.20 avg300=0.00 total=17\n").unwrap();
        assert_eq!((pressure.some.avg10, pressure.some.total_nanos), (1.5, 17_000));
        assert_eq!(pressure.full, Stall::default());
        assert_eq!(parse_pressure(""), None);
        assert_eq!(
            parse_processes("0.1 0.2 0.3 2/345 6789\n", "4194304\n"),
            Some(Processes { current: 345, limit: 4_194_304 })
        );
        assert_eq!(busy(""), Duration::ZERO);
    }

    #[test]
    fn reads_the_times_of_a_process() {
        let text = "7 (a) name) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 12345 4096 0";
        let expected = ProcessTimes {
            cpu: Duration::from_secs(2),
            started_after_boot: Duration::from_millis(123_450),
            threads: 9,
            virtual_bytes: 4096,
        };
        assert_eq!(ProcessTimes::parse(text), Some(expected));
        assert_eq!(ProcessTimes::parse("nonsense"), None);
    }

    #[test]
    fn reads_interfaces_and_the_one_of_the_default_route() {
        let devices = "Inter-|   Receive    |  Transmit\n face |bytes packets\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
             eth0:11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26\n";
        let eth0 = Interface {
            name: "eth0".to_owned(),
            received: Traffic { bytes: 11, packets: 12, errors: 13, dropped: 14 },
            sent: Traffic { bytes: 19, packets: 20, errors: 21, dropped: 22 },
        };
        assert_eq!(parse_interfaces(devices), [eth0]);
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nwlan0\t00000000\t01\t3\t0\t0\t600\t00000000\n\
             eth0\t00000000\t01\t3\t0\t0\t100\t00000000\neth0\t0000A8C0\t00\t1\t0\t0\t0\t00FFFFFF\n";
        assert_eq!(parse_default_route(routes).as_deref(), Some("eth0"));
        assert_eq!(parse_default_route("Iface\n"), None);
    }
}
