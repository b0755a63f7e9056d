//! Ending a worker of another age, so that one of ours can take its place.
//!
//! Its containers end with it, and are told so: what of its picture can be understood is taken before. What
//! it is asked with is `Shutdown`, which is the same in every version; signals are for one that does not know
//! even that.

use std::{path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use kubewasm_host::exit::Exit;
use rustix::process::Signal;

use super::{
    connect::Stranger,
    process,
    view::{Dead, View},
};
use crate::{
    instance::Instance,
    protocol::{
        Versions,
        wire::{self, watch_event::Event},
    },
};

/// For a picture that may never come.
const PICTURE: Duration = Duration::from_secs(5);
/// What its containers have to end in.
const GRACE: Duration = Duration::from_secs(5);
/// For what follows a grace.
const SLACK: Duration = Duration::from_secs(5);

/// Ends it. False when it still lives.
pub(super) async fn end(
    group: &str,
    socket: &Path,
    mut stranger: Stranger,
    ours: Versions,
    view: &Arc<View>,
) -> bool {
    let speaks = stranger.speaks();
    tracing::warn!(group, speaks, %ours, "a worker of another version is replaced; its containers end with it");
    if tokio::time::timeout(PICTURE, picture(group, &mut stranger, view)).await.is_err() {
        tracing::debug!(group, "the worker does not tell what it hosts");
    }
    let grace_millis = u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX);
    let request = wire::ShutdownRequest { grace_millis, only_if_empty: false };
    let shutdown = tokio::time::timeout(GRACE + SLACK, stranger.worker.shutdown(request)).await;
    let mut is_gone = matches!(shutdown, Ok(Ok(_))) && process::is_gone(socket, SLACK).await;
    for (signal, within) in [(Signal::TERM, GRACE + SLACK), (Signal::KILL, SLACK)] {
        if !is_gone {
            tracing::warn!(group, ?signal, "the worker has not ended when asked; sending it a signal");
            process::signal(socket, signal);
            is_gone = process::is_gone(socket, within).await;
        }
    }
    if is_gone {
        let exit = Exit::lost(format!(
            "the worker that hosted it speaks protocol {speaks}, and this version of kubewasm speaks {ours}: it was replaced"
        ));
        // What it was starting goes with what it had not told of.
        view.lost(group, Dead::One(&stranger.incarnation), &exit, Timestamp::now());
    }
    is_gone
}

/// Tells the view what the worker hosts, as far as that can be understood.
async fn picture(group: &str, stranger: &mut Stranger, view: &View) {
    let Ok(stream) = stranger.worker.watch(wire::WatchRequest {}).await else { return };
    let mut stream = stream.into_inner();
    while let Ok(Some(event)) = stream.message().await {
        match event.event {
            Some(Event::Changed(instance)) => {
                let Ok(instance) = Instance::try_from(instance) else { continue };
                // What is none of its group's is not believed of it either.
                let _ = view.told(group, &stranger.incarnation, instance);
            }
            Some(Event::Synced(_)) => break,
            _ => {}
        }
    }
}
