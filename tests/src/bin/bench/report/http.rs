//! The tables of HTTP.

use super::{Table, memory, number};
use crate::http::{Beside, Heavy, Http, HttpStarts, Served, Sides};

/// All tables of HTTP.
pub(crate) fn http(http: &Http) -> String {
    format!(
        "{}\n{}\n{}\n{}\n{}\n{}",
        sides("a fresh instance for each request", &http.fresh),
        sides("instances that are kept", &http.kept),
        memory(&http.idle),
        starts(&http.starts),
        heavy(&http.heavy),
        beside(&http.beside)
    )
}

fn starts(starts: &HttpStarts) -> Table {
    let burst = &starts.burst;
    let mut table =
        Table::new(vec![format!("{} pods at once that serve HTTP", burst.pods), "kubewasm".to_owned()]);
    for (name, value, digits) in [
        ("bound to Running, p50, ms", Some(burst.each_ms.p50), 0),
        ("bound to Running, p99, ms", Some(burst.each_ms.p99), 0),
        ("first bound to last Running, s", Some(burst.running_s), 2),
        ("first request of a pod, p50, ms", starts.first_ms.map(|first| first.p50), 2),
        ("first request of a pod, p99, ms", starts.first_ms.map(|first| first.p99), 2),
    ] {
        table.row(vec![name.to_owned(), number(value, digits)]);
    }
    table
}

fn heavy(heavy: &Heavy) -> Table {
    let head = format!("a guest in Python, {:.0} MB", heavy.bytes as f64 / 1e6);
    let mut table = Table::new(vec![head, "fresh".to_owned(), "kept".to_owned(), "kept/fresh".to_owned()]);
    for (fresh, kept) in heavy.fresh.iter().zip(&heavy.kept) {
        for (name, digits, figure) in FIGURES {
            let (one, other) = (figure(fresh), figure(kept));
            let ratio = (one > 0.0).then(|| other / one);
            table.row(vec![
                format!("{} connections, {name}", fresh.connections),
                number(Some(one), digits),
                number(Some(other), digits),
                number(ratio, 2),
            ]);
        }
    }
    table
}

/// The first is the quiet one.
fn beside(all: &[Beside]) -> Table {
    let heads = ["a pod beside one that", "requests/s", "p50, ms", "p99, ms", "p99/quiet"];
    let mut table = Table::new(heads.map(str::to_owned).to_vec());
    let quiet = all.first().map_or(0.0, |quiet| quiet.ms.p99);
    for one in all {
        let ratio = (quiet > 0.0).then(|| one.ms.p99 / quiet);
        table.row(vec![
            one.handler.to_owned(),
            number(Some(one.requests_per_s), 0),
            number(Some(one.ms.p50), 2),
            number(Some(one.ms.p99), 2),
            number(ratio, 2),
        ]);
    }
    table
}

/// A row of the table of a number of connections: its name, the digits that it is worth, and where its number is.
type Figure = (&'static str, usize, fn(&Served) -> f64);

const FIGURES: [Figure; 4] = [
    ("requests/s", 0, |served| served.requests_per_s),
    ("p50, ms", 2, |served| served.ms.p50),
    ("p99, ms", 2, |served| served.ms.p99),
    ("RSS, MiB", 1, |served| served.rss_kib as f64 / 1024.0),
];

fn sides(head: &str, sides: &Sides) -> Table {
    let mut heads = vec![head, "kubewasm"];
    if sides.wasmtime.is_some() {
        heads.extend(["wasmtime serve", "kubewasm/wasmtime"]);
    }
    let mut table = Table::new(heads);
    for (index, ours) in sides.kubewasm.iter().enumerate() {
        for (name, digits, figure) in FIGURES {
            let value = figure(ours);
            let mut cells =
                vec![format!("{} connections, {name}", ours.connections), number(Some(value), digits)];
            if let Some(theirs) = sides.wasmtime.as_ref().and_then(|all| all.get(index)) {
                let their_value = figure(theirs);
                let ratio = (their_value > 0.0).then(|| value / their_value);
                cells.extend([number(Some(their_value), digits), number(ratio, 2)]);
            }
            table.row(cells);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{super::tests::row, *};
    use crate::quantiles::Quantiles;

    #[test]
    fn the_same_numbers_of_connections_are_compared() {
        let ms = Quantiles { count: 1, p50: 1.0, p90: 1.0, p99: 2.0 };
        let served = |connections, requests_per_s| Served { connections, requests_per_s, ms, rss_kib: 2048 };
        let both = Sides {
            kubewasm: vec![served(1, 10.0), served(8, 30.0)],
            wasmtime: Some(vec![served(1, 20.0), served(8, 10.0)]),
        };
        let table = sides("fresh", &both);
        assert_eq!(row(&table, "1 connections, requests/s"), ["10", "20", "0.50"]);
        assert_eq!(row(&table, "8 connections, requests/s"), ["30", "10", "3.00"]);
        assert_eq!(row(&table, "8 connections, RSS, MiB"), ["2.0", "2.0", "1.00"]);
        let alone = sides("fresh", &Sides { wasmtime: None, ..both });
        assert_eq!(row(&alone, "1 connections, p99, ms"), ["2.00"]);
    }

    #[test]
    fn a_neighbour_is_compared_with_itself() {
        let at = |handler, p99| Beside {
            handler,
            requests_per_s: 10.0,
            ms: Quantiles { count: 1, p50: 1.0, p90: 1.0, p99 },
        };
        let table = beside(&[at("does nothing", 2.0), at("computes without end", 3.0)]);
        assert_eq!(row(&table, "does nothing"), ["10", "1.00", "2.00", "1.00"]);
        assert_eq!(row(&table, "computes without end"), ["10", "1.00", "3.00", "1.50"]);
    }
}
