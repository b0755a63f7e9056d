//! Streams that have all extensions, take every change of one, and say when it came.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use envoy_types::pb::{
    envoy::extensions::filters::http::wasm::v3::Wasm,
    google::protobuf::{Any, StringValue},
};
use futures::{StreamExt as _, stream};
use kubewasm_tests::{
    envoy::Variant,
    subscriber::{Discovery, Subscriber, Update},
};
use prost::Message as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{sync::broadcast, task::JoinHandle};

use super::site::{Site, filter_name};

/// Streams that are opened at the same time.
const OPENING: usize = 16;
/// How long a change may take to be everywhere.
const LIMIT: Duration = Duration::from_secs(120);

/// What a stream got, and when.
#[derive(Clone, Debug)]
struct Arrival {
    value: Arc<str>,
    at: Instant,
}

/// Open streams. They end when this is dropped.
pub(super) struct Streams {
    arrivals: broadcast::Sender<Arrival>,
    tasks: Vec<JoinHandle<()>>,
}

impl Streams {
    /// Opens so many, and returns when each of them has all extensions.
    pub(super) async fn open(site: &Site, count: usize, extensions: usize) -> Result<Self> {
        let names: Arc<Vec<String>> = Arc::new((0..extensions).map(filter_name).collect());
        let opened: Vec<Result<Subscriber>> = stream::iter(0..count)
            .map(|number| {
                let (names, tls) = (Arc::clone(&names), site.tls());
                async move {
                    let discovery =
                        Discovery::connect(site.port, Some(tls?)).await?.node(&number.to_string(), "bench");
                    let variant =
                        if number % 2 == 0 { Variant::Aggregated } else { Variant::AggregatedDelta };
                    let all: Vec<&str> = names.iter().map(String::as_str).collect();
                    let mut subscriber = discovery.subscribe(variant, &all).await?;
                    let mut missing: BTreeSet<&str> = all.into_iter().collect();
                    while !missing.is_empty() {
                        let update = tokio::time::timeout(LIMIT, subscriber.take())
                            .await
                            .context("nothing comes")??;
                        for name in update.names() {
                            missing.remove(name);
                        }
                    }
                    Ok(subscriber)
                }
            })
            .buffer_unordered(OPENING)
            .collect()
            .await;
        let opened = opened.into_iter().collect::<Result<Vec<_>>>()?;
        let (arrivals, _) = broadcast::channel(4 * count.max(1));
        let tasks = opened.into_iter().map(|mut subscriber| {
            let arrivals = arrivals.clone();
            tokio::spawn(async move {
                // A stream that has ended is missed by whoever waits for it.
                while let Ok(update) = subscriber.take().await {
                    let at = Instant::now();
                    for value in values(&update) {
                        // Nobody may be waiting now.
                        let _ = arrivals.send(Arrival { value: value.into(), at });
                    }
                }
            })
        });
        let tasks = tasks.collect();
        Ok(Self { arrivals, tasks })
    }

    /// When a configuration that is pushed after this call has come to each stream.
    pub(super) fn arrivals(&self, value: &str) -> impl Future<Output = Result<Vec<Instant>>> + use<> {
        let (mut arrivals, value, count) = (self.arrivals.subscribe(), value.to_owned(), self.tasks.len());
        async move {
            let all = async {
                let mut came = Vec::with_capacity(count);
                while came.len() < count {
                    let arrival = arrivals.recv().await.context("a change was lost")?;
                    if *arrival.value == *value {
                        came.push(arrival.at);
                    }
                }
                Ok(came)
            };
            tokio::time::timeout(LIMIT, all).await.context("a change does not come to all streams")?
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The configurations of the plugins in an update.
fn values(update: &Update) -> Vec<String> {
    update.resources.iter().filter_map(|(_, _, any)| value(any).ok()).collect()
}

fn value(any: &Any) -> Result<String> {
    let config = Wasm::decode(any.value.as_slice())?.config.context("a filter without a plugin")?;
    let configuration = config.configuration.context("a plugin without a configuration")?;
    Ok(StringValue::decode(configuration.value.as_slice())?.value)
}

/// Lets this process, and what it starts from now on, have as many connections as the machine allows.
pub(super) fn allow_connections() -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
            .context("cannot raise the limit of files")?;
    }
    let enough = maximum.is_none_or(|maximum| maximum >= 4096);
    ensure!(enough, "a process may have {maximum:?} open files, which is not enough for the streams");
    Ok(())
}
