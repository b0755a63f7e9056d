//! Attempts of the pod that the provider knows and that are not their container's newest: an agent that has lost its
//! record has left them behind, say. They are stopped and removed, and until none of them runs nothing is begun, for
//! what is begun would run beside them, on the same volumes.

use std::{collections::HashSet, time::Duration};

use super::{LOOK_AGAIN, PodTask};
use crate::{
    pods::{container_id::container_id, lifecycle::Moment},
    runtime::{ContainerState, Presence},
};

/// How often strays are looked for where none were found.
const INTERVAL: Duration = Duration::from_secs(10 * 60);

/// What is known of the strays of a pod.
#[derive(Debug, Default)]
pub(super) struct Strays {
    /// Those that are being stopped, and those that are being removed.
    stopping: HashSet<String>,
    removing: HashSet<String>,
    /// When they are to be looked for.
    due: Moment,
}

impl PodTask {
    /// Looks for strays if it is time to, and ends them. True while one may run.
    pub(super) fn end_strays(&mut self, now: Moment) -> bool {
        if self.foreign || (self.strays.due > now && self.strays.stopping.is_empty()) {
            return false;
        }
        let list = self.shared.runtime.containers_of(&self.name.uid);
        let newest = |(name, record): (&String, &crate::pods::lifecycle::ContainerRecord)| {
            container_id(&self.name.uid, name, record.newest_attempt())
        };
        let newest: HashSet<String> = self.state.containers.iter().map(newest).collect();
        let strays: Vec<String> =
            list.containers.into_iter().map(|c| c.id).filter(|id| !newest.contains(id)).collect();
        self.strays.stopping.retain(|id| strays.contains(id));
        self.strays.removing.retain(|id| strays.contains(id));
        let mut runs = false;
        for id in strays {
            match self.shared.runtime.observe(&id) {
                Presence::Known(ContainerState::Starting | ContainerState::Running { .. }) => {
                    runs = true;
                    if self.strays.stopping.insert(id.clone()) {
                        tracing::warn!(pod = %self.name, container = id, "stopping an attempt that is not the newest");
                        self.stop_container(id, self.spec.grace);
                    }
                }
                Presence::Known(ContainerState::Exited(_)) => {
                    self.strays.stopping.remove(&id);
                    if self.strays.removing.insert(id.clone()) {
                        self.remove_stray(id);
                    }
                }
                Presence::Absent => {}
                Presence::CannotTell => runs = true,
            }
        }
        let clear = list.is_complete && !runs;
        self.strays.due = now.after(if clear { INTERVAL } else { LOOK_AGAIN });
        runs
    }
}
