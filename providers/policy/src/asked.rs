//! What comes of a policy's question: whether it may ask, and what its host answers.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use crate::{
    capabilities::{Capabilities, Capability},
    context_aware,
    host_call::{HostCapabilities, LONGEST_ANSWER},
    metadata::ContextAwareResource,
};

/// The only binding that there is.
const BINDING: &str = "kubewarden";

/// What one call of a policy may ask for, and whom.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) capabilities: Arc<Capabilities>,
    pub(crate) resources: Arc<BTreeSet<ContextAwareResource>>,
    pub(crate) host: Arc<dyn HostCapabilities>,
}

impl Granted {
    /// Answers a policy that names a binding.
    pub(crate) async fn ask_by(
        &self,
        binding: &str,
        capability: Capability<'_>,
        payload: Bytes,
    ) -> Result<Vec<u8>, String> {
        if binding == BINDING {
            self.ask(capability, payload).await
        } else {
            Err(format!("there is no binding {binding:?}; it is {BINDING:?}"))
        }
    }

    /// Answers a policy.
    pub(crate) async fn ask(&self, capability: Capability<'_>, payload: Bytes) -> Result<Vec<u8>, String> {
        let granted = self.capabilities.check(capability).map_err(|denied| denied.to_string());
        granted.and_then(|()| context_aware::check(capability, &payload, &self.resources)).inspect_err(
            |_| tracing::warn!(%capability, "a policy asked for what it is not granted, or for nothing that there is"),
        )?;
        let answer = self.host.call(capability, payload).await?;
        match answer.len() {
            0..=LONGEST_ANSWER => Ok(answer),
            length => {
                Err(format!("the answer has {length} bytes, and may have {LONGEST_ANSWER}; ask for less"))
            }
        }
    }
}
