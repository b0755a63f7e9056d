//! Limits of instances that run, on the wire.

use kubewasm_host::CpuShare;

use super::wire;
use crate::spec::InstanceLimits;

impl From<&wire::ResizeRequest> for InstanceLimits {
    fn from(request: &wire::ResizeRequest) -> Self {
        Self {
            memory_limit_bytes: request.memory_limit_bytes,
            pod_memory_limit_bytes: request.pod_memory_limit_bytes,
            cpu: CpuShare {
                limit_millis: request.cpu_limit_millis,
                request_millis: request.cpu_request_millis,
            },
        }
    }
}

impl wire::ResizeRequest {
    /// Asks for these limits of an instance, in a session.
    pub(crate) fn of(session: &str, id: &str, limits: InstanceLimits) -> Self {
        Self {
            session: session.to_owned(),
            id: id.to_owned(),
            memory_limit_bytes: limits.memory_limit_bytes,
            pod_memory_limit_bytes: limits.pod_memory_limit_bytes,
            cpu_limit_millis: limits.cpu.limit_millis,
            cpu_request_millis: limits.cpu.request_millis,
        }
    }
}
