//! What a server of Envoy extensions takes: how long a stock Envoy waits for a new extension and for a change of one, and what 100
//! extensions cost with 50 and with 1,000 streams that have all of them. The streams are of a client of ours, each on a connection of
//! TLS of its own, as Envoys have them; half of them speak the state of the world, half delta.

mod site;
mod streams;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kubewasm_tests::{
    cluster::Cluster,
    envoy::{Envoy, EnvoyOptions, Variant},
    home::Home,
    progress::say,
    web::{Answer, Connection},
};
use serde::Serialize;

use self::{
    site::{Site, filter_name},
    streams::Streams,
};
use crate::{
    procfs::Footprint,
    quantiles::Quantiles,
    table::{Table, number},
};

/// How many extensions the streams have.
const EXTENSIONS: usize = 100;
/// How many streams.
const STREAMS: [usize; 2] = [50, 1000];
/// How often an Envoy is waited for, and a change is pushed.
const TIMES: usize = 20;
/// How long an Envoy may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Figures of the server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Extensions {
    /// From the request to make an extension to the first answer that it has filtered, in milliseconds.
    first_ms: Quantiles,
    /// From the request to change its configuration to the first answer that has the new one.
    change_ms: Quantiles,
    levels: Vec<Level>,
}

/// Figures with so many streams.
#[derive(Clone, Copy, Debug, Serialize)]
struct Level {
    streams: usize,
    /// From the first connection to the moment at which each has everything, in seconds.
    subscribed_s: f64,
    /// Of the server, with all streams idle.
    memory: Footprint,
    /// From the request to change one extension to its arrival, of each stream.
    push_ms: Quantiles,
    /// The same, of the last of the streams; the median of all changes.
    push_last_ms: f64,
}

/// Measures, on a control plane of its own.
///
/// # Errors
/// When something cannot be started, or an extension does not arrive.
pub(crate) async fn measure(home: &Home, cluster: &Cluster) -> Result<Extensions> {
    streams::allow_connections()?;
    let site = Site::start(home, cluster).await?;
    let (first_ms, change_ms) = wait_for_envoy(home, &site).await?;
    say("  an Envoy");
    site.apply_all(EXTENSIONS).await?;
    let mut levels = Vec::new();
    for count in STREAMS {
        levels.push(level(&site, count).await?);
        say(&format!("  {EXTENSIONS} extensions, {count} streams"));
    }
    Ok(Extensions { first_ms, change_ms, levels })
}

async fn level(site: &Site, count: usize) -> Result<Level> {
    let begun = Instant::now();
    let streams = Streams::open(site, count, EXTENSIONS).await?;
    let subscribed_s = begun.elapsed().as_secs_f64();
    let memory = site.footprint()?;
    let (mut all, mut last) = (Vec::new(), Vec::new());
    for round in 0..TIMES {
        let value = format!("{count}-{round}");
        let arrivals = streams.arrivals(&value);
        let begun = Instant::now();
        site.apply(round % EXTENSIONS, &value).await?;
        let took: Vec<Duration> = arrivals.await?.into_iter().map(|at| at.duration_since(begun)).collect();
        last.push(took.iter().max().copied().unwrap_or_default());
        all.extend(took);
    }
    let push_ms = Quantiles::of(all).context("nothing was pushed")?;
    let push_last_ms = Quantiles::of(last).context("nothing was pushed")?.p50;
    Ok(Level { streams: count, subscribed_s, memory, push_ms, push_last_ms })
}

/// An Envoy of delta, which answers 500 while there is no extension.
async fn wait_for_envoy(home: &Home, site: &Site) -> Result<(Quantiles, Quantiles)> {
    let options = EnvoyOptions::new(Variant::Delta, site.port, &filter_name(0));
    let options = options.authority(site.authority_file()?).credentials(site.credentials()?);
    let envoy = Envoy::start(home, &options).await?;
    envoy.until("nothing", |answer| answer.status == 500).await?;
    let mut asker = Connection::open(envoy.port()).await?;
    let (mut firsts, mut changes) = (Vec::new(), Vec::new());
    for round in 0..TIMES {
        for (sample, value) in
            [(&mut firsts, format!("first-{round}")), (&mut changes, format!("changed-{round}"))]
        {
            let begun = Instant::now();
            site.apply(0, &value).await?;
            until(&mut asker, |answer| answer.header("plugin-configuration") == value).await?;
            sample.push(begun.elapsed());
        }
        site.delete(0).await?;
        until(&mut asker, |answer| answer.status == 500).await?;
    }
    let firsts = Quantiles::of(firsts).context("nothing was measured")?;
    Ok((firsts, Quantiles::of(changes).context("nothing was measured")?))
}

/// Asks without a pause until the answer is like that.
async fn until(asker: &mut Connection, is_so: impl Fn(&Answer) -> bool) -> Result<()> {
    let asked = async {
        while !is_so(&asker.send(http::Method::GET, "/").await?) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, asked).await.context("the extension does not arrive")?
}

/// The table of extensions.
pub(crate) fn table(extensions: &Extensions) -> Table {
    let heads = extensions.levels.iter().map(|level| format!("{} streams", level.streams));
    let mut table = Table::new(std::iter::once("extensions for Envoys".to_owned()).chain(heads));
    for (name, each) in [("made", extensions.first_ms), ("changed", extensions.change_ms)] {
        for (quantile, value) in [("p50", each.p50), ("p99", each.p99)] {
            // It is measured once, with a stock Envoy and nobody else.
            let mut cells = vec![format!("{name}, until the first filtered answer, {quantile}, ms")];
            cells.extend([number(Some(value), 0)]);
            cells.resize(extensions.levels.len() + 1, String::new());
            table.row(cells);
        }
    }
    let mut row = |name: &str, of: fn(&Level) -> f64, digits| {
        let cells = extensions.levels.iter().map(|level| number(Some(of(level)), digits));
        table.row(std::iter::once(name.to_owned()).chain(cells));
    };
    row("until each stream has all 100, s", |level| level.subscribed_s, 1);
    row("memory of the server, PSS, MiB", |level| mib(level.memory), 1);
    row("one is changed, until a stream has it, p50, ms", |level| level.push_ms.p50, 0);
    row("one is changed, until a stream has it, p99, ms", |level| level.push_ms.p99, 0);
    row("one is changed, until the last stream has it, ms", |level| level.push_last_ms, 0);
    table
}

#[expect(clippy::cast_precision_loss, reason = "no process has that much memory")]
fn mib(footprint: Footprint) -> f64 {
    footprint.pss_kib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_streams_has_a_column() {
        let each = Quantiles { count: 1, p50: 1.0, p90: 1.0, p99: 2.0 };
        let of = |streams, pss_kib| Level {
            streams,
            subscribed_s: 0.5,
            memory: Footprint { rss_kib: 0, pss_kib },
            push_ms: each,
            push_last_ms: 3.0,
        };
        let extensions =
            Extensions { first_ms: each, change_ms: each, levels: vec![of(50, 1024), of(1000, 2048)] };
        let table = table(&extensions).to_string();
        for (name, cells) in [
            ("extensions for Envoys", ["50 streams", "1000 streams"]),
            ("made, until the first filtered answer, p99", ["2", ""]),
            ("memory of the server", ["1.0", "2.0"]),
            ("one is changed, until the last stream", ["3", "3"]),
        ] {
            let row = table.lines().find(|line| line.starts_with(&format!("| {name}"))).unwrap();
            let found: Vec<&str> = row.split('|').map(str::trim).skip(2).take(2).collect();
            assert_eq!(found, cells, "{name}");
        }
    }
}
