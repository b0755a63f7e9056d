//! Makes a version of a workload: compiles, plans, binds and links, in this order.

use std::{collections::HashSet, sync::Arc};

use kubewasm_host::{ComponentUse, GuestExtension, GuestState, InstanceMaker, LoadError, Loaded};
use wasmtime::component::Linker;

use crate::{
    call::Callee,
    error::{LinkError, LinkedItem, UnservedImport, WorkloadError},
    ground::{ComponentGround, Ground, SERVICE, call_settings, http_settings, invalid},
    host_interface::{ComponentBinding, LinkedImport},
    instance::InstanceTemplate,
    link::{self, CalleeSource, ExportedTypes, Source, Unit},
    resolved::{HttpExport, ResolvedWorkload},
    volumes::Volumes,
    wit::{InterfaceName, WitInterface, WitWorld},
    workload::{Component, LocalResources, Service, Workload},
};

/// A version of a workload that can be called.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) resolved: ResolvedWorkload,
    pub(crate) service: Option<AssembledService>,
}

/// A service that can be run.
#[derive(Debug)]
pub(crate) struct AssembledService {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) ground: ComponentGround,
    pub(crate) extension: Arc<dyn GuestExtension>,
    pub(crate) max_restarts: u64,
}

/// A component, or the service, on its way.
struct Part<'a> {
    name: Arc<str>,
    resources: &'a LocalResources,
    /// `None` for the service.
    component: Option<&'a Component>,
}

/// Components that were compiled, with who serves what they import.
pub(crate) struct Planned<'a> {
    parts: Vec<Part<'a>>,
    units: Vec<Unit>,
    sources: Vec<Vec<Source>>,
    worlds: Vec<WitWorld>,
    /// Plugins that something is asked of.
    pub(crate) plugins: Vec<usize>,
}

/// The entries of a workload about the packages of a plugin.
pub(crate) fn entries_of(world: &WitWorld, workload: &Workload) -> Vec<WitInterface> {
    let of_world = world.imports.iter().chain(&world.exports).map(WitInterface::package_name);
    let of_world: HashSet<String> = of_world.collect();
    let entries = workload.host_interfaces.iter();
    entries.filter(|entry| of_world.contains(&entry.package_name())).cloned().collect()
}

fn parts(workload: &Workload) -> Result<Vec<Part<'_>>, WorkloadError> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    for (index, component) in workload.components.iter().enumerate() {
        let name = match component.name.as_str() {
            "" => format!("component-{index}"),
            name => name.to_owned(),
        };
        if name == SERVICE || parts.iter().any(|part| *part.name == *name) {
            return Err(invalid(
                format!("component `{name}`"),
                "there are two of this name, or it is the service's",
            ));
        }
        let resources = &component.local_resources;
        parts.push(Part { name: name.into(), resources, component: Some(component) });
    }
    if let Some(Service { local_resources, .. }) = &workload.service {
        parts.push(Part { name: SERVICE.into(), resources: local_resources, component: None });
    }
    let mut seen = HashSet::new();
    for entry in &workload.host_interfaces {
        if !seen.insert((entry.package_name(), entry.name.as_deref())) {
            let reason = "there are two entries of this package and name: give one of them another name";
            return Err(invalid(format!("host interface `{entry}`"), reason));
        }
    }
    Ok(parts)
}

/// Compiles the components of a workload, and finds out who serves what they import.
pub(crate) async fn prepare<'a>(
    ground: &Ground,
    workload: &'a Workload,
) -> Result<Planned<'a>, WorkloadError> {
    let parts = parts(workload)?;
    let engine = &ground.host.engine;
    let mut units = Vec::with_capacity(parts.len());
    for part in &parts {
        let (bytes, digest) = match (part.component, &workload.service) {
            (Some(component), _) => (&component.bytes, component.digest.as_deref()),
            (None, Some(service)) => (&service.bytes, service.digest.as_deref()),
            (None, None) => continue,
        };
        let load = async {
            let compiled = engine.compile(bytes, digest).await?;
            engine.load(&compiled, part.component.is_some()).await
        };
        let failed = |source| WorkloadError::Compile { component: part.name.to_string(), source };
        units.push(Unit::new(Arc::clone(&part.name), load.await.map_err(failed)?));
    }
    let worlds: Vec<_> = ground.host.plugins.iter().map(|plugin| plugin.world()).collect();
    let named: Vec<_> =
        units.iter().zip(&parts).map(|(unit, part)| (unit, part.component.is_some())).collect();
    let sources = link::plan(&named, &worlds)?;
    let asks = |world: &WitWorld, (unit, sources): (&Unit, &Vec<Source>), index| {
        sources.contains(&Source::Plugin(index)) || !called_exports(world, unit).is_empty()
    };
    let is_used = |index: &usize| {
        let world = &worlds[*index];
        !entries_of(world, workload).is_empty()
            || units.iter().zip(&sources).any(|unit| asks(world, unit, *index))
    };
    let plugins = (0..worlds.len()).filter(is_used).collect();
    Ok(Planned { parts, units, sources, worlds, plugins })
}

