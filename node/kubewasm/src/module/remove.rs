//! `kubewasm module rm` and `prune`

use std::time::{Duration, SystemTime};

use indicatif::HumanBytes;
use jiff::SignedDuration;
use kubewasm_modules::ImageName;

use super::{
    ModuleSession,
    shapes::{ImageShape, RemovedShape},
};

/// Arguments of `kubewasm module rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Images that are here, by tag or by digest, or files that were run.
    #[arg(required = true, value_name = "IMAGE", add = super::candidates::images())]
    names: Vec<ImageName>,
}

/// Arguments of `kubewasm module prune`.
#[derive(Debug, clap::Args)]
pub(super) struct PruneArgs {
    /// Only those that were not used for so long: 24h, 7d.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    unused_for: Option<Duration>,

    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    let days = || text.strip_suffix('d')?.parse::<u64>().ok()?.checked_mul(86_400).map(Duration::from_secs);
    parsed.or_else(days).ok_or_else(|| "a duration is 30m, 24h or 7d".to_owned())
}

pub(crate) fn run(session: &ModuleSession, args: &RemoveArgs) -> anyhow::Result<()> {
    let mut removed = Vec::new();
    for name in &args.names {
        // Whatever becomes of the next one, this one is gone; `rm` of what is gone fails, and harms nobody.
        let image = session.image(name)?;
        session.store.remove(name)?;
        removed.push(ImageShape::from(&image));
    }
    say(session, removed)
}

pub(super) fn prune(session: &ModuleSession, args: &PruneArgs) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let since =
        args.unused_for.map_or(Some(now), |span| now.checked_sub(span)).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut removed = Vec::new();
    let kept = kept();
    for used in session.store.uses()? {
        if used.held || used.last_used_at > since || kept.contains(&used.image.digest) {
            continue;
        }
        // A pod may have begun to use it since it was listed.
        if args.dry_run || session.store.remove_unused(&used.image.digest, since)? {
            removed.push(ImageShape::from(&used.image));
        }
    }
    say(session, removed)
}

/// Images that are there for something else than containers: kubectl plugins.
fn kept() -> Vec<kubewasm_modules::Digest> {
    #[cfg(feature = "plugin")]
    return crate::plugin::digests();
    #[cfg(not(feature = "plugin"))]
    Vec::new()
}

fn say(session: &ModuleSession, removed: Vec<ImageShape>) -> anyhow::Result<()> {
    let shape = RemovedShape { removed };
    session.say(&shape, |out| {
        for image in &shape.removed {
            writeln!(out, "{} ({})", image.reference, HumanBytes(image.size_bytes))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_minutes_hours_and_days() {
        for (text, seconds) in [("30m", 1800), ("24h", 86_400), ("1h30m", 5400), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "7", "-1h", "99999999999999999d", "soon"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
