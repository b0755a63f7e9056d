//! Why a workload does not start, and a host.

use std::{fmt, io};

use kubewasm_host::{HostError as EngineHostError, LoadError, PrepareError, engine::EngineError};

use crate::host_interface::InterfaceError;

/// An engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineBuildError {
    /// Its directory.
    #[error("cannot use the directory {path} for compiled components and volumes: {source}")]
    Directory {
        /// Which.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// wasmtime.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The same, with what guests import.
    #[error(transparent)]
    Host(#[from] EngineHostError),
}

/// A host could not be made, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Its engine, where none was given.
    #[error(transparent)]
    Engine(#[from] EngineBuildError),
    /// Two plugins with one name.
    #[error("there are two plugins `{0}`: add each once")]
    PluginTwice(&'static str),
    /// A plugin did not start.
    #[error("plugin `{plugin}` did not start: {source}")]
    Plugin {
        /// Which.
        plugin: &'static str,
        /// Why not.
        #[source]
        source: InterfaceError,
    },
    /// What the machine says of itself.
    #[error("cannot read {what} of this machine: {source}")]
    Machine {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A workload does not start, or there is none.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// There is one already.
    #[error("there is a workload `{0}` already: stop or update it, or choose another id")]
    Exists(String),
    /// There is none.
    #[error("there is no workload `{0}`")]
    NotFound(String),
    /// The host ends.
    #[error("the host takes no workloads any more: it ends")]
    Ends,
    /// It says something that cannot be meant.
    #[error("{what}: {reason}")]
    Invalid {
        /// Of which component or volume.
        what: String,
        /// What is wrong, and what it could be.
        reason: String,
    },
    /// A component is no component, or cannot be compiled.
    #[error("component `{component}`: {source}")]
    Compile {
        /// Which.
        component: String,
        /// Why not.
        #[source]
        source: CompileError,
    },
    /// Components and host interfaces do not go together.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A host interface cannot do what the workload wants.
    #[error("plugin `{plugin}`: {source}")]
    Plugin {
        /// Which.
        plugin: &'static str,
        /// Why not.
        #[source]
        source: InterfaceError,
    },
    /// A volume cannot be made.
    #[error("volume `{volume}`: cannot use {path}: {source}")]
    Volume {
        /// Which.
        volume: String,
        /// Where it would be.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Instances of a component cannot be made.
    #[error("component `{component}`: {source}")]
    Prepare {
        /// Which.
        component: String,
        /// Why not.
        #[source]
        source: PrepareError,
    },
}

/// Bytes are no component that runs here.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// They are something else.
    #[error(transparent)]
    Inspect(#[from] kubewasm_host::inspect::InspectError),
    /// They are a core module.
    #[error(
        "it is a core module, and a workload is made of components: encode it with `wasm-tools component new`"
    )]
    CoreModule,
    /// They are other bytes than were promised.
    #[error("its bytes have the digest {found}, and {wanted} was asked for")]
    Digest {
        /// What was asked for.
        wanted: String,
        /// What came.
        found: String,
    },
    /// The compiler refused them.
    #[error("it cannot be compiled: {0}")]
    Compiler(String),
    /// What was compiled cannot be kept.
    #[error("cannot keep the compiled component at {path}: {source}")]
    Write {
        /// Where.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What was compiled cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Components and host interfaces do not go together.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// What nobody serves, all of it.
    #[error("nobody serves {}", Listed(.0))]
    Unserved(Vec<UnservedImport>),
    /// An import that several components serve.
    #[error("`{component}` imports `{import}`, and {} export it: leave one of them out", .exporters.join(", "))]
    Ambiguous {
        /// Who imports it.
        component: String,
        /// What.
        import: String,
        /// Who exports it.
        exporters: Vec<String>,
    },
    /// Components that call each other in a circle.
    #[error("components call each other in a circle, which would wait for itself: {}", .0.join(" → "))]
    Circle(Vec<String>),
    /// What is imported has another type than what is exported.
    #[error("{item}: it has another type there: {reason}")]
    Type {
        /// What.
        item: Box<LinkedItem>,
        /// How they differ.
        reason: &'static str,
    },
    /// A function takes or returns something that stays in its component.
    #[error("{item}: it has {what} in it, which cannot be handed from one component to another")]
    NotPassable {
        /// What.
        item: Box<LinkedItem>,
        /// What it takes or returns.
        what: &'static str,
    },
    /// wasmtime has something against it.
    #[error("`{component}` cannot be linked: {reason}")]
    Other {
        /// Which component.
        component: String,
        /// What.
        reason: String,
    },
}

/// A function or a resource that one component imports, and another exports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{component}` imports `{import}` of `{exporter}`, and `{item}` of it")]
pub struct LinkedItem {
    /// Who imports it.
    pub component: String,
    /// The interface.
    pub import: String,
    /// Its function or resource.
    pub item: String,
    /// Who exports it.
    pub exporter: String,
}

/// An import that nobody serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnservedImport {
    /// The interface, or a function of one: `a:b/c@1.0.0`, `a:b/c@1.0.0#f`.
    pub import: String,
    /// Who needs it. Nobody where it is an interface that the workload asks its host for.
    pub component: Option<String>,
}

struct Listed<'a>(&'a [UnservedImport]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, UnservedImport { import, component }) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { "; " };
            match component {
                Some(component) => write!(f, "{between}`{import}`, which `{component}` imports")?,
                None => write!(f, "{between}`{import}`, which the workload asks its host for")?,
            }
        }
        Ok(())
    }
}
