//! `wasi:blobstore` as a host interface.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use kubewasm_host::GuestState;
use wasmtime::component::Linker;

use super::{
    BlobStores,
    bindings::{BlobGuest, VERSION, link, link_labelled},
    pipe::EarlyBytes,
};
use crate::{
    host_interface::{
        BoundInterface, ComponentBinding, HostInterface, InterfaceError, LinkedImport, WorkloadIdentity,
    },
    interfaces::{Settings, Tenant},
    wit::{WitInterface, WitWorld},
};

/// `wasi:blobstore`. A workload has the back ends that its entries name, and one in memory where no entry without a name says
/// otherwise.
#[derive(Debug, Default)]
pub struct WasiBlobStore {
    shared: Option<Settings>,
    workloads: Mutex<HashMap<String, Arc<BlobStores>>>,
}

impl WasiBlobStore {
    /// The interface.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a back end for all workloads that do not name one. Each sees only its own part of it ([`Tenant`]).
    #[must_use]
    pub fn with_shared(settings: Settings) -> Self {
        Self { shared: Some(settings), ..Self::default() }
    }

    fn workloads(&self) -> MutexGuard<'_, HashMap<String, Arc<BlobStores>>> {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stores(
        &self,
        workload: &WorkloadIdentity,
        interfaces: &[WitInterface],
    ) -> Result<BlobStores, InterfaceError> {
        let shared = || {
            let tenant = Tenant::of(&workload.namespace, &workload.name);
            self.shared.clone().unwrap_or_default().of_tenant(tenant)
        };
        let mut stores = BlobStores::new();
        stores.add(None, &shared())?;
        for interface in interfaces {
            let own = Settings::new(interface.config.clone());
            let settings = if own.has_place() { own } else { shared().or(&interface.config) };
            stores.add(interface.name.as_deref(), &settings)?;
        }
        Ok(stores)
    }
}

#[async_trait]
impl HostInterface for WasiBlobStore {
    fn id(&self) -> &'static str {
        "wasi-blobstore"
    }

    fn world(&self) -> WitWorld {
        let exports = vec![WitInterface::from(format!("wasi:blobstore/types,container,blobstore@{VERSION}"))];
        WitWorld { imports: Vec::new(), exports }
    }

    async fn bind(
        &self,
        workload: &Arc<WorkloadIdentity>,
        interfaces: &[WitInterface],
    ) -> Result<(), InterfaceError> {
        let stores = Arc::new(self.stores(workload, interfaces)?);
        self.workloads().insert(workload.id.clone(), stores);
        Ok(())
    }

    async fn bind_component(
        &self,
        component: &ComponentBinding,
    ) -> Result<Arc<dyn BoundInterface>, InterfaceError> {
        let stores = self.workloads().get(&component.workload.id).cloned();
        Ok(Arc::new(BoundBlobs(stores.unwrap_or_default())))
    }

    fn link(&self, linker: &mut Linker<GuestState>, imports: &[LinkedImport]) -> wasmtime::Result<()> {
        for import in imports {
            link(&mut linker.instance(&import.import)?, &import.interface.interface)?;
            if let (Some(label), "blobstore") = (&import.label, &*import.interface.interface) {
                linker.allow_shadowing(true);
                link_labelled(&mut linker.instance(&import.import)?, label)?;
                linker.allow_shadowing(false);
            }
        }
        Ok(())
    }

    async fn unbind(&self, workload: &WorkloadIdentity) {
        self.workloads().remove(&workload.id);
    }
}

/// What a component has of it: the back ends of its workload.
#[derive(Debug)]
struct BoundBlobs(Arc<BlobStores>);

impl BoundInterface for BoundBlobs {
    fn guest_state(&self) -> Box<dyn Any + Send> {
        Box::new(BlobGuest { stores: Arc::clone(&self.0), early: EarlyBytes::default() })
    }
}
