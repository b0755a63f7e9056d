//! What `docs/metrics.md` says that nodes serve.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

use crate::guests;

/// The type of each metric, by name.
///
/// # Errors
/// When the document cannot be read.
pub fn metrics() -> Result<BTreeMap<String, String>> {
    let path = guests::repository().join("docs/metrics.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut metrics = BTreeMap::new();
    for line in text.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(names), Some(kind)) = (cells.next(), cells.next()) else { continue };
        if ["counter", "gauge", "histogram"].contains(&kind) {
            let names = names.split('`').skip(1).step_by(2);
            metrics.extend(names.map(|name| (name.to_owned(), kind.to_owned())));
        }
    }
    Ok(metrics)
}
