//! Where components' output goes if nobody says otherwise: to the log of the program, by lines.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kubewasm_host::{LARGEST_WRITE, Output, Stream};

use crate::host_interface::WorkloadIdentity;

/// Opens the logs of components.
pub trait Outputs: fmt::Debug + Send + Sync + 'static {
    /// The log of a component, or of the service, which is called so.
    fn open(&self, workload: &Arc<WorkloadIdentity>, component: &str) -> Arc<dyn Output>;
}

/// Has each line of output in the program's own log, by `tracing` at the level INFO, with the target `guest`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracedOutputs;

impl Outputs for TracedOutputs {
    fn open(&self, workload: &Arc<WorkloadIdentity>, component: &str) -> Arc<dyn Output> {
        Arc::new(TracedOutput {
            workload: Arc::clone(workload),
            component: component.to_owned(),
            lines: Mutex::default(),
        })
    }
}

/// Bytes of a line that is not at its end.
const LONGEST_LINE: usize = 16 << 10;

#[derive(Debug)]
struct TracedOutput {
    workload: Arc<WorkloadIdentity>,
    component: String,
    /// What has come of the last line, of each stream.
    lines: Mutex<[Vec<u8>; 2]>,
}

impl TracedOutput {
    fn log(&self, line: &[u8]) {
        let WorkloadIdentity { namespace, name, .. } = &*self.workload;
        let line = String::from_utf8_lossy(line);
        tracing::info!(target: "guest", namespace, workload = name, component = self.component, "{}", line.trim_end());
    }
}

impl Output for TracedOutput {
    fn held(&self) -> u64 {
        2 * LONGEST_LINE as u64
    }

    fn room(&self) -> usize {
        LARGEST_WRITE
    }

    fn push(&self, stream: Stream, bytes: Bytes) -> bool {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let [out, err] = &mut *lines;
        let line = match stream {
            Stream::Stdout => out,
            Stream::Stderr => err,
        };
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            line.extend(piece);
            if piece.ends_with(b"\n") || line.len() >= LONGEST_LINE {
                self.log(line);
                line.clear();
            }
        }
        true
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
