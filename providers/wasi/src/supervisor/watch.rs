//! The watch of one worker: feeds the view for as long as the worker lives, and then says what was lost.

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kubewasm_host::http::FailureCount;
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use super::{
    claims::Claims,
    connect::Client,
    death::{Death, Kills, describe},
    process,
    view::{Dead, Foreign, View},
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
    pub(super) claims: Arc<Claims>,
    /// How often the worker spoke of what is none of its group's.
    pub(super) refused: u64,
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
        if let Some(cgroup) = self.cgroup.as_ref().filter(|_| death.is_out_of_memory()) {
            self.kills.took(cgroup, death.pid);
        }
        // One that ends well takes its socket away; of an adopted one, nothing else is known.
        if death.is_clean() || how.is_none() && !self.socket.exists() {
            tracing::debug!(group = %self.group, pid = death.pid, "a worker has ended");
        } else {
            let (status, last_words) = (describe(how), process::last_words(&self.socket));
            tracing::warn!(group = %self.group, pid = death.pid, status, out_of_memory, last_words, "a worker is gone");
        }
        // The first word counts; this task is the only one that says it.
        let _ = self.client.died.set(Instant::now());
        let dead = Dead::One(&self.client.incarnation);
        let gone = self.view.lost(&self.group, dead, &death.exit(), Timestamp::now());
        self.claims.release(&self.group, gone).await;
        self.look.notify_one();
    }

    /// A worker speaks of containers that were not started in its group: it is not what it was started as.
    fn refuse(&mut self, id: &str) {
        self.refused += 1;
        // Not as often as it likes to.
        if self.refused.is_power_of_two() {
            let (group, pid, times) = (&self.group, self.client.pid, self.refused);
            tracing::error!(
                group,
                pid,
                id,
                times,
                "a worker speaks of a container that was not started in its group, and is not believed; end it"
            );
        }
    }

    async fn stream(&mut self, synced: &mut Option<oneshot::Sender<()>>) -> Result<(), tonic::Status> {
        let mut stream = self.client.worker.watch(wire::WatchRequest {}).await?.into_inner();
        let mut picture: Option<(u64, HashSet<String>)> = None;
        // How far the stream has come. What is known may be newer, from the answer to a start.
        let mut latest = 0;
        while let Some(event) = stream.message().await? {
            match event.event {
                Some(Event::Reset(reset)) => {
                    latest = reset.revision;
                    picture = Some((latest, HashSet::new()));
                }
                Some(Event::Starting(wire::Starting { id })) => {
                    match self.view.told_of_start(&self.group, &self.client.incarnation, &id) {
                        Ok(()) => picture.iter_mut().for_each(|(_, named)| {
                            named.insert(id.clone());
                        }),
                        Err(Foreign) => self.refuse(&id),
                    }
                }
                Some(Event::Changed(instance)) => match Instance::try_from(instance) {
                    Ok(instance) => {
                        let id = instance.id.clone();
                        latest = latest.max(instance.revision);
                        match self.view.told(&self.group, &self.client.incarnation, instance) {
                            Ok(()) => picture.iter_mut().for_each(|(_, named)| {
                                named.insert(id.clone());
                            }),
                            Err(Foreign) => self.refuse(&id),
                        }
                    }
                    Err(error) => {
                        tracing::error!(group = %self.group, %error, "a worker cannot be understood")
                    }
                },
                Some(Event::Removed(id)) => {
                    if self.view.told_of_end(&self.group, &self.client.incarnation, &id, latest) {
                        self.claims.release(&self.group, vec![id]).await;
                    }
                    self.look.notify_one();
                }
                Some(Event::Synced(_)) => {
                    if let Some((revision, named)) = picture.take() {
                        let catch_up = self.view.has_no_ledger(&self.group);
                        let gone = self.view.synced(&self.group, &self.client.incarnation, revision, &named);
                        if catch_up {
                            self.claims.catch_up(&self.group).await;
                        }
                        self.claims.release(&self.group, gone).await;
                        self.look.notify_one();
                    }
                    if let Some(synced) = synced.take() {
                        // Nobody may be waiting any more.
                        let _ = synced.send(());
                    }
                }
                Some(Event::FailedRequests(wire::FailedRequests { id, count, last })) => {
                    // One that has been removed meanwhile has nobody who would be told.
                    let told = self.view.told_of_failures(&self.group, &id, FailureCount { count, last });
                    if told.is_err() {
                        tracing::debug!(group = %self.group, id, "a worker tells of requests to nobody");
                    }
                }
                None => {}
            }
        }
        Ok(())
    }
}
