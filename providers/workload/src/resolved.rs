//! What host interfaces see of a workload that can be called.

use std::sync::Arc;

use kubewasm_host::http::HttpHandler;
use wasmtime::component::Val;

use crate::{
    call::{CallError, Callee},
    host_interface::WorkloadIdentity,
    volumes::Volumes,
    wit::{InterfaceName, WitInterface},
};

/// A workload that can be called, as its components are now.
///
/// What it hands out goes on working when another version of a component takes over, and ends with its own one's last call; host
/// interfaces are told of the new one by [`resolved`](crate::host_interface::HostInterface::resolved).
#[derive(Clone, Debug)]
pub struct ResolvedWorkload {
    pub(crate) identity: Arc<WorkloadIdentity>,
    pub(crate) callees: Vec<Arc<Callee>>,
    pub(crate) http: Vec<HttpExport>,
    pub(crate) http_interfaces: Vec<WitInterface>,
    /// For as long as somebody calls it.
    pub(crate) _volumes: Arc<Volumes>,
}

/// A component that answers HTTP requests, and whose handler no other component of its workload imports.
#[derive(Clone, Debug)]
pub struct HttpExport {
    /// Its name in its workload.
    pub component: Arc<str>,
    /// Answers requests.
    pub handler: Arc<HttpHandler>,
}

/// An interface that a component exports.
#[derive(Clone, Debug)]
pub struct ExportedInterface {
    /// The component's name in its workload.
    pub component: Arc<str>,
    /// The interface, in the version that the component has.
    pub interface: InterfaceName,
    callee: Arc<Callee>,
}

impl ResolvedWorkload {
    /// Which it is.
    #[must_use]
    pub fn identity(&self) -> &Arc<WorkloadIdentity> {
        &self.identity
    }

    /// Its components that answer HTTP requests.
    #[must_use]
    pub fn http(&self) -> &[HttpExport] {
        &self.http
    }

    /// The entries of the workload about `wasi:http`.
    #[must_use]
    pub fn http_interfaces(&self) -> &[WitInterface] {
        &self.http_interfaces
    }

    /// Who exports an interface, `wasmcloud:messaging/handler@0.2.0`, in a version that goes together with that one.
    #[must_use]
    pub fn exporters(&self, interface: &str) -> Vec<ExportedInterface> {
        let Some(wanted) = InterfaceName::parse(interface) else { return Vec::new() };
        let exported = self.callees.iter().filter_map(|callee| {
            let interface = callee.export(&wanted)?.clone();
            Some(ExportedInterface {
                component: Arc::clone(callee.name()),
                interface,
                callee: Arc::clone(callee),
            })
        });
        exported.collect()
    }
}

impl ExportedInterface {
    /// Calls a function of the interface, in an instance of its own or one of the pool, under the component's limits. Its
    /// parameters and results hold no resources, streams or futures.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, function: &str, params: Vec<Val>) -> Result<Vec<Val>, CallError> {
        self.callee.call_from_host(&self.interface, function, params).await
    }
}