/// What a component exports that a plugin calls.
fn called_exports(world: &WitWorld, unit: &Unit) -> Vec<InterfaceName> {
    let is_called = |export: &&link::Export| world.imports.iter().any(|called| called.has(&export.interface));
    unit.exports.iter().filter(is_called).map(|export| export.interface.clone()).collect()
}

/// What nobody serves of what the workload itself asks its host for.
fn unserved_entries(workload: &Workload, worlds: &[WitWorld]) -> Vec<UnservedImport> {
    let mut unserved = Vec::new();
    for entry in workload.host_interfaces.iter().filter(|entry| !link::is_built_in(entry)) {
        for interface in &entry.interfaces {
            let wanted = InterfaceName {
                namespace: entry.namespace.clone(),
                package: entry.package.clone(),
                interface: interface.clone(),
                version: entry.version.clone(),
            };
            let mut all = worlds.iter().flat_map(|world| world.imports.iter().chain(&world.exports));
            let is_ours = WitInterface { interfaces: HashSet::from([interface.clone()]), ..entry.clone() };
            if !all.any(|has| has.has(&wanted)) && !link::is_built_in(&is_ours) {
                unserved.push(UnservedImport { import: wanted.to_string(), component: None });
            }
        }
    }
    unserved
}

/// Binds the components of a workload to what they import, and links them.
pub(crate) async fn assemble(
    ground: &Ground,
    workload: &Workload,
    planned: &Planned<'_>,
    volumes: &Arc<Volumes>,
) -> Result<Assembly, WorkloadError> {
    let Planned { parts, units, sources, worlds, plugins } = planned;
    let mut unserved = unserved_entries(workload, worlds);
    let types: Vec<_> = units.iter().map(|unit| ExportedTypes::of(unit, &ground.slot(&unit.name))).collect();
    let mut linked = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let unit = &units[index];
        let component = ground.component(&part.name, part.resources, volumes, part.component.is_none())?;
        let mut template = InstanceTemplate::default();
        let mut linker = unit.loaded.linker();
        for (import, source) in unit.imports.iter().zip(&sources[index]) {
            if let Source::Sibling(at) = source {
                let exporter = &units[*at];
                link_sibling(&mut linker, unit, import, exporter, &types[*at], ground)?;
            }
        }
        for at in plugins {
            let plugin = &ground.host.plugins[*at];
            let imports = imports_of(unit, &sources[index], *at);
            let exports = called_exports(&worlds[*at], unit);
            if imports.is_empty() && exports.is_empty() {
                continue;
            }
            let binding = ComponentBinding {
                workload: Arc::clone(&ground.identity),
                component: Arc::clone(&part.name),
                interfaces: entries_of(&worlds[*at], workload),
                config: part.resources.config.clone(),
                imports,
                exports,
                account: Arc::clone(&component.account),
                output: Arc::clone(&component.output),
            };
            let failed = |source| WorkloadError::Plugin { plugin: plugin.id(), source };
            template.interfaces.push(plugin.bind_component(&binding).await.map_err(failed)?);
            plugin.link(&mut linker, &binding.imports).map_err(|error| other(unit, format!("{error:#}")))?;
        }
        let missing = unit.loaded.missing(&linker).into_iter().map(|import| UnservedImport {
            import: import.trim_matches('`').to_owned(),
            component: Some(part.name.to_string()),
        });
        unserved.extend(missing);
        linked.push((component, template, linker));
    }
    if !unserved.is_empty() {
        return Err(LinkError::Unserved(unserved).into());
    }
    finish(ground, workload, planned, volumes, linked)
}

fn other(unit: &Unit, reason: String) -> WorkloadError {
    LinkError::Other { component: unit.name.to_string(), reason }.into()
}

