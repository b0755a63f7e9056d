//! Settings of a host.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, SystemTime},
};

use kubewasm_host::DeniedNetworks;

use super::Host;
use crate::{
    engine::Engine,
    error::HostError,
    ground::HostShare,
    host_interface::HostInterface,
    loopback::Loopbacks,
    output::{Outputs, TracedOutputs},
};

/// A call, and a request, where nothing else is said: what people know from nginx.
const DEADLINE: Duration = Duration::from_secs(60);

/// Settings of a [`Host`].
#[derive(Debug, Default)]
pub struct HostBuilder {
    engine: Option<Engine>,
    plugins: Vec<Arc<dyn HostInterface>>,
    outputs: Option<Arc<dyn Outputs>>,
    denied_networks: DeniedNetworks,
    deadline: Option<Duration>,
    id: Option<String>,
    friendly_name: Option<String>,
    labels: HashMap<String, String>,
}

impl HostBuilder {
    /// Without any setting.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs on this engine. Without it, on one of its own.
    #[must_use]
    pub fn with_engine(self, engine: Engine) -> Self {
        Self { engine: Some(engine), ..self }
    }

    /// Adds a host interface.
    ///
    /// # Errors
    /// [`HostError::PluginTwice`].
    pub fn with_plugin(mut self, plugin: Arc<dyn HostInterface>) -> Result<Self, HostError> {
        if self.plugins.iter().any(|known| known.id() == plugin.id()) {
            return Err(HostError::PluginTwice(plugin.id()));
        }
        self.plugins.push(plugin);
        Ok(self)
    }

    /// Answers requests of the network with components that export a handler of `wasi:http`. Without it, nobody calls those.
    #[cfg(feature = "wasi-http")]
    #[must_use]
    pub fn with_http_handler(mut self, handler: Arc<super::http::HttpServer>) -> Self {
        self.plugins.retain(|known| known.id() != handler.id());
        self.plugins.push(handler);
        self
    }

    /// Opens the logs of components. Without it, their output is in the program's own log.
    #[must_use]
    pub fn with_outputs(self, outputs: Arc<dyn Outputs>) -> Self {
        Self { outputs: Some(outputs), ..self }
    }

    /// Networks that no component reaches, whatever it is allowed to.
    #[must_use]
    pub fn with_denied_networks(self, denied_networks: DeniedNetworks) -> Self {
        Self { denied_networks, ..self }
    }

    /// How long a call of a component may take, and a request. A minute without it.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Its name among hosts. A random one without it.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// Its name for people. The id without it.
    #[must_use]
    pub fn with_friendly_name(self, name: impl Into<String>) -> Self {
        Self { friendly_name: Some(name.into()), ..self }
    }

    /// Something that is to be known of it.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Makes the host, which does not run yet.
    ///
    /// # Errors
    /// [`HostError::Engine`].
    pub fn build(self) -> Result<Host, HostError> {
        let engine = match self.engine {
            Some(engine) => engine,
            None => Engine::builder().build()?,
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // A hasher's keys are random.
        let random = || RandomState::new().hash_one(now);
        let id = self.id.unwrap_or_else(|| format!("{:016x}{:016x}", random(), random()));
        let share = HostShare {
            engine,
            plugins: self.plugins.into(),
            outputs: self.outputs.unwrap_or_else(|| Arc::new(TracedOutputs)),
            denied_networks: Arc::new(self.denied_networks),
            deadline: self.deadline.unwrap_or(DEADLINE),
        };
        Ok(Host {
            friendly_name: self.friendly_name.unwrap_or_else(|| id.clone()),
            id,
            labels: self.labels,
            started_at: now.as_secs(),
            share,
            loopbacks: Loopbacks::new(),
            workloads: std::sync::Mutex::default(),
            ends: std::sync::atomic::AtomicBool::new(false),
        })
    }
}
