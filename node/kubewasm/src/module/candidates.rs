//! References that a shell offers: those of the images that are here.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use kubewasm_modules::{Store, StoreOptions};

use crate::home;

/// Completes the name of an image.
pub(super) fn images() -> ArgValueCompleter {
    ArgValueCompleter::new(of_store)
}

fn of_store(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = names(root(std::env::args_os()));
    let begun = current.to_string_lossy();
    names.into_iter().filter(|name| name.starts_with(&*begun)).map(CompletionCandidate::new).collect()
}

/// What is typed so far is in the arguments of the process that completes it.
fn root(arguments: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let arguments: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
    let given = arguments.iter().enumerate().find_map(|(position, argument)| {
        match argument.strip_prefix("--root-dir")? {
            "" => arguments.get(position + 1).cloned(),
            value => value.strip_prefix('=').map(str::to_owned),
        }
    });
    given.map(PathBuf::from).or_else(|| home::default_root().ok())
}

/// Names in the store below `root`. Where there is none, none is made.
fn names(root: Option<PathBuf>) -> Vec<String> {
    let store = root.map(|root| root.join("modules")).filter(|store| store.is_dir());
    let images = store.and_then(|store| Store::open(&store, StoreOptions::default()).ok()?.list().ok());
    images.unwrap_or_default().into_iter().flat_map(|image| image.names).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_the_one_that_the_line_names() {
        let of = |words: &[&str]| root(words.iter().map(OsString::from));
        assert_eq!(
            of(&["kubewasm", "--", "kubewasm", "module", "--root-dir", "/a", "rm"]),
            Some("/a".into())
        );
        assert_eq!(of(&["kubewasm", "module", "rm", "--root-dir=/b", ""]), Some("/b".into()));
        assert_eq!(of(&["kubewasm", "module", "rm"]), home::default_root().ok());
    }

    #[test]
    fn where_there_is_no_store_nothing_is_offered_or_made() {
        let folder = tempfile::tempdir().unwrap();
        assert!(names(Some(folder.path().to_owned())).is_empty());
        assert!(!folder.path().join("modules").exists());
    }
}
