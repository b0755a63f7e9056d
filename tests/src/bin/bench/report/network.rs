//! The tables of the network.

use super::{Table, number};
use crate::network::{
    Network,
    addresses::{AddressCost, PODS},
    echo::{Echo, Echoes},
    services::{Rates, ServiceRates},
    tables::{ENDPOINTS, SERVICES, TableCost},
};

/// All tables of the network.
pub(crate) fn network(network: &Network) -> String {
    format!(
        "{}\n{}\n{}\n{}",
        echo(&network.echo),
        services(&network.services),
        addresses(&network.addresses),
        tables(&network.tables)
    )
}

fn ratio(one: f64, other: f64) -> String {
    number((other > 0.0).then(|| one / other), 2)
}

/// A row of the table of echoes: its name, the digits that it is worth, and where its number is.
type Figure = (&'static str, usize, fn(&Echo) -> f64);

fn echo(echoes: &Echoes) -> Table {
    let figures: [Figure; 3] = [
        ("one connection, MB/s each way", 0, |echo| echo.mb_per_s),
        ("one connection, requests/s", 0, |echo| echo.requests_per_s),
        ("a connection for each request, per second", 0, |echo| echo.connections_per_s),
    ];
    let mut heads = vec!["a guest that sends back what it gets", "pod's address", "loopback"];
    if echoes.wasmtime.is_some() {
        heads.extend(["wasmtime run", "pod/wasmtime", "loopback/wasmtime"]);
    }
    let mut table = Table::new(heads);
    for (name, digits, figure) in figures {
        let (pod, loopback) = (figure(&echoes.pod), figure(&echoes.loopback));
        let mut cells = vec![name.to_owned(), number(Some(pod), digits), number(Some(loopback), digits)];
        if let Some(wasmtime) = &echoes.wasmtime {
            let theirs = figure(wasmtime);
            cells.extend([number(Some(theirs), digits), ratio(pod, theirs), ratio(loopback, theirs)]);
        }
        table.row(cells);
    }
    table
}

fn services(rates: &ServiceRates) -> Table {
    let mut table = Table::new(["connections per second", "directly", "by a Service", "Service/directly"]);
    for (name, Rates { direct, by_service }) in
        [("a guest", rates.guest), ("a program behind a kube-proxy", rates.kube_proxy)]
    {
        table.row([
            name.to_owned(),
            number(Some(direct), 0),
            number(Some(by_service), 0),
            ratio(by_service, direct),
        ]);
    }
    table
}

fn addresses(cost: &AddressCost) -> Table {
    let mut table = Table::new([format!("addresses of {PODS} pods, each"), "kubewasm".to_owned()]);
    for (name, value) in [
        ("to give one of IPv4, µs", cost.v4_us),
        ("to give one of each family, µs", cost.both_us),
        ("to take one of IPv4 back, µs", cost.back_us),
        ("to take one of each family back, where all go at once, µs", cost.together_us),
        ("kernel memory of one of IPv4, bytes", cost.v4_bytes),
    ] {
        table.row([name.to_owned(), number(Some(value), 0)]);
    }
    table
}

fn tables(cost: &TableCost) -> Table {
    let head = format!("{SERVICES} Services of {ENDPOINTS} endpoints, bytes for each");
    let mut table = Table::new([head, "kubewasm".to_owned()]);
    table.row(["agent".to_owned(), number(Some(cost.agent_bytes), 0)]);
    table.row(["a worker".to_owned(), number(Some(cost.worker_bytes), 0)]);
    table
}

#[cfg(test)]
mod tests {
    use super::{super::tests::row, *};

    #[test]
    fn ratios_are_of_the_same_figure() {
        let echo = |by: f64| Echo { mb_per_s: by, requests_per_s: 10.0 * by, connections_per_s: by };
        let echoes = Echoes { pod: echo(3.0), loopback: echo(5.0), wasmtime: Some(echo(2.0)) };
        let table = super::echo(&echoes);
        assert_eq!(row(&table, "one connection, requests/s"), ["30", "50", "20", "1.50", "2.50"]);
        let alone = super::echo(&Echoes { wasmtime: None, ..echoes });
        assert_eq!(row(&alone, "one connection, requests/s"), ["30", "50"]);
        let rates = |direct, by_service| Rates { direct, by_service };
        let both = ServiceRates { guest: rates(1000.0, 900.0), kube_proxy: rates(0.0, 1.0) };
        let table = services(&both);
        assert_eq!(row(&table, "a guest"), ["1000", "900", "0.90"]);
        assert_eq!(row(&table, "a program behind a kube-proxy"), ["0", "1", "-"]);
    }
}
