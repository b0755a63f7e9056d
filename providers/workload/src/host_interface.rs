//! What a host interface is: something that components import, or that calls them, and that the host has for them.
//!
//! ```text
//!   start ─► bind (a workload) ─► bind_component (each of its components) ─► link ─► resolved ─► … ─► unbind ─► stop
//!                                      │                                       │
//!                             BoundInterface, kept with the component   functions in its linker
//!                                      │ guest_state, for each instance        │ guest_view::<S>(…)
//!                                      └──────────────► S, in the instance ◄───┘
//! ```
//!
//! An interface is linked for each component on its own, so that only those that import it have it, and under whichever names
//! they import it: a component that wants two stores has two imports that implement `wasi:keyvalue/store`, whose names say which
//! is which ([`LinkedImport::label`]).
//!
//! With bindings that wasmtime's `bindgen!` makes, linking is `add_to_linker_instance` of each interface, whose `host_getter`
//! is [`guest_view::<S>`](guest_view):
//!
//! ```ignore
//! struct HasStore;
//! impl HasData for HasStore { type Data<'a> = GuestView<'a, StoreGuest>; }
//! impl store::Host for GuestView<'_, StoreGuest> { … }
//!
//! fn link(&self, linker: &mut Linker<GuestState>, imports: &[LinkedImport]) -> wasmtime::Result<()> {
//!     for import in imports {
//!         let mut instance = linker.instance(&import.import)?;
//!         match import.interface.interface.as_str() {
//!             "store" => store::add_to_linker_instance::<_, HasStore>(&mut instance, guest_view::<StoreGuest>)?,
//!             …
//! ```

use std::{any::Any, collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;
use kubewasm_host::{Account, GuestState, Output};
use wasmtime::component::{Linker, ResourceTable};

use crate::{
    resolved::ResolvedWorkload,
    wit::{InterfaceName, WitInterface, WitWorld},
};

/// A host interface.
///
/// One value serves all workloads of a host, at the same time: what it has of one of them is kept by
/// [`WorkloadIdentity::id`], from `bind` to `unbind`.
#[async_trait]
pub trait HostInterface: fmt::Debug + Send + Sync + 'static {
    /// Its name among those of its host, `wasi-keyvalue`.
    fn id(&self) -> &'static str;

    /// What it is about, by exact version: `exports` are what components import of it, and `imports` what it calls in them.
    fn world(&self) -> WitWorld;

    /// The host starts. Before any `bind`.
    ///
    /// # Errors
    /// The host then does not start.
    async fn start(&self) -> Result<(), InterfaceError> {
        Ok(())
    }

    /// A workload starts that has something of this interface: `interfaces` are its entries about the packages of
    /// [`world`](Self::world), none where a component imports or exports it and the workload says nothing about it.
    ///
    /// # Errors
    /// The workload then does not start.
    async fn bind(
        &self,
        workload: &Arc<WorkloadIdentity>,
        interfaces: &[WitInterface],
    ) -> Result<(), InterfaceError> {
        let _ = (workload, interfaces);
        Ok(())
    }

    /// One of its components is linked, which imports or exports this interface. After `bind`, and once more for each version of
    /// the component that takes over. What it returns lives as long as that version.
    ///
    /// # Errors
    /// The workload then does not start, or the version does not take over.
    async fn bind_component(
        &self,
        component: &ComponentBinding,
    ) -> Result<Arc<dyn BoundInterface>, InterfaceError>;

    /// Defines what a component imports, under the names by which it does. After `bind_component`.
    ///
    /// # Errors
    /// What the linker says; the workload then does not start.
    fn link(&self, linker: &mut Linker<GuestState>, imports: &[LinkedImport]) -> wasmtime::Result<()>;

    /// A workload can be called, or a version of a component has taken over in it: it is then resolved once more. What was known of
    /// it is what is not to be called any more.
    ///
    /// # Errors
    /// The workload then does not start, or the version does not take over.
    async fn resolved(&self, workload: &ResolvedWorkload) -> Result<(), InterfaceError> {
        let _ = workload;
        Ok(())
    }

    /// A workload ends, or has not started after all: nothing of it is called any more. Calls that are under way end after this.
    async fn unbind(&self, workload: &WorkloadIdentity) {
        let _ = workload;
    }

    /// The host ends. All workloads have.
    async fn stop(&self) {}
}