fn link_sibling(
    linker: &mut Linker<GuestState>,
    unit: &Unit,
    import: &link::Import,
    exporter: &Unit,
    types: &ExportedTypes,
    ground: &Ground,
) -> Result<(), WorkloadError> {
    let Some(export) = import.interface.as_ref().and_then(|interface| exporter.export(interface)) else {
        return Ok(());
    };
    let slot = ground.slot(&exporter.name);
    link::check_types(unit, import, exporter, export, types, &slot)?;
    // A component can stand in for something of the host's.
    linker.allow_shadowing(true);
    let failed = |error: wasmtime::Error| LinkError::Other {
        component: unit.name.to_string(),
        reason: format!("`{}`: {error:#}", import.name),
    };
    let not_passable = |item: &str, what| {
        let item = LinkedItem {
            component: unit.name.to_string(),
            import: import.name.clone(),
            item: item.to_owned(),
            exporter: exporter.name.to_string(),
        };
        LinkError::NotPassable { item: Box::new(item), what }
    };
    let mut instance = linker.instance(&import.name).map_err(failed)?;
    let engine = exporter.loaded.component().engine();
    link::define(&mut instance, engine, export, types, &CalleeSource::Slot(slot), not_passable, failed)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn imports_of(unit: &Unit, sources: &[Source], plugin: usize) -> Vec<LinkedImport> {
    let imports = unit.imports.iter().zip(sources).filter(|(_, source)| **source == Source::Plugin(plugin));
    let imports = imports.filter_map(|(import, _)| {
        let interface = import.interface.clone()?;
        Some(LinkedImport { import: import.name.clone(), interface, label: import.label.clone() })
    });
    imports.collect()
}

fn finish(
    ground: &Ground,
    workload: &Workload,
    planned: &Planned<'_>,
    volumes: &Arc<Volumes>,
    linked: Vec<(ComponentGround, InstanceTemplate, Linker<GuestState>)>,
) -> Result<Assembly, WorkloadError> {
    let host = ground.host.engine.host();
    let deadline = ground.host.deadline;
    let (mut callees, mut http, mut service) = (Vec::new(), Vec::new(), None);
    for (index, (component, template, linker)) in linked.into_iter().enumerate() {
        let (part, unit) = (&planned.parts[index], &planned.units[index]);
        let link = |used| {
            unit.loaded.link(&linker, used).map_err(|error| match error {
                LoadError::Link(reason) | LoadError::Precompiled(reason) => other(unit, reason),
            })
        };
        let prepare = |source| WorkloadError::Prepare { component: part.name.to_string(), source };
        let extension: Arc<dyn GuestExtension> = Arc::new(template);
        let Some(spec) = part.component else {
            let loaded = link(ComponentUse::Command)?;
            let max_restarts = workload.service.as_ref().map_or(0, |service| service.max_restarts);
            service = Some(AssembledService { loaded, ground: component, extension, max_restarts });
            continue;
        };
        let maker = InstanceMaker::new(host, link(ComponentUse::Called)?, &component.setup(&extension));
        let exports = unit.exports.iter().map(|export| export.interface.clone()).collect();
        callees.push(Callee::new(
            Arc::clone(&part.name),
            Arc::clone(host),
            maker.map_err(prepare)?,
            call_settings(spec, deadline),
            exports,
            unit.functions(),
        ));
        if unit.serves_http() && !is_behind_another(planned, index) {
            let settings = http_settings(spec, deadline);
            let loaded = link(ComponentUse::Http)?;
            let handler =
                host.http_handler(loaded, &component.setup(&extension), settings).map_err(prepare)?;
            http.push(HttpExport { component: Arc::clone(&part.name), handler: Arc::new(handler) });
        }
    }
    let http_world = WitWorld { imports: vec!["wasi:http".into()], ..WitWorld::default() };
    let resolved = ResolvedWorkload {
        identity: Arc::clone(&ground.identity),
        callees,
        http,
        _volumes: Arc::clone(volumes),
        http_interfaces: entries_of(&http_world, workload),
    };
    Ok(Assembly { resolved, service })
}

/// Whether another component calls its handler of HTTP requests, and is to be asked in its place.
fn is_behind_another(planned: &Planned<'_>, index: usize) -> bool {
    planned.units.iter().zip(&planned.sources).any(|(unit, sources)| {
        let is_handler = |import: &link::Import| {
            import.interface.as_ref().is_some_and(|name| {
                name.package == "http"
                    && (name.interface == "incoming-handler" || name.interface == "handler")
            })
        };
        unit.imports
            .iter()
            .zip(sources)
            .any(|(import, source)| *source == Source::Sibling(index) && is_handler(import))
    })
}
