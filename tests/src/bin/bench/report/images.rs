//! The tables of images.

use super::{Table, number};
use crate::{
    images::{
        Images,
        burst::{CompileBurst, MODULES, Service},
        pulls::{PullSpeed, SIZE},
        shared::{PODS, SharedImage},
        starts::GuestStarts,
    },
    quantiles::Quantiles,
};

/// All tables of images.
pub(crate) fn images(images: &Images) -> String {
    format!(
        "{}\n{}\n{}\n{}",
        starts(&images.starts),
        shared(&images.shared),
        pulls(&images.pulls),
        burst(&images.burst)
    )
}

fn ratio(one: f64, other: f64) -> String {
    number((other > 0.0).then(|| one / other), 2)
}

fn starts(guests: &[GuestStarts]) -> Table {
    let mut table = Table::new([
        "a module that is new to the node, bound to Running, ms",
        "first",
        "second",
        "first/second",
    ]);
    for guest in guests {
        let (first, second) = (guest.first_ms.p50, guest.second_ms.p50);
        let size = guest.module_bytes as f64 / 1e6;
        table.row([
            format!("{}, {size:.1} MB, median of {}", guest.language, guest.first_ms.count),
            number(Some(first), 0),
            number(Some(second), 1),
            ratio(first, second),
        ]);
    }
    table
}

fn shared(shared: &SharedImage) -> Table {
    let mut table = Table::new([format!("{PODS} pods of one new module at once"), "kubewasm".to_owned()]);
    let asked = shared.asked;
    for (name, count) in [
        ("requests for its manifest", asked.manifest),
        ("blobs fetched", asked.blobs),
        ("GETs of the blob that was fetched most often", asked.gets_of_a_blob),
    ] {
        table.row([name.to_owned(), count.to_string()]);
    }
    table.row(["first bound to last Running, s".to_owned(), number(Some(shared.running_s), 2)]);
    table
}

fn pulls(pulls: &[PullSpeed]) -> Table {
    let with_curl = pulls.iter().any(|pull| pull.curl_mb_per_s.is_some());
    let mut heads = vec![format!("pulling {SIZE} MiB, MB/s"), "kubewasm module pull".to_owned()];
    if with_curl {
        heads.extend(["curl", "kubewasm/curl"].map(str::to_owned));
    }
    let mut table = Table::new(heads);
    for pull in pulls {
        let mut cells = vec![pull.content.clone(), number(Some(pull.kubewasm_mb_per_s), 0)];
        if let Some(curl) = pull.curl_mb_per_s {
            cells.extend([number(Some(curl), 0), ratio(pull.kubewasm_mb_per_s, curl)]);
        }
        table.row(cells);
    }
    table
}

/// A row of the table of the burst: its name, where its sample is, and which quantile of it.
type Figure = (&'static str, fn(&Service) -> Quantiles, fn(&Quantiles) -> f64);

fn burst(burst: &CompileBurst) -> Table {
    let figures: [Figure; 4] = [
        ("woken from 10 ms of sleep too late by, p50, ms", |service| service.late_ms, |late| late.p50),
        ("woken from 10 ms of sleep too late by, p99, ms", |service| service.late_ms, |late| late.p99),
        ("a step of arithmetic, p50, ms", |service| service.step_ms, |step| step.p50),
        ("a step of arithmetic, p99, ms", |service| service.step_ms, |step| step.p99),
    ];
    let pulled = format!("{MODULES} are created and pulled");
    let compiled = format!("{MODULES} are compiled");
    let what = "guests that run while others are compiled";
    let mut table = Table::new([what, "quiet", &pulled, &compiled, "compiled/quiet"]);
    for (name, sample, quantile) in figures {
        let all = [burst.quiet, burst.begun, burst.busy].map(|service| quantile(&sample(&service)));
        let [quiet, begun, busy] = all.map(|value| number(Some(value), 2));
        table.row([name.to_owned(), quiet, begun, busy, ratio(all[2], all[0])]);
    }
    let size = burst.module_bytes as f64 / 1e6;
    table.row([
        format!("{MODULES} modules of {size:.1} MB, first bound to last Running, s"),
        String::new(),
        String::new(),
        number(Some(burst.running_s), 1),
    ]);
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::tests::row, *};
    use crate::images::shared::Asked;

    fn quantiles(milliseconds: u64) -> Quantiles {
        Quantiles::of(vec![Duration::from_millis(milliseconds); 5]).unwrap()
    }

    #[test]
    fn first_starts_are_set_against_second_ones() {
        let guest = |language: &str, first, second| GuestStarts {
            language: language.to_owned(),
            module_bytes: 4_023_176,
            first_ms: quantiles(first),
            second_ms: quantiles(second),
        };
        let table = starts(&[guest("C", 300, 40), guest("Go", 4000, 0)]);
        assert_eq!(row(&table, "C, 4.0 MB, median of 5"), ["300", "40.0", "7.50"]);
        assert_eq!(row(&table, "Go, 4.0 MB"), ["4000", "0.0", "-"]);
    }

    #[test]
    fn what_the_registry_was_asked_for_is_told() {
        let asked = Asked { manifest: 3, blobs: 2, gets_of_a_blob: 1 };
        let table = shared(&SharedImage { asked, running_s: 2.5 });
        for (name, cell) in
            [("requests", "3"), ("blobs fetched", "2"), ("GETs of the blob", "1"), ("first bound", "2.50")]
        {
            assert_eq!(row(&table, name), [cell], "{name}");
        }
    }

    #[test]
    fn pulls_are_set_against_curl_where_it_took_part() {
        let pull = |curl_mb_per_s| PullSpeed {
            content: "a module".to_owned(),
            blob_bytes: 1,
            kubewasm_mb_per_s: 100.0,
            curl_mb_per_s,
        };
        assert_eq!(row(&pulls(&[pull(Some(400.0))]), "a module"), ["100", "400", "0.25"]);
        let table = pulls(&[pull(None)]);
        assert_eq!(row(&table, "a module"), ["100"]);
        assert_eq!(row(&table, "pulling 256 MiB"), ["kubewasm module pull"]);
    }

    #[test]
    fn guests_during_the_burst_are_set_against_quiet_ones() {
        let service = |late, step| Service { late_ms: quantiles(late), step_ms: quantiles(step) };
        let measured = CompileBurst {
            module_bytes: 1_500_000,
            running_s: 30.0,
            quiet: service(1, 2),
            begun: service(4, 6),
            busy: service(3, 2),
        };
        let table = burst(&measured);
        assert_eq!(
            row(&table, "woken from 10 ms of sleep too late by, p99"),
            ["1.00", "4.00", "3.00", "3.00"]
        );
        assert_eq!(row(&table, "a step of arithmetic, p99"), ["2.00", "6.00", "2.00", "1.00"]);
        assert_eq!(row(&table, "20 modules of 1.5 MB"), ["", "", "30.0", ""]);
    }
}
