//! What a component imports and nobody provides.
//!
//! wasmtime names the first of them. A component that was built for another host wants more than one thing, and whoever built it
//! should learn of all of them at once.

use wasmtime::component::{Component, Linker, LinkerInstance, ResourceType, types::ComponentItem};

use crate::state::GuestState;

/// Versions of WASI that are linked: a component that imports another one of the same series is given these.
const LINKED: [(&str, &str); 2] = [("0.2.", "0.2.12"), ("0.3.", "0.3.0")];
/// Imports that are named at most.
const NAMED: usize = 16;

/// Names all imports of `component` that are not in `linker`; none where what is wrong with them is their type.
pub(crate) fn missing(linker: &Linker<GuestState>, component: &Component) -> Vec<String> {
    let engine = linker.engine();
    let mut missing = Vec::new();
    // A definition that does not clash is one that was not there.
    let mut probe = linker.clone();
    probe.allow_shadowing(false);
    let mut resources = Vec::new();
    let mut is_wanted = |ty: &ComponentItem| match ty {
        ComponentItem::ComponentFunc(_) => true,
        // One that an earlier import has brought is used under another name, and need not be there a second time.
        ComponentItem::Resource(resource) => {
            let is_new = !resources.contains(resource);
            if is_new {
                resources.push(*resource);
            }
            is_new
        }
        // Types are the component's own affair.
        _ => false,
    };
    for (name, import) in component.component_type().imports(engine) {
        match import.ty {
            ComponentItem::ComponentInstance(instance) => {
                let wanted = instance.exports(engine).map(|(item, export)| (item, export.ty));
                let wanted: Vec<_> = wanted.filter(|(_, ty)| is_wanted(ty)).collect();
                let lacks: Vec<&str> = wanted
                    .iter()
                    .filter(|(item, ty)| !has(&mut probe, name, item, ty))
                    .map(|(item, _)| *item)
                    .collect();
                if !lacks.is_empty() && lacks.len() == wanted.len() {
                    missing.push(format!("`{name}`"));
                } else {
                    missing.extend(lacks.into_iter().map(|item| format!("`{name}#{item}`")));
                }
            }
            ty if is_wanted(&ty) && define(probe.root(), name, &ty).is_ok() => {
                missing.push(format!("`{name}`"));
            }
            _ => {}
        }
    }
    let more = missing.len().saturating_sub(NAMED);
    if more > 0 {
        missing.truncate(NAMED);
        missing.push(format!("{more} more"));
    }
    missing
}

fn has(probe: &mut Linker<GuestState>, interface: &str, item: &str, ty: &ComponentItem) -> bool {
    let alias = LINKED.iter().find_map(|(series, linked)| {
        let (name, version) = interface.split_once('@')?;
        version.starts_with(series).then(|| format!("{name}@{linked}"))
    });
    let mut is_there = |interface: &str| match probe.instance(interface) {
        Ok(instance) => define(instance, item, ty).is_err(),
        // It is something else than an instance.
        Err(_) => true,
    };
    is_there(interface) || alias.filter(|alias| alias != interface).is_some_and(|alias| is_there(&alias))
}

/// Defines something under a name. It is never called.
fn define(
    mut instance: LinkerInstance<'_, GuestState>,
    name: &str,
    ty: &ComponentItem,
) -> wasmtime::Result<()> {
    match ty {
        ComponentItem::Resource(_) => {
            instance.resource(name, ResourceType::host::<Unprovided>(), |_, _| Ok(()))
        }
        _ => instance.func_wrap(name, |_, ()| -> wasmtime::Result<()> { Ok(()) }),
    }
}

/// A resource that there is none of.
struct Unprovided;
