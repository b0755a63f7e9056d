//! The tables of HTTP.

use super::{Table, memory, number};
use crate::http::{Http, Served, Sides};

/// All tables of HTTP.
pub(crate) fn http(http: &Http) -> String {
    format!(
        "{}\n{}\n{}",
        sides("a fresh instance for each request", &http.fresh),
        sides("instances that are kept", &http.kept),
        memory(&http.idle)
    )
}

/// A row of the table of a number of connections: its name, the digits that it is worth, and where its number is.
type Figure = (&'static str, usize, fn(&Served) -> f64);

fn sides(head: &str, sides: &Sides) -> Table {
    let figures: [Figure; 4] = [
        ("requests/s", 0, |served| served.requests_per_s),
        ("p50, ms", 2, |served| served.ms.p50),
        ("p99, ms", 2, |served| served.ms.p99),
        ("RSS, MiB", 1, |served| served.rss_kib as f64 / 1024.0),
    ];
    let mut heads = vec![head, "kubewasm"];
    if sides.wasmtime.is_some() {
        heads.extend(["wasmtime serve", "kubewasm/wasmtime"]);
    }
    let mut table = Table::new(heads);
    for (index, ours) in sides.kubewasm.iter().enumerate() {
        for (name, digits, figure) in figures {
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
}
