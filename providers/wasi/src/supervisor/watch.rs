//! The watch of one worker: feeds the view for as long as the worker lives, and then says what was lost.

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use super::{
    connect::Client,
    death::{Death, Kills, describe},
    process,
    view::View,
};
use crate::{
    cgroup::Cgroup,
    instance::Instance,
    protocol::wire::{self, watch_event::Event},
    worker,
};

/// Between two attempts to watch a worker that lives.
const RETRY: Duration = Duration::from_millis(50);

/// Feeds the view from one worker.
pub(super) struct Watch {
    pub(super) group: String,
    pub(super) socket: PathBuf,
    pub(super) client: Client,
    pub(super) view: Arc<View>,
    pub(super) kills: Arc<Kills>,
    /// The memory cgroup that the worker is in, where that is known.
    pub(super) cgroup: Option<Cgroup>,
    /// Told when an instance was removed, and when the worker is dead.
    pub(super) look: Arc<Notify>,
}

impl Watch {
    /// Watches until the worker is dead, and tells the view what that means. Fires `synced` once the view
    /// has the first picture.
    pub(super) async fn until_dead(
        &mut self,
        exit: Option<JoinHandle<io::Result<ExitStatus>>>,
        synced: oneshot::Sender<()>,
    ) {
        let mut synced = Some(synced);
        loop {
            if let Err(error) = self.stream(&mut synced).await {
                tracing::debug!(group = %self.group, %error, "the watch of a worker broke");
            }
            if !worker::is_locked(&self.socket) {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        let how = match exit {
            Some(exit) => exit.await.ok().and_then(Result::ok),
            None => None,
        };
        let out_of_memory = self.cgroup.as_ref().is_some_and(|cgroup| self.kills.take(cgroup));
        let death = Death { pid: self.client.pid, status: how, out_of_memory };
        // One that ends well takes its socket away; of an adopted one, nothing else is known.
        if death.is_clean() || how.is_none() && !self.socket.exists() {
            tracing::debug!(group = %self.group, pid = death.pid, "a worker has ended");
        } else {
            let (status, last_words) = (describe(how), process::last_words(&self.socket));
            tracing::warn!(group = %self.group, pid = death.pid, status, out_of_memory, last_words, "a worker is gone");
        }
        // The first word counts; this task is the only one that says it.
        let _ = self.client.died.set(Instant::now());
        self.client.lost(&self.view, &self.group, &death.exit());
        self.look.notify_one();
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
                Some(Event::Removed(id)) => {
                    self.view.removed(&id);
                    self.look.notify_one();
                }
                Some(Event::Synced(_)) => {
                    if let Some((revision, named)) = picture.take() {
                        self.view.synced(&self.group, &self.client.incarnation, revision, &named);
                        self.look.notify_one();
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
