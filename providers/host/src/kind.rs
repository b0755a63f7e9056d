//! What a module is, and which engine runs it. Plain values at the bottom of the crate.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a module is, and with that, how it is run. [`crate::inspect`] finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleKind {
    /// A core module of WASI 0.1 that exports `_start`.
    CoreCommand,
    /// A component that exports `wasi:cli/run@0.2`.
    CliComponent,
    /// A component that exports `wasi:cli/run@0.3`.
    CliComponentP3,
    /// A component that exports `wasi:http/incoming-handler@0.2`.
    HttpComponent,
    /// A component that exports `wasi:http/handler@0.3`.
    HttpComponentP3,
    /// A core module of WASI 0.1 whose entry its embedder calls: `__guest_call`, that of waPC.
    EmbeddedCore,
    /// A component of WASI 0.2 whose entry its embedder calls: `kubewasm:policy/validation@0.1`, that of policies.
    EmbeddedComponent,
}

/// A text that names no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no kind of module {0:?}")]
pub struct UnknownKind(String);

impl fmt::Display for ModuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CoreCommand => "core-command",
            Self::CliComponent => "cli-component",
            Self::CliComponentP3 => "cli-component-p3",
            Self::HttpComponent => "http-component",
            Self::HttpComponentP3 => "http-component-p3",
            Self::EmbeddedCore => "embedded-core",
            Self::EmbeddedComponent => "embedded-component",
        })
    }
}

impl FromStr for ModuleKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.to_string() == text)
            .ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

impl ModuleKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CoreCommand,
        Self::CliComponent,
        Self::CliComponentP3,
        Self::HttpComponent,
        Self::HttpComponentP3,
        Self::EmbeddedCore,
        Self::EmbeddedComponent,
    ];

    /// Whether it is called by who embeds the host, and not run.
    #[must_use]
    pub fn is_embedded(self) -> bool {
        matches!(self, Self::EmbeddedCore | Self::EmbeddedComponent)
    }

    /// The engine that compiles and runs it.
    #[must_use]
    pub fn generation(self) -> Generation {
        match self {
            Self::CoreCommand
            | Self::CliComponent
            | Self::HttpComponent
            | Self::EmbeddedCore
            | Self::EmbeddedComponent => Generation::Blocking,
            Self::CliComponentP3 | Self::HttpComponentP3 => Generation::Concurrent,
        }
    }
}

/// A set of engine settings. Machine code of one generation runs on an engine of the same generation only, so that
/// everything that depends on the code names it: the key of an artifact, the cache of what is loaded, the age of a
/// worker, the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// WASI 0.1 and 0.2: without support for concurrency in components, which costs every store.
    Blocking,
    /// WASI 0.3.
    Concurrent,
}

impl Generation {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Blocking, Self::Concurrent];
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocking => "blocking",
            Self::Concurrent => "concurrent",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in ModuleKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
        assert!("core".parse::<ModuleKind>().is_err());
    }
}
