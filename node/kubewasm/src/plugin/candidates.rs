//! Names that a shell offers: those of the plugins that are here.

use std::ffi::OsStr;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use kubewasm_plugin::PluginHome;

/// Completes the name of a plugin.
pub(super) fn plugins() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let begun = current.to_string_lossy();
        let known = PluginHome::of_user().and_then(|home| home.list().ok()).unwrap_or_default();
        let names = known.into_keys().map(String::from).filter(|name| name.starts_with(&*begun));
        names.map(CompletionCandidate::new).collect()
    })
}
