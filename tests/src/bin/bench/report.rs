//! What was measured, as JSON (the types) and for people (the text).

mod http;
mod images;
mod network;

use std::path::PathBuf;

use serde::Serialize;

pub(crate) use self::{http::http, images::images, network::network};
use crate::{
    churn::Churn,
    cpu::{Cpu, SHARING},
    exec::{self, Exec},
    extensions::{self, Extensions},
    files::{Files, LARGE, SMALL, Sides},
    http::Http,
    images::Images,
    isolation::Isolated,
    logs::{self, Logs},
    machine::Machine,
    memory::Memory,
    network::Network,
    plugins::{self, Plugins},
    policies::{self, Policies},
    starts::Starts,
    table::{Table, number},
};

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// On what.
    pub(crate) machine: Machine,
    /// With what.
    pub(crate) versions: Versions,
    /// How fast pods start.
    pub(crate) starts: Peers<Starts>,
    /// How fast pods come and go, by rising number of pods in flight.
    pub(crate) churn: Peers<Vec<Churn>>,
    /// What idle pods cost on kubewasm, by rising number of pods.
    pub(crate) memory: Vec<Memory>,
    /// What files cost.
    pub(crate) files: Sides,
    /// What computing costs.
    pub(crate) cpu: Cpu,
    /// What idle pods cost by who shares a worker.
    pub(crate) isolation: Vec<Isolated>,
    /// What images cost.
    pub(crate) images: Images,
    /// What serving HTTP costs.
    pub(crate) http: Http,
    /// What the network costs, where it could be measured.
    pub(crate) network: Option<Network>,
    /// What following logs takes.
    pub(crate) logs: Logs,
    /// What streams to containers take.
    pub(crate) exec: Exec,
    /// What kubectl plugins take.
    pub(crate) plugins: Plugins,
    /// What a server of admission policies takes.
    pub(crate) policies: Policies,
    /// What a server of Envoy extensions takes.
    pub(crate) extensions: Extensions,
}

/// The programs that took part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Versions {
    /// Of the control plane.
    pub(crate) kubernetes: String,
    /// Of the kubewasm node, as its Node object says it.
    pub(crate) kubelet: String,
    /// Of wasmtime, as the Node object says it.
    pub(crate) runtime: String,
    /// The kubewasm program; its path tells which profile it was built with.
    pub(crate) program: PathBuf,
    /// Of kwok, where it took part.
    pub(crate) kwok: Option<String>,
}

/// The same thing measured on both nodes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Peers<T> {
    /// On kubewasm.
    pub(crate) kubewasm: T,
    /// On kwok, where it took part.
    pub(crate) kwok: Option<T>,
}

/// The report for people.
pub(crate) fn text(report: &Report) -> String {
    format!(
        "{}\n{}{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}{}\n{}\n{}\n{}\n{}\n{}",
        head(&report.machine, &report.versions),
        starts(&report.starts),
        remark(&report.starts),
        churn(&report.churn),
        memory(&report.memory),
        isolation(&report.isolation),
        files(&report.files),
        cpu(&report.cpu),
        images(&report.images),
        http(&report.http),
        report.network.as_ref().map(|measured| format!("\n{}", network(measured))).unwrap_or_default(),
        logs::table(&report.logs),
        exec::table(&report.exec),
        plugins::table(&report.plugins),
        policies::table(&report.policies),
        extensions::table(&report.extensions)
    )
}

fn head(machine: &Machine, versions: &Versions) -> String {
    format!(
        "{}; {}, {} cores, {:.0} GiB, Linux {}; load {:.1} at the end\n{} ({}), Kubernetes {}, {}\n{}\n",
        machine.time.strftime("%Y-%m-%d %H:%M UTC"),
        machine.cpu,
        machine.cores,
        mib(machine.memory_kib) / 1024.0,
        machine.kernel,
        machine.load,
        versions.kubelet,
        versions.runtime,
        versions.kubernetes,
        versions.kwok.as_deref().unwrap_or("without kwok"),
        versions.program.display(),
    )
}

/// A row of the table of starts: its name, the digits that it is worth, and where its number is.
type Figure = (String, usize, fn(&Starts) -> Option<f64>);

