//! Who serves what a component imports.
//!
//! ```text
//!   component ─► Unit: its imports and exports, by name and type
//!   all units, worlds of plugins ─[plan]─► for each import: a sibling, a plugin, or the host ─[exports]─► functions in a linker
//! ```
//!
//! A sibling comes before a plugin, and a plugin before the host, so that a component can stand in for either. No component serves
//! itself: one that exports what it imports stands between its callers and whoever else exports that. Components must not call
//! each other in a circle: a call would wait for an instance that waits for it.

mod exports;
mod plan;

use std::{collections::HashMap, sync::Arc};

pub(crate) use exports::{CalleeSource, ExportedTypes, check_types, define};
use kubewasm_host::LoadedComponent;
pub(crate) use plan::{Source, is_built_in, plan};
use wasmtime::component::types::{ComponentFunc, ComponentInstance, ComponentItem};

use crate::{
    call::{Function, function_key},
    wit::InterfaceName,
};

/// A component, as others see it.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) name: Arc<str>,
    pub(crate) loaded: LoadedComponent,
    pub(crate) imports: Vec<Import>,
    pub(crate) exports: Vec<Export>,
}

/// An interface that a component imports, or something else under a name of its own.
#[derive(Clone, Debug)]
pub(crate) struct Import {
    pub(crate) name: String,
    /// `None` for what is no interface.
    pub(crate) interface: Option<InterfaceName>,
    /// See [`LinkedImport::label`](crate::host_interface::LinkedImport::label).
    pub(crate) label: Option<String>,
    /// It has functions or resources, which somebody must define; types are the component's own affair.
    pub(crate) has_items: bool,
    pub(crate) items: Option<ComponentInstance>,
}

/// An interface that a component exports.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) interface: InterfaceName,
    pub(crate) items: ComponentInstance,
}

impl Unit {
    pub(crate) fn new(name: Arc<str>, loaded: LoadedComponent) -> Self {
        let component = loaded.component();
        let engine = component.engine();
        let ty = component.component_type();
        let imports = ty.imports(engine).map(|(name, import)| {
            let own = InterfaceName::parse(name);
            let label = (own.is_none() && import.implements.is_some()).then(|| name.to_owned());
            let interface = own.or_else(|| import.implements.and_then(InterfaceName::parse));
            let (items, has_items) = match import.ty {
                ComponentItem::ComponentInstance(items) => {
                    let has_items = items.exports(engine).any(|(_, item)| is_defined(&item.ty));
                    (Some(items), has_items)
                }
                ty => (None, is_defined(&ty)),
            };
            Import { name: name.to_owned(), interface, label, has_items, items }
        });
        let exports = ty.exports(engine).filter_map(|(name, export)| {
            let ComponentItem::ComponentInstance(items) = export.ty else { return None };
            Some(Export { name: name.to_owned(), interface: InterfaceName::parse(name)?, items })
        });
        let (imports, exports) = (imports.collect(), exports.collect());
        Self { name, loaded, imports, exports }
    }

    /// What it exports that serves an import.
    pub(crate) fn export(&self, wanted: &InterfaceName) -> Option<&Export> {
        self.exports.iter().find(|export| export.interface.serves(wanted))
    }

    /// Whether it exports an interface, of any version that begins so.
    pub(crate) fn has_export(&self, interface: &str, version: &str) -> bool {
        self.exports.iter().any(|export| {
            let name = export.name.split_once('@');
            name.is_some_and(|(name, of)| name == interface && of.starts_with(version))
        })
    }

    /// Whether it answers HTTP requests.
    pub(crate) fn serves_http(&self) -> bool {
        self.has_export("wasi:http/incoming-handler", "0.2.") || self.has_export("wasi:http/handler", "0.3.")
    }

    /// Its functions, for those who call it.
    pub(crate) fn functions(&self) -> HashMap<String, Function> {
        let component = self.loaded.component();
        let mut functions = HashMap::new();
        for export in &self.exports {
            let Some(instance) = component.get_export_index(None, &*export.name) else { continue };
            for (name, function) in functions_of(&export.items, component.engine()) {
                if let Some(index) = component.get_export_index(Some(&instance), &*name) {
                    let function = Function { export: index, results: function.results().len() };
                    functions.insert(function_key(&export.interface, &name), function);
                }
            }
        }
        functions
    }
}

fn is_defined(ty: &ComponentItem) -> bool {
    matches!(ty, ComponentItem::ComponentFunc(_) | ComponentItem::Resource(_))
}

fn functions_of(items: &ComponentInstance, engine: &wasmtime::Engine) -> Vec<(String, ComponentFunc)> {
    let functions = items.exports(engine).filter_map(|(name, item)| match item.ty {
        ComponentItem::ComponentFunc(function) => Some((name.to_owned(), function)),
        _ => None,
    });
    functions.collect()
}
