//! Guests that run while many modules are compiled: whether they notice.
//!
//! The guests (`tests/guests/beat.c`) print how late they were woken and how long a step of arithmetic took, and what they
//! print bears the time at which it was printed. So they need not be told when the burst begins.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use kubewasm_tests::{
    guests,
    progress::{Step, say},
    registry::image::Content,
};
use serde::Serialize;
use tokio::time::Instant;

use super::{Site, generated};
use crate::{pods::Pods, quantiles::Quantiles};

/// Guests that tell how they are served.
const GUESTS: usize = 4;

/// New modules that are compiled at once.
pub(crate) const MODULES: usize = 20;

/// How long the guests are watched while nothing happens.
const QUIET: Duration = Duration::from_secs(20);

/// Time for the guests to run.
const START: Duration = Duration::from_secs(60);

/// Time for all modules to be compiled and to run.
const COMPILED: Duration = Duration::from_secs(600);

/// Images that are pushed at once.
const PUSHES: usize = 4;

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CompileBurst {
    /// Size of each module.
    pub(crate) module_bytes: usize,
    /// From the first pod seen bound to the last seen Running, in seconds.
    pub(crate) running_s: f64,
    /// How the guests were served while nothing else happened.
    pub(crate) quiet: Service,
    /// The same while the pods were created and their modules pulled: until the first was seen Running.
    pub(crate) begun: Service,
    /// The same from then on, while the others were compiled.
    pub(crate) busy: Service,
}

/// How guests were served.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Service {
    /// By how much they were woken too late.
    pub(crate) late_ms: Quantiles,
    /// How long a step of arithmetic took.
    pub(crate) step_ms: Quantiles,
}

/// A line that a guest has printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beat {
    at: Timestamp,
    late: Duration,
    step: Duration,
}

/// Watches guests, first alone and then during a burst.
///
/// # Errors
/// When a pod does not come to run, or does not say what it should.
pub(crate) async fn measure(site: Site<'_>) -> Result<CompileBurst> {
    let module = generated::module()?;
    let step = Step::begin(&format!("pushing {MODULES} new modules"));
    let push = async |number: usize| {
        super::push_new(site.registry, &format!("burst-{number}:v1"), &module, &number.to_string()).await
    };
    let images: Vec<String> = stream::iter(0..MODULES).map(push).buffered(PUSHES).try_collect().await?;
    let guest = Content::program("beat", guests::guest("beat.c").await?);
    let beats = Pods::new(site.client, &site.registry.push("beat:v1", &guest).await?.tagged);
    step.done();

    let mut beating = beats.observe("beat").await?;
    beats.create_all("beat", site.node.name(), 0..GUESTS).await?;
    beating.running(GUESTS, START).await?;
    beats.settle().await?;
    say(&format!("  watching {GUESTS} guests for {} s", QUIET.as_secs()));
    let quiet_from = Timestamp::now();
    // Time is what is measured here, not waited for.
    tokio::time::sleep(QUIET).await;

    let step = Step::begin(&format!("{MODULES} pods of as many new modules at once"));
    let pods: Vec<Pods> = images.iter().map(|image| Pods::new(site.client, image)).collect();
    let mut observer = beats.observe("burst").await?;
    let (begun_at, start) = (Timestamp::now(), Instant::now());
    let create = pods.iter().enumerate().map(|(number, pods)| pods.create("burst", site.node.name(), number));
    future::try_join_all(create).await?;
    let seen = observer.running(MODULES, COMPILED).await?;
    let after = |elapsed| begun_at.checked_add(elapsed).context("the clock is at its end");
    let busy_to = after(start.elapsed())?;
    let first = seen.first_running().context("no pod was seen Running")?;
    let busy_from = after(first.duration_since(start))?;
    step.done();

    let mut told = Vec::new();
    for number in 0..GUESTS {
        told.extend(read(&logs(site, &Pods::name("beat", number)).await?)?);
    }
    beats.remove("burst", observer).await?;
    beats.remove("beat", beating).await?;
    Ok(CompileBurst {
        module_bytes: module.len(),
        running_s: seen.span().context("no pod was seen")?.as_secs_f64(),
        quiet: service(&told, quiet_from, begun_at)?,
        begun: service(&told, begun_at, busy_from)?,
        busy: service(&told, busy_from, busy_to)?,
    })
}

async fn logs(site: Site<'_>, name: &str) -> Result<String> {
    let pods: Api<Pod> = Api::default_namespaced(site.client.clone());
    let params = LogParams { timestamps: true, ..LogParams::default() };
    pods.logs(name, &params).await.with_context(|| format!("cannot read the log of {name}"))
}

/// Reads a log of lines with their times: `2026-11-29T15:04:05.123456789Z late 61 us, step 204 us, a`.
fn read(log: &str) -> Result<Vec<Beat>> {
    let beat = |line: &str| {
        let (at, text) = line.split_once(' ')?;
        let (late, rest) = text.strip_prefix("late ")?.split_once(" us, step ")?;
        let (step, _) = rest.split_once(" us")?;
        let microseconds = |text: &str| text.parse().ok().map(Duration::from_micros);
        // The two clocks may differ by a hair: nobody is woken too early.
        let late = microseconds(late.strip_prefix('-').map_or(late, |_| "0"))?;
        Some(Beat { at: at.parse().ok()?, late, step: microseconds(step)? })
    };
    log.lines().map(|line| beat(line).with_context(|| format!("a guest has said: {line}"))).collect()
}

/// What was told from one time to another.
fn service(told: &[Beat], from: Timestamp, to: Timestamp) -> Result<Service> {
    let within = |figure: fn(&Beat) -> Duration| {
        told.iter().filter(|beat| (from..to).contains(&beat.at)).map(figure).collect()
    };
    let quantiles = (Quantiles::of(within(|beat| beat.late)), Quantiles::of(within(|beat| beat.step)));
    let (Some(late_ms), Some(step_ms)) = quantiles else {
        bail!("no guest has said anything from {from} to {to}");
    };
    Ok(Service { late_ms, step_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_tells_is_read() {
        let log = "2026-11-29T15:04:05.5Z late 61 us, step 204 us, a\n\
                   2026-11-29T15:04:06Z late -3 us, step 1000 us, 0\n";
        let beat = |at: &str, late, step| Beat {
            at: at.parse().unwrap(),
            late: Duration::from_micros(late),
            step: Duration::from_micros(step),
        };
        let expected = [beat("2026-11-29T15:04:05.5Z", 61, 204), beat("2026-11-29T15:04:06Z", 0, 1000)];
        assert_eq!(read(log).unwrap(), expected);
        for wrong in ["late 1 us, step 2 us, 3", "2026-11-29T15:04:06Z failed to sleep", ""] {
            assert!(read(&format!("{wrong}\n")).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_was_told_at_other_times_does_not_count() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let beat = |second: i64| Beat {
            at: time(second),
            late: Duration::from_millis(second.unsigned_abs()),
            step: Duration::from_millis(1),
        };
        let told: Vec<Beat> = (0..10).map(beat).collect();
        let found = service(&told, time(3), time(6)).unwrap();
        assert_eq!((found.late_ms.count, found.late_ms.p50, found.late_ms.p99), (3, 4.0, 5.0));
        let error = service(&told, time(10), time(20)).unwrap_err().to_string();
        assert!(error.starts_with("no guest has said anything"), "{error}");
    }
}
