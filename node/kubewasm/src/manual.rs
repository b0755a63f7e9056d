//! `kubewasm man`: pages for `man`, made of what `--help` says.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;

use crate::cli;

/// Arguments of `kubewasm man`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManualArgs {
    /// The folder to write the pages to, such as /usr/local/share/man/man1. It is made if need be.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Writes a page for the program and one for each of its commands.
pub(crate) fn main(args: &ManualArgs) -> anyhow::Result<ExitCode> {
    let dir = &args.dir;
    fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(cli::command(), dir))
        .with_context(|| format!("cannot write manual pages to {}", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The page of a command, and of those below it that are shown.
    fn pages(command: &clap::Command, name: &str, found: &mut BTreeSet<String>) {
        found.insert(format!("{name}.1"));
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            pages(inner, &format!("{name}-{}", inner.get_name()), found);
        }
    }

    #[test]
    fn every_command_has_a_page_that_tells_of_its_flags() {
        let dir = tempfile::tempdir().unwrap();
        let written = dir.path().join("man1");
        main(&ManualArgs { dir: written.clone() }).unwrap();
        let mut wanted = BTreeSet::new();
        pages(&cli::command(), "kubewasm", &mut wanted);
        let names =
            fs::read_dir(&written).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.collect::<BTreeSet<_>>(), wanted);
        let node = fs::read_to_string(written.join("kubewasm-node.1")).unwrap();
        for flag in ["bootstrap", "config\\-dir", "client\\-ca\\-file"] {
            assert!(node.contains(flag), "{flag}");
        }
        assert!(!wanted.contains("kubewasm-worker.1"), "is started by the program itself");
    }

    #[test]
    fn what_cannot_be_written_to_is_named() {
        let error = main(&ManualArgs { dir: "/proc/nowhere".into() }).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
    }
}
