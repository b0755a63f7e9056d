//! What an instance of a workload has on the host besides WASI: the states of its host interfaces, and its handles of other
//! components' resources.

use std::{any::Any, sync::Arc};

use kubewasm_host::{GuestExtension, GuestState};

use crate::{
    handles::Handles,
    host_interface::{BoundInterface, InterfaceStates},
};

/// What one instance has.
pub(crate) struct InstanceState {
    pub(crate) interfaces: InterfaceStates,
    pub(crate) handles: Handles,
}

/// Makes it, for the instances of one version of a component.
#[derive(Debug, Default)]
pub(crate) struct InstanceTemplate {
    pub(crate) interfaces: Vec<Arc<dyn BoundInterface>>,
}

impl GuestExtension for InstanceTemplate {
    fn state(&self) -> Box<dyn Any + Send> {
        let states = self.interfaces.iter().map(|interface| interface.guest_state()).collect();
        Box::new(InstanceState { interfaces: InterfaceStates(states), handles: Handles::default() })
    }
}

/// The handles of an instance of a workload; there are none in guests of others.
pub(crate) fn handles(guest: &mut GuestState) -> wasmtime::Result<&mut Handles> {
    let state = guest.extension_mut::<InstanceState>().map(|state| &mut state.handles);
    state.ok_or_else(|| wasmtime::format_err!("the instance belongs to no workload"))
}
