//! A component's exports as functions in somebody else's linker.

use std::{collections::HashMap, sync::Arc};

use kubewasm_host::GuestState;
use wasmtime::{
    AsContextMut as _, Engine, StoreContextMut,
    component::{LinkerInstance, ResourceType, Val, types::ComponentItem},
};

use super::{Export, Import, Unit, functions_of};
use crate::{
    call::{Callee, PinnedInstance, Slot, function_key},
    error::{LinkError, LinkedItem},
    handles::{self, Handle, Passed},
    instance, plugin_component,
    shape::{NotPassable, Signature},
};

/// Where an instance finds the component that it calls.
#[derive(Clone, Debug)]
pub(crate) enum CalleeSource {
    /// A sibling, in whichever version counts.
    Slot(Arc<Slot>),
    /// A plugin that is a component, of this id: the one that is there for the caller's workload.
    Plugin(&'static str),
}

impl CalleeSource {
    fn find(&self, guest: &mut GuestState) -> wasmtime::Result<Arc<Callee>> {
        match self {
            Self::Slot(slot) => Ok(slot.current()?),
            Self::Plugin(id) => plugin_component::callee_of(guest, id),
        }
    }
}

/// The numbers that a component's own resources have between components.
#[derive(Debug)]
pub(crate) struct ExportedTypes {
    numbers: Vec<(ResourceType, u32)>,
}

impl ExportedTypes {
    pub(crate) fn of(exporter: &Unit, slot: &Slot) -> Self {
        let engine = exporter.loaded.component().engine();
        let resources_of =
            |items: &wasmtime::component::types::ComponentInstance| -> Vec<(String, ResourceType)> {
                let resources = items.exports(engine).filter_map(|(name, item)| match item.ty {
                    ComponentItem::Resource(ty) => Some((name.to_owned(), ty)),
                    _ => None,
                });
                resources.collect()
            };
        let imported = exporter.imports.iter().filter_map(|import| import.items.as_ref());
        let imported: Vec<_> = imported.flat_map(resources_of).map(|(_, ty)| ty).collect();
        let mut numbers: Vec<(ResourceType, u32)> = Vec::new();
        for export in &exporter.exports {
            for (name, ty) in resources_of(&export.items) {
                let is_known = numbers.iter().any(|(known, _)| *known == ty);
                if !is_known && !imported.contains(&ty) {
                    numbers.push((ty, slot.resource_number(&export.interface, &name)));
                }
            }
        }
        Self { numbers }
    }