/// Which workload it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadIdentity {
    /// Unique on its host, and another one if the workload is started again.
    pub id: String,
    /// Where its name is unique.
    pub namespace: String,
    /// Its name, which it has again.
    pub name: String,
    /// Whatever its owner wants to be known of it.
    pub annotations: HashMap<String, String>,
}

/// A component, and what it wants of one host interface.
#[derive(Clone, Debug)]
pub struct ComponentBinding {
    /// Whose it is.
    pub workload: Arc<WorkloadIdentity>,
    /// Its name in its workload; `service` for the service.
    pub component: Arc<str>,
    /// The entries of the workload about the packages of this interface, with their settings: at most one has no name.
    pub interfaces: Vec<WitInterface>,
    /// Settings of the component's own, which go over those of the interfaces.
    pub config: HashMap<String, String>,
    /// What it imports of this interface.
    pub imports: Vec<LinkedImport>,
    /// What it exports that this interface calls.
    pub exports: Vec<InterfaceName>,
    /// What the host holds for it is counted here.
    pub account: Arc<Account>,
    /// Its log.
    pub output: Arc<dyn Output>,
}

/// An import of a component that a host interface serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedImport {
    /// The name of the import, as it is in the linker.
    pub import: String,
    /// The interface that it is. Its version is one that this host interface has.
    pub interface: InterfaceName,
    /// The import's own name, where it is no interface's but says that it implements one: it names the entry of the workload
    /// that is meant ([`WitInterface::name`]).
    pub label: Option<String>,
}

/// What a host interface has of a component.
pub trait BoundInterface: fmt::Debug + Send + Sync + 'static {
    /// The state of an instance that is being made, which [`guest_state`] and [`guest_view`] find by its type: no two interfaces
    /// have the same. Nothing here may block.
    fn guest_state(&self) -> Box<dyn Any + Send>;
}

/// Of a host interface that has nothing of a component's.
#[derive(Clone, Copy, Debug)]
pub struct Stateless;

impl BoundInterface for Stateless {
    fn guest_state(&self) -> Box<dyn Any + Send> {
        Box::new(())
    }
}

/// A host interface cannot do what a workload wants of it. Texts are for people, and hold no secrets.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// A setting is missing, not known, or has another form.
    #[error("setting {key:?}: {reason}")]
    Setting {
        /// Its name.
        key: String,
        /// What is wrong, and what it could be.
        reason: String,
    },
    /// What is behind the interface is not there, and may be later.
    #[error("{what} is not available: {reason}")]
    Unavailable {
        /// What, and where: `redis at 127.0.0.1:6379`.
        what: String,
        /// Why not.
        reason: String,
    },
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// What a host function gets of an instance: the state of its interface, and the table that all resources of WASI are in, streams
/// among them.
#[derive(Debug)]
pub struct GuestView<'a, S> {
    /// What [`BoundInterface::guest_state`] has made.
    pub state: &'a mut S,
    /// The instance's resources.
    pub table: &'a mut ResourceTable,
}

/// The states of all host interfaces in one instance.
#[derive(Default)]
pub(crate) struct InterfaceStates(pub(crate) Vec<Box<dyn Any + Send>>);

impl InterfaceStates {
    pub(crate) fn get_mut<S: 'static>(&mut self) -> Option<&mut S> {
        self.all_mut().next()
    }

    /// All that are of a type.
    pub(crate) fn all_mut<S: 'static>(&mut self) -> impl Iterator<Item = &mut S> {
        self.0.iter_mut().filter_map(|state| state.downcast_mut())
    }
}

/// The state of a host interface in an instance. `S` is what [`BoundInterface::guest_state`] of that interface makes.
pub fn guest_state<S: Send + 'static>(guest: &mut GuestState) -> &mut S {
    guest_view(guest).state
}

/// The same, with the instance's resources.
pub fn guest_view<S: Send + 'static>(guest: &mut GuestState) -> GuestView<'_, S> {
    let (extension, table) = guest.extension_and_table();
    let states = extension.and_then(|extension| extension.downcast_mut::<crate::instance::InstanceState>());
    let state = states.and_then(|states| states.interfaces.get_mut());
    #[expect(clippy::expect_used, reason = "proven beside it")]
    // A host function is linked for a component that its interface was bound to (`link` comes after `bind_component`), and each
    // instance of that has a state of each such interface. That `S` is its type is the interface's own affair.
    let state = state.expect("an instance has the states of the host interfaces of its component");
    GuestView { state, table }
}