/// A row of the table of churn: its name, the digits that it is worth, and where its number is.
type Rate = (&'static str, usize, fn(&Churn) -> f64);

/// A row of the table of memory: its name, and where its KiB are.
type Kib = (&'static str, fn(&Memory) -> u64);

fn starts(starts: &Peers<Starts>) -> Table {
    let burst = starts.kubewasm.burst().map_or(0, |burst| burst.pods);
    let figures: [Figure; 8] = [
        ("one by one, bound to Running, p50, ms".to_owned(), 1, |starts| Some(starts.single_ms.p50)),
        ("one by one, bound to Running, p90, ms".to_owned(), 1, |starts| Some(starts.single_ms.p90)),
        ("one by one, bound to Running, p99, ms".to_owned(), 1, |starts| Some(starts.single_ms.p99)),
        (format!("{burst} at once, bound to Running, p50, ms"), 0, |starts| {
            Some(starts.burst()?.each_ms.p50)
        }),
        (format!("{burst} at once, bound to Running, p99, ms"), 0, |starts| {
            Some(starts.burst()?.each_ms.p99)
        }),
        (format!("{burst} at once, created by the API server, s"), 2, |starts| {
            Some(starts.burst()?.created_s)
        }),
        (format!("{burst} at once, first bound to last Running, s"), 2, |starts| {
            Some(starts.burst()?.running_s)
        }),
        (format!("{burst} at once, Running, pods/s"), 1, |starts| Some(starts.burst()?.running_per_s)),
    ];
    let mut heads = vec!["starting pods", "kubewasm"];
    if starts.kwok.is_some() {
        heads.extend(["kwok", "kubewasm/kwok"]);
    }
    let mut table = Table::new(heads);
    for (name, digits, figure) in figures {
        let ours = figure(&starts.kubewasm);
        let mut cells = vec![name, number(ours, digits)];
        if let Some(kwok) = &starts.kwok {
            let theirs = figure(kwok);
            let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
            cells.extend([number(theirs, digits), number(ratio, 2)]);
        }
        table.row(cells);
    }
    table
}

/// What a reader must know about the table of starts.
fn remark(starts: &Peers<Starts>) -> String {
    let closed = |starts: &Starts| starts.watches_closed;
    match (closed(&starts.kubewasm), starts.kwok.as_ref().map_or(0, closed)) {
        (0, 0) => String::new(),
        (kubewasm, kwok) => format!(
            "\nThe observer fell behind and lost its watch for a moment ({kubewasm} times on kubewasm, {kwok} on \
             kwok): some times are too long.\n"
        ),
    }
}

fn churn(churn: &Peers<Vec<Churn>>) -> Table {
    let figures: [Rate; 5] = [
        ("pods/s", 1, |churn| churn.per_s),
        ("created to gone, p50, ms", 0, |churn| churn.each_ms.p50),
        ("created to gone, p99, ms", 0, |churn| churn.each_ms.p99),
        ("processor time of the agent, ms per pod", 2, |churn| churn.agent_cpu_ms),
        ("processor time of the workers, ms per pod", 2, |churn| churn.workers_cpu_ms),
    ];
    let mut heads = vec!["create, Ready, delete, gone", "kubewasm"];
    if churn.kwok.is_some() {
        heads.extend(["kwok", "kubewasm/kwok"]);
    }
    let mut table = Table::new(heads);
    for (level, ours) in churn.kubewasm.iter().enumerate() {
        for (name, digits, figure) in figures {
            let mut cells =
                vec![format!("{} in flight, {name}", ours.in_flight), number(Some(figure(ours)), digits)];
            if let Some(kwok) = &churn.kwok {
                let theirs = kwok.get(level).map(figure);
                let ratio = theirs.filter(|theirs| *theirs > 0.0).map(|theirs| figure(ours) / theirs);
                cells.extend([number(theirs, digits), number(ratio, 2)]);
            }
            table.row(cells);
        }
    }
    table
}

pub(crate) fn memory(levels: &[Memory]) -> Table {
    // From the second level on, so that what the first pod brings (a worker, the module) does not count as
    // the price of every pod.
    let slope = match levels {
        [_, first, .., last] if last.pods > first.pods => Some((first, last)),
        _ => None,
    };
    let mut heads = vec!["idle pods".to_owned()];
    heads.extend(levels.iter().map(|level| level.pods.to_string()));
    heads.extend(slope.map(|(first, last)| format!("KiB per pod, {} to {}", first.pods, last.pods)));
    let figures: [Kib; 6] = [
        ("agent, RSS, MiB", |level| level.agent.rss_kib),
        ("agent, PSS, MiB", |level| level.agent.pss_kib),
        ("workers, RSS, MiB", |level| level.workers.rss_kib),
        ("workers, PSS, MiB", |level| level.workers.pss_kib),
        ("together, RSS, MiB", |level| level.all().rss_kib),
        ("together, PSS, MiB", |level| level.all().pss_kib),
    ];
    let mut table = Table::new(heads);
    for (name, figure) in figures {
        let mut cells = vec![name.to_owned()];
        cells.extend(levels.iter().map(|level| number(Some(mib(figure(level))), 1)));
        cells.extend(slope.map(|(first, last)| {
            let grown = figure(last) as f64 - figure(first) as f64;
            number(Some(grown / (last.pods - first.pods) as f64), 1)
        }));
        table.row(cells);
    }
    let mut idle = vec!["processor time while idle, % of a core".to_owned()];
    idle.extend(levels.iter().map(|level| number(Some(level.cpu_percent), 1)));
    table.row(idle);
    table
}

/// A row of the table of files: its name, and where its microseconds are.
type Microseconds = (String, fn(&Files) -> u64);

/// The table of files.
pub(crate) fn files(sides: &Sides) -> Table {
    let figures: [Microseconds; 3] = [
        (format!("{SMALL} small files written, read, removed, ms"), |files| files.small_us),
        (format!("{LARGE} MiB written, ms"), |files| files.write_us),
        (format!("{LARGE} MiB read, ms"), |files| files.read_us),
    ];
    let mut heads = vec!["files", "kubewasm"];
    if sides.wasmtime.is_some() {
        heads.extend(["wasmtime run", "kubewasm/wasmtime"]);
    }
    let mut table = Table::new(heads);
    for (name, figure) in figures {
        let milliseconds = |files: &Files| figure(files) as f64 / 1000.0;
        let ours = milliseconds(&sides.kubewasm);
        let mut cells = vec![name, number(Some(ours), 1)];
        if let Some(theirs) = sides.wasmtime.as_ref().map(milliseconds) {
            cells.extend([number(Some(theirs), 1), number((theirs > 0.0).then(|| ours / theirs), 2)]);
        }
        table.row(cells);
    }
    table
}

/// The table of computing.
pub(crate) fn cpu(cpu: &Cpu) -> Table {
    let mut heads = vec!["computing", "kubewasm"];
    if cpu.wasmtime_ms.is_some() {
        heads.extend(["wasmtime run", "wasmtime/kubewasm"]);
    }
    let mut table = Table::new(heads);
    let mut cells = vec!["a guest that is alone, ms".to_owned(), number(Some(cpu.kubewasm_ms), 0)];
    if let Some(theirs) = cpu.wasmtime_ms {
        let ratio = (cpu.kubewasm_ms > 0.0).then(|| theirs / cpu.kubewasm_ms);
        cells.extend([number(Some(theirs), 0), number(ratio, 2)]);
    }
    table.row(cells);
    for (which, share) in [("least", cpu.shares.least), ("most", cpu.shares.most)] {
        table.row(vec![format!("{SHARING} guests that share, {which} of the mean"), number(Some(share), 2)]);
    }
    table
}

fn isolation(modes: &[Isolated]) -> Table {
    let heads = ["--isolation", "idle pods", "workers", "workers, PSS, MiB", "together, KiB per pod"];
    let mut table = Table::new(heads.map(str::to_owned).to_vec());
    for mode in modes {
        table.row(vec![
            mode.isolation.clone(),
            mode.full.pods.to_string(),
            mode.full.worker_processes.to_string(),
            number(Some(mib(mode.full.workers.pss_kib)), 1),
            number(Some(mode.kib_per_pod()), 0),
        ]);
    }
    table
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{cpu::Shares, procfs::Footprint, quantiles::Quantiles, starts::Burst};

    fn starts_of(milliseconds: u64) -> Starts {
        let each = Quantiles::of(vec![Duration::from_millis(milliseconds); 200]).unwrap();
        let time = Duration::from_millis(milliseconds * 10);
        Starts { single_ms: each, bursts: vec![Burst::new(time, time * 2, each)], watches_closed: 0 }
    }

    fn level(pods: usize, agent: u64, workers: u64) -> Memory {
        let footprint = |kib| Footprint { rss_kib: kib, pss_kib: kib / 2 };
        Memory {
            pods,
            agent: footprint(agent),
            workers: footprint(workers),
            worker_processes: usize::from(workers > 0),
            cpu_percent: 0.25,
        }
    }

    /// The cells of the row whose name begins with `name`, without the name.
    pub(super) fn row(table: &Table, name: &str) -> Vec<String> {
        let text = table.to_string();
        let found = text.lines().find(|line| line.starts_with(&format!("| {name}"))).unwrap();
        let cells: Vec<String> = found.split('|').map(|cell| cell.trim().to_owned()).collect();
        cells[2..cells.len() - 1].to_vec()
    }

    #[test]
    fn computing_is_set_against_wasmtime() {
        let shares = Shares { least: 0.98, most: 1.02 };
        let table = cpu(&Cpu { kubewasm_ms: 2000.0, wasmtime_ms: Some(1960.0), shares });
        assert_eq!(row(&table, "a guest that is alone"), ["2000", "1960", "0.98"]);
        assert_eq!(row(&table, "100 guests that share, least")[0], "0.98");
        let table = cpu(&Cpu { kubewasm_ms: 2000.0, wasmtime_ms: None, shares });
        assert_eq!(row(&table, "computing"), ["kubewasm"]);
    }

    #[test]
    fn starts_are_set_against_the_peer() {
        let table = starts(&Peers { kubewasm: starts_of(50), kwok: Some(starts_of(20)) });
        for (name, cells) in [
            ("starting pods", ["kubewasm", "kwok", "kubewasm/kwok"]),
            ("one by one, bound to Running, p50", ["50.0", "20.0", "2.50"]),
            ("200 at once, first bound to last Running", ["1.00", "0.40", "2.50"]),
            ("200 at once, Running, pods/s", ["200.0", "500.0", "0.40"]),
        ] {
            assert_eq!(row(&table, name), cells, "{name}");
        }
    }

    #[test]
    fn without_a_peer_there_is_no_column_for_it() {
        let table = starts(&Peers { kubewasm: starts_of(50), kwok: None });
        assert_eq!(row(&table, "starting pods"), ["kubewasm"]);
        assert_eq!(row(&table, "one by one, bound to Running, p99"), ["50.0"]);
    }

    #[test]
    fn a_watch_that_was_lost_is_told() {
        let mut starts = Peers { kubewasm: starts_of(50), kwok: None };
        assert_eq!(remark(&starts), "");
        starts.kubewasm.watches_closed = 2;
        assert!(remark(&starts).contains("2 times on kubewasm, 0 on kwok"));
    }

    #[test]
    fn churn_is_set_against_the_peer_where_both_have_a_figure() {
        let churn_of = |milliseconds, workers_cpu_ms| Churn {
            in_flight: 10,
            pods: 500,
            per_s: 100.0,
            each_ms: Quantiles::of(vec![Duration::from_millis(milliseconds)]).unwrap(),
            agent_cpu_ms: 4.0,
            workers_cpu_ms,
        };
        let table = churn(&Peers { kubewasm: vec![churn_of(50, 1.0)], kwok: Some(vec![churn_of(20, 0.0)]) });
        for (name, cells) in [
            ("create, Ready", ["kubewasm", "kwok", "kubewasm/kwok"]),
            ("10 in flight, pods/s", ["100.0", "100.0", "1.00"]),
            ("10 in flight, created to gone, p50", ["50", "20", "2.50"]),
            ("10 in flight, processor time of the workers", ["1.00", "0.00", "-"]),
        ] {
            assert_eq!(row(&table, name), cells, "{name}");
        }
    }

    #[test]
    fn the_first_pod_is_not_the_price_of_every_pod() {
        let table = memory(&[level(0, 20_480, 0), level(100, 21_504, 30_720), level(1_100, 31_504, 60_720)]);
        for (name, cells) in [
            ("idle pods", ["0", "100", "1100", "KiB per pod, 100 to 1100"]),
            ("agent, RSS", ["20.0", "21.0", "30.8", "10.0"]),
            ("together, PSS", ["10.0", "25.5", "45.0", "20.0"]),
            ("processor time", ["0.2", "0.2", "0.2", ""]),
        ] {
            assert_eq!(row(&table, name), cells, "{name}");
        }
    }

    #[test]
    fn files_are_set_against_wasmtime() {
        let ours = Files { small_us: 3000, write_us: 2000, read_us: 1000 };
        let theirs = Files { small_us: 1500, write_us: 2000, read_us: 0 };
        let table = files(&Sides { kubewasm: ours, wasmtime: Some(theirs) });
        for (name, cells) in [
            ("files", ["kubewasm", "wasmtime run", "kubewasm/wasmtime"]),
            ("1000 small files", ["3.0", "1.5", "2.00"]),
            ("64 MiB written", ["2.0", "2.0", "1.00"]),
            ("64 MiB read", ["1.0", "0.0", "-"]),
        ] {
            assert_eq!(row(&table, name), cells, "{name}");
        }
        assert_eq!(row(&files(&Sides { kubewasm: ours, wasmtime: None }), "64 MiB read"), ["1.0"]);
    }

    #[test]
    fn one_level_has_no_slope() {
        assert_eq!(row(&memory(&[level(0, 1, 0), level(5, 2, 1)]), "idle pods"), ["0", "5"]);
    }
}
