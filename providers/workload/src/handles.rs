//! Resources of one component in the hands of another one.
//!
//! A resource stays in the instance that has made it. Whoever is given it has a handle, a number that stands for an entry here, so
//! that the instance is pinned: it goes back to its pool when nobody has a handle of it any more.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use kubewasm_host::GuestState;
use wasmtime::{
    AsContextMut,
    component::{ResourceAny, ResourceDynamic, Val},
};

use crate::{
    call::{CallError, Callee, PinnedInstance},
    instance,
    shape::Shape,
};

/// Handles that one instance may have of others' resources at a time.
const MOST: usize = 4096;

/// The handles of one instance.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    entries: HashMap<u32, Handle>,
    next: u32,
    /// Instances that it has or had handles of.
    pinned: Vec<Weak<PinnedInstance>>,
}

/// A resource, and the instance that it is in.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) owner: Arc<PinnedInstance>,
    pub(crate) resource: ResourceAny,
}

impl Handles {
    fn insert(&mut self, handle: Handle) -> wasmtime::Result<u32> {
        if self.entries.len() >= MOST {
            return Err(wasmtime::format_err!(
                "the component holds more than {MOST} resources of others: drop those that are not needed"
            ));
        }
        while self.entries.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let rep = self.next;
        self.next = self.next.wrapping_add(1);
        self.entries.insert(rep, handle);
        Ok(rep)
    }

    pub(crate) fn remove(&mut self, rep: u32) -> Option<Handle> {
        self.entries.remove(&rep)
    }

    fn get(&self, rep: u32) -> Option<&Handle> {
        self.entries.get(&rep)
    }

    /// The instance of this component that it has handles of, if there is one that can still be called.
    pub(crate) fn pinned(&mut self, callee: &Arc<Callee>) -> Option<Arc<PinnedInstance>> {
        self.pinned.retain(|pinned| pinned.strong_count() > 0);
        let mut live = self.pinned.iter().filter_map(Weak::upgrade);
        live.find(|pinned| pinned.is_of(callee) && pinned.is_usable())
    }

    pub(crate) fn pin(&mut self, pinned: &Arc<PinnedInstance>) {
        let is_known = self.pinned.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(pinned)));
        if !is_known {
            self.pinned.push(Arc::downgrade(pinned));
        }
    }
}

/// Parameters on their way from one instance to another.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// The instance whose resources are among them.
    pub(crate) owner: Option<Arc<PinnedInstance>>,
    /// Resources that are given back to it for good.
    pub(crate) returned: usize,
}

/// Turns the handles in a value into the resources that they stand for.
pub(crate) fn pass(
    mut store: impl AsContextMut<Data = GuestState>,
    shape: &Shape,
    value: &Val,
    passed: &mut Passed,
) -> wasmtime::Result<Val> {
    shape.map(value, &mut |leaf, resource| {
        let is_own = matches!(leaf, Shape::Own(_));
        let number = resource.try_into_resource_dynamic(&mut store)?.rep();
        let mut context = store.as_context_mut();
        let handles = instance::handles(context.data_mut())?;
        let handle = if is_own { handles.remove(number) } else { handles.get(number).cloned() };
        let handle = handle.ok_or_else(|| wasmtime::format_err!("there is no such resource"))?;
        match &passed.owner {
            Some(owner) if !Arc::ptr_eq(owner, &handle.owner) => {
                return Err(CallError::TwoInstances.into());
            }
            Some(_) => {}
            None => passed.owner = Some(Arc::clone(&handle.owner)),
        }
        passed.returned += usize::from(is_own);
        Ok(handle.resource)
    })
}

/// Turns the resources in a value that an instance has returned into handles.
pub(crate) fn hand_out(
    mut store: impl AsContextMut<Data = GuestState>,
    shape: &Shape,
    value: &Val,
    owner: &Arc<PinnedInstance>,
) -> wasmtime::Result<Val> {
    shape.map(value, &mut |leaf, resource| {
        let Shape::Own(ty) = leaf else {
            return Err(wasmtime::format_err!("a borrowed resource was returned"));
        };
        let mut context = store.as_context_mut();
        let handles = instance::handles(context.data_mut())?;
        let rep = handles.insert(Handle { owner: Arc::clone(owner), resource })?;
        handles.pin(owner);
        owner.hands_out();
        ResourceDynamic::new_own(rep, *ty).try_into_resource_any(&mut store)
    })
}
