//! `wasi:config`: settings of a component, which can change while it runs.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use async_trait::async_trait;
use kubewasm_host::GuestState;
use wasmtime::component::{HasData, Linker};

use super::bindings::config::wasi::{config0_2_0_draft::runtime, config0_2_0_rc_1::store};
use crate::{
    host_interface::{
        BoundInterface, ComponentBinding, GuestView, HostInterface, InterfaceError, LinkedImport,
        WorkloadIdentity, guest_view,
    },
    wit::{WitInterface, WitWorld},
};

/// Settings that can be replaced. Whoever has a clone sees the new ones from the next look on, and each look sees all of one
/// version.
#[derive(Clone, Debug, Default)]
pub struct LiveConfig(Arc<RwLock<Arc<BTreeMap<String, String>>>>);

impl LiveConfig {
    /// Settings in layers: a later one goes over those before it.
    #[must_use]
    pub fn new<'a>(layers: impl IntoIterator<Item = &'a HashMap<String, String>>) -> Self {
        let config = Self::default();
        config.replace(layers);
        config
    }

    /// Puts others in their place.
    pub fn replace<'a>(&self, layers: impl IntoIterator<Item = &'a HashMap<String, String>>) {
        let mut all = BTreeMap::new();
        for layer in layers {
            all.extend(layer.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
    }

    /// All of them, as they are now.
    #[must_use]
    pub fn all(&self) -> Arc<BTreeMap<String, String>> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The versions of the interface, the older one second.
const STORE: &str = "wasi:config/store@0.2.0-rc.1";
const RUNTIME: &str = "wasi:config/runtime@0.2.0-draft";

/// `wasi:config`. A component sees the settings of the workload's entry about it, and over them its own.
#[derive(Debug, Default)]
pub struct WasiConfig {
    /// By workload and component.
    bound: Mutex<HashMap<(String, Arc<str>), BoundConfig>>,
}

impl WasiConfig {
    /// The interface.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the own settings of a component, while it runs. False where there is no such component that has imported it.
    pub fn replace(&self, workload_id: &str, component: &str, own: &HashMap<String, String>) -> bool {
        let bound = self.bound().get(&(workload_id.to_owned(), component.into())).cloned();
        bound.map(|bound| bound.live.replace(bound.entries.iter().chain([own]))).is_some()
    }

    fn bound(&self) -> MutexGuard<'_, HashMap<(String, Arc<str>), BoundConfig>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl HostInterface for WasiConfig {
    fn id(&self) -> &'static str {
        "wasi-config"
    }

    fn world(&self) -> WitWorld {
        WitWorld {
            imports: Vec::new(),
            exports: vec![WitInterface::from(STORE), WitInterface::from(RUNTIME)],
        }
    }

    async fn bind_component(
        &self,
        component: &ComponentBinding,
    ) -> Result<Arc<dyn BoundInterface>, InterfaceError> {
        // The one without a name is what the others add to.
        let mut entries: Vec<_> = component.interfaces.iter().collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        let entries: Arc<[_]> = entries.into_iter().map(|entry| entry.config.clone()).collect();
        let live = LiveConfig::new(entries.iter().chain([&component.config]));
        let bound = BoundConfig { entries, live };
        let key = (component.workload.id.clone(), Arc::clone(&component.component));
        self.bound().insert(key, bound.clone());
        Ok(Arc::new(bound))
    }

    fn link(&self, linker: &mut Linker<GuestState>, imports: &[LinkedImport]) -> wasmtime::Result<()> {
        for import in imports {
            let mut instance = linker.instance(&import.import)?;
            match &*import.interface.interface {
                "store" => {
                    store::add_to_linker_instance::<_, HasConfig>(&mut instance, guest_view::<ConfigGuest>)?
                }
                "runtime" => {
                    runtime::add_to_linker_instance::<_, HasConfig>(&mut instance, guest_view::<ConfigGuest>)?
                }
                other => wasmtime::bail!("wasi:config has no interface {other}"),
            }
        }
        Ok(())
    }

    async fn unbind(&self, workload: &WorkloadIdentity) {
        self.bound().retain(|(id, _), _| *id != workload.id);
    }
}

/// What a component has of it.
#[derive(Clone, Debug)]
struct BoundConfig {
    entries: Arc<[HashMap<String, String>]>,
    live: LiveConfig,
}

impl BoundInterface for BoundConfig {
    fn guest_state(&self) -> Box<dyn Any + Send> {
        Box::new(ConfigGuest(self.live.clone()))
    }
}

#[derive(Debug)]
struct ConfigGuest(LiveConfig);

struct HasConfig;

impl HasData for HasConfig {
    type Data<'a> = GuestView<'a, ConfigGuest>;
}

impl ConfigGuest {
    fn get(&self, key: &str) -> Option<String> {
        self.0.all().get(key).cloned()
    }

    fn all(&self) -> Vec<(String, String)> {
        self.0.all().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl store::Host for GuestView<'_, ConfigGuest> {
    async fn get(&mut self, key: String) -> Result<Option<String>, store::Error> {
        Ok(self.state.get(&key))
    }

    async fn get_all(&mut self) -> Result<Vec<(String, String)>, store::Error> {
        Ok(self.state.all())
    }
}

impl runtime::Host for GuestView<'_, ConfigGuest> {
    async fn get(&mut self, key: String) -> Result<Option<String>, runtime::ConfigError> {
        Ok(self.state.get(&key))
    }

    async fn get_all(&mut self) -> Result<Vec<(String, String)>, runtime::ConfigError> {
        Ok(self.state.all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn later_layers_go_over_earlier_ones_and_can_be_replaced() {
        let config = LiveConfig::new(&[layer(&[("a", "1"), ("b", "1")]), layer(&[("b", "2")])]);
        let (seen, before) = (config.clone(), config.all());
        assert_eq!(before.iter().map(|(k, v)| format!("{k}{v}")).collect::<String>(), "a1b2");
        config.replace(&[layer(&[("c", "3")])]);
        assert_eq!(seen.all().keys().collect::<Vec<_>>(), ["c"]);
        assert_eq!(before.len(), 2, "whoever looks sees one version");
    }
}
