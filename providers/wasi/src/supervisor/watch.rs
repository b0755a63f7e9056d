//! The watch of one worker: feeds the view for as long as the worker lives, and then says what was lost.

use std::{
    collections::HashSet,
    io,
    path::Path,
    process::ExitStatus,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    group::{Client, describe},
    view::View,
};
use crate::{
    instance::Instance,
    protocol::wire::{self, watch_event::Event},
    worker,
};

/// Between two attempts to watch a worker that lives.
const RETRY: Duration = Duration::from_millis(50);

/// Feeds the view from one worker.
pub(super) struct Watch {
    pub(super) group: String,
    pub(super) client: Client,
    pub(super) view: Arc<View>,
}

impl Watch {
    /// Watches until the worker is dead, and tells the view what that means. Fires `synced` once the view
    /// has the first picture.
    pub(super) async fn until_dead(
        &mut self,
        socket: &Path,
        exit: Option<JoinHandle<io::Result<ExitStatus>>>,
        synced: oneshot::Sender<()>,
    ) {
        let mut synced = Some(synced);
        loop {
            if let Err(error) = self.stream(&mut synced).await {
                tracing::debug!(group = %self.group, %error, "the watch of a worker broke");
            }
            if !worker::is_locked(socket) {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        let how = match exit {
            Some(exit) => exit.await.ok().and_then(Result::ok),
            None => None,
        };
        let pid = self.client.pid;
        let why = match how {
            Some(status) => format!("the worker that hosted it (process {pid}) ended: {status}"),
            None => format!("the worker that hosted it (process {pid}) is gone"),
        };
        if how.is_some_and(|status| status.success()) {
            tracing::debug!(group = %self.group, pid, "a worker has ended");
        } else {
            tracing::warn!(group = %self.group, pid, status = %describe(how), "a worker is gone");
        }
        self.client.alive.store(false, Ordering::SeqCst);
        self.client.lost(&self.view, &self.group, &why);
    }

    async fn stream(&mut self, synced: &mut Option<oneshot::Sender<()>>) -> Result<(), tonic::Status> {
        let mut stream = self.client.worker.watch(wire::WatchRequest {}).await?.into_inner();
        let mut picture: Option<(u64, HashSet<String>)> = None;
        while let Some(event) = stream.message().await? {
            match event.event {
                Some(Event::Reset(reset)) => picture = Some((reset.revision, HashSet::new())),
                Some(Event::Changed(instance)) => match Instance::try_from(instance) {
                    Ok(instance) => {
                        if let Some((_, named)) = &mut picture {
                            named.insert(instance.id.clone());
                        }
                        self.view.changed(&self.group, &self.client.incarnation, instance);
                    }
                    Err(error) => {
                        tracing::error!(group = %self.group, %error, "a worker cannot be understood")
                    }
                },
                Some(Event::Removed(id)) => self.view.removed(&id),
                Some(Event::Synced(_)) => {
                    if let Some((revision, named)) = picture.take() {
                        self.view.synced(&self.group, &self.client.incarnation, revision, &named);
                    }
                    if let Some(synced) = synced.take() {
                        // Nobody may be waiting any more.
                        let _ = synced.send(());
                    }
                }
                None => {}
            }
        }
        Ok(())
    }
}
