//! Callers that are connected to a container that runs.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    Hosting, HostingError,
    outlet::Outlet,
    stdio::{AttachedInput, ContainerStdio},
};

/// A caller that is attached, until this is dropped.
#[derive(Debug)]
pub(in crate::worker) struct Attachment {
    stdio: Arc<ContainerStdio>,
    /// What it is sent, if it wants any.
    pub(in crate::worker) outlet: Option<Outlet>,
    /// What it sends, if it does.
    pub(in crate::worker) input: Option<AttachedInput>,
    /// Cancelled when the container has ended.
    pub(in crate::worker) ended: CancellationToken,
}

impl Attachment {
    /// The container's streams are one terminal.
    pub(in crate::worker) fn is_terminal(&self) -> bool {
        self.stdio.is_terminal()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(outlet) = &self.outlet {
            self.stdio.remove_outlet(outlet);
        }
    }
}

impl Hosting {
    /// Connects a caller to the standard streams of a running instance.
    pub(in crate::worker) fn attach(
        &self,
        id: &str,
        stdin: bool,
        output: bool,
        earlier: bool,
    ) -> Result<Attachment, HostingError> {
        let running = self.0.table.running(id).ok_or(HostingError::NotRunning)?;
        let stdio = running.stdio;
        let outlet = if output { Some(stdio.add_outlet(earlier)?) } else { None };
        let input = stdin.then(|| stdio.add_input());
        Ok(Attachment { stdio, outlet, input, ended: running.ended })
    }
}
