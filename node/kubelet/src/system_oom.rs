//! Tells of processes that the kernel has ended because the machine had no memory left, after upstream's
//! `pkg/kubelet/oom/oom_watcher_linux.go`. Upstream reads the kernel's log, which tells of all processes; a provider sees what has
//! become of its own.

use std::sync::Arc;

use crate::{
    events::{Recorder, node_reference},
    runtime::{Runtime, SystemOom},
};

const REASON: &str = "SystemOOM";

/// Runs for ever.
pub(crate) async fn watch(runtime: Arc<dyn Runtime>, recorder: Recorder, node_name: String) {
    loop {
        let oom = runtime.system_oom().await;
        tracing::error!(
            process = oom.process,
            pid = oom.pid,
            "the kernel has ended a process: the machine had no memory left"
        );
        recorder.warning(&node_reference(&node_name), REASON, message(&oom));
    }
}

fn message(oom: &SystemOom) -> String {
    format!("System OOM encountered, victim process: {}, pid: {}", oom.process, oom.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_victim_is_named_in_upstreams_words() {
        let oom = SystemOom { process: "kubewasm".to_owned(), pid: 7 };
        assert_eq!(message(&oom), "System OOM encountered, victim process: kubewasm, pid: 7");
    }
}