    fn number(&self, ty: ResourceType) -> Option<u32> {
        self.numbers.iter().find(|(known, _)| *known == ty).map(|(_, number)| *number)
    }
}

/// What a host function needs to call a component.
#[derive(Debug)]
struct Target {
    source: CalleeSource,
    key: String,
    signature: Signature,
}

/// Defines the functions and resources of an exported interface.
pub(crate) fn define(
    linker: &mut LinkerInstance<'_, GuestState>,
    engine: &Engine,
    export: &Export,
    types: &ExportedTypes,
    source: &CalleeSource,
    not_passable: impl Fn(&str, &'static str) -> LinkError,
    failed: impl Fn(wasmtime::Error) -> LinkError,
) -> Result<(), LinkError> {
    for (name, item) in export.items.exports(engine) {
        if let ComponentItem::Resource(ty) = item.ty
            && let Some(number) = types.number(ty)
        {
            let ty = ResourceType::host_dynamic(number);
            linker.resource_async(name, ty, |store, rep| Box::new(dropped(store, rep))).map_err(&failed)?;
        }
    }
    for (name, function) in functions_of(&export.items, engine) {
        let signature = Signature::of(&function, &|ty| types.number(ty));
        let signature = signature.map_err(|what| not_passable(&name, what.0))?;
        let is_plain = signature.is_plain();
        let key = function_key(&export.interface, &name);
        let target = Arc::new(Target { source: source.clone(), key, signature });
        let defined = match (function.async_(), types.numbers.is_empty()) {
            (false, true) => linker.func_new_async(&name, move |mut store, _, params, results| {
                let target = Arc::clone(&target);
                Box::new(async move {
                    let callee = target.source.find(store.data_mut())?;
                    Ok(callee.call(&target.key, params, results).await?)
                })
            }),
            (false, false) => linker.func_new_async(&name, move |store, _, params, results| {
                let target = Arc::clone(&target);
                Box::new(async move { call_with_handles(store, &target, params, results).await })
            }),
            (true, _) if !is_plain => {
                return Err(not_passable(&name, "a resource, and is asynchronous"));
            }
            (true, _) => linker.func_new_concurrent(&name, move |accessor, _, params, results| {
                let target = Arc::clone(&target);
                Box::pin(async move {
                    let callee = accessor.with(|mut access| target.source.find(access.data_mut()))?;
                    Ok(callee.call(&target.key, params, results).await?)
                })
            }),
        };
        defined.map_err(&failed)?;
    }
    Ok(())
}

/// A caller has dropped its handle of a resource.
async fn dropped(mut store: StoreContextMut<'_, GuestState>, rep: u32) -> wasmtime::Result<()> {
    match instance::handles(store.data_mut())?.remove(rep) {
        Some(Handle { owner, resource }) => Ok(owner.drop_resource(resource).await?),
        None => Ok(()),
    }
}

/// Calls a component that has resources: in the instance that has those of the parameters, or of which the caller has others.
async fn call_with_handles(
    mut store: StoreContextMut<'_, GuestState>,
    target: &Target,
    params: &[Val],
    results: &mut [Val],
) -> wasmtime::Result<()> {
    let mut passed = Passed::default();
    let sent = target.signature.params.iter().zip(params);
    let sent = sent.map(|(shape, value)| handles::pass(store.as_context_mut(), shape, value, &mut passed));
    let sent = sent.collect::<wasmtime::Result<Vec<_>>>()?;
    let pinned = match passed.owner {
        Some(owner) => owner,
        None => {
            let callee = target.source.find(store.data_mut())?;
            match instance::handles(store.data_mut())?.pinned(&callee) {
                Some(pinned) => pinned,
                None => PinnedInstance::lease(&callee).await?,
            }
        }
    };
    // Of its own version, which may be older than the one that counts.
    let function = pinned.callee().function(&target.key)?;
    let mut returned = vec![Val::Bool(false); function.results];
    pinned.call(&target.key, &function, &sent, &mut returned, passed.returned).await?;
    for ((shape, value), result) in target.signature.results.iter().zip(&returned).zip(results) {
        *result = handles::hand_out(store.as_context_mut(), shape, value, &pinned)?;
    }
    pinned.give_back_if_free().await;
    Ok(())
}

/// Whether what one component imports is what the other exports.
///
/// # Errors
/// [`LinkError::Type`], for the first item that is not.
pub(crate) fn check_types(
    importer: &Unit,
    import: &Import,
    exporter: &Unit,
    export: &Export,
    types: &ExportedTypes,
    slot: &Slot,
) -> Result<(), LinkError> {
    let named = |item: &str| {
        Box::new(LinkedItem {
            component: importer.name.to_string(),
            import: import.name.clone(),
            item: item.to_owned(),
            exporter: exporter.name.to_string(),
        })
    };
    let error = |item: &str, reason| LinkError::Type { item: named(item), reason };
    let Some(items) = &import.items else { return Ok(()) };
    let (imported_by, exported_by) =
        (importer.loaded.component().engine(), exporter.loaded.component().engine());
    let exported: HashMap<_, _> =
        export.items.exports(exported_by).map(|(name, item)| (name.to_owned(), item.ty)).collect();
    let imported = imported_numbers(importer, exporter, types, slot);
    let imported = |ty| imported.iter().find(|(known, _)| *known == ty).map(|(_, number)| *number);
    for (name, item) in items.exports(imported_by) {
        let wanted = match item.ty {
            ComponentItem::ComponentFunc(wanted) => wanted,
            ComponentItem::Resource(_) => match exported.get(name) {
                Some(ComponentItem::Resource(_)) => continue,
                _ => return Err(error(name, "it has no such resource")),
            },
            _ => continue,
        };
        let Some(ComponentItem::ComponentFunc(found)) = exported.get(name) else {
            return Err(error(name, "it has no such function"));
        };
        if wanted.async_() != found.async_() {
            return Err(error(name, "one of them is asynchronous"));
        }
        let not_passable = |what: NotPassable| LinkError::NotPassable { item: named(name), what: what.0 };
        let found_shape = Signature::of(found, &|ty| types.number(ty)).map_err(not_passable)?;
        let wanted_shape = Signature::of(&wanted, &imported).map_err(not_passable)?;
        let is_same = found_shape == wanted_shape
            && (!found_shape.is_plain()
                || (wanted.params().map(|(_, ty)| ty).eq(found.params().map(|(_, ty)| ty))
                    && wanted.results().eq(found.results())));
        if !is_same {
            return Err(error(name, "its parameters or results differ"));
        }
    }
    Ok(())
}

/// The numbers of resources of the exporter, as the importer knows them.
fn imported_numbers(
    importer: &Unit,
    exporter: &Unit,
    types: &ExportedTypes,
    slot: &Slot,
) -> Vec<(ResourceType, u32)> {
    let engine = importer.loaded.component().engine();
    let exported_by = exporter.loaded.component().engine();
    let mut numbers = Vec::new();
    for import in &importer.imports {
        let export = import.interface.as_ref().and_then(|interface| exporter.export(interface));
        let (Some(items), Some(export)) = (&import.items, export) else { continue };
        for (name, item) in items.exports(engine) {
            let ComponentItem::Resource(ty) = item.ty else { continue };
            let number = match export.items.get_export(exported_by, name).map(|item| item.ty) {
                Some(ComponentItem::Resource(exported)) => types.number(exported),
                _ => None,
            };
            numbers.push((ty, number.unwrap_or_else(|| slot.resource_number(&export.interface, name))));
        }
    }
    numbers
}
