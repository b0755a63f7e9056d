//! Back ends of host interfaces on real servers: Redis, NATS and S3. Servers are killed and started again, and other clients
//! read what is kept.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod blobs;
mod guests;
mod messages;
mod servers;
mod values;

use kubewasm_workload::interfaces::Settings;

/// Settings, as a workload writes them.
fn settings(pairs: &[(&str, &str)]) -> Settings {
    Settings::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}
