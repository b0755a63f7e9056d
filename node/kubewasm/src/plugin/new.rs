//! `kubewasm plugin new`

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use kubewasm_plugin::scaffold::{self, ScaffoldFile};

use super::{PluginSession, shapes::PluginProjectShape};

/// Arguments of `kubewasm plugin new`.
#[derive(Debug, clap::Args)]
pub(super) struct NewArgs {
    /// What is typed behind `kubectl`: lower-case letters, digits and dashes.
    name: String,

    /// Where the project is made; kubectl-NAME in this folder by default. There must be nothing there yet.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn run(session: &PluginSession, args: NewArgs) -> anyhow::Result<()> {
    let NewArgs { name, folder } = args;
    let files = scaffold::files(&name)?;
    let folder = folder.unwrap_or_else(|| scaffold::folder(&name).into());
    make(&folder, &files)?;
    let shape = PluginProjectShape {
        files: files.iter().map(|file| file.path).collect(),
        next: scaffold::next_steps(&name),
        name,
        folder,
    };
    session.modules.say(&shape, |out| {
        let folder = shape.folder.display();
        writeln!(out, "{folder} is a new plugin, in Rust. Next:\n  cd {folder}")?;
        shape.next.iter().try_for_each(|step| writeln!(out, "  {step}"))
    })
}

/// Makes a folder with these files. Nothing of it stays where one of them cannot be written.
fn make(folder: &Path, files: &[ScaffoldFile]) -> anyhow::Result<()> {
    if let Err(error) = fs::create_dir(folder) {
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                bail!("{} is there already: remove it, or name another folder", folder.display())
            }
            _ => return Err(error).with_context(|| format!("cannot make the folder {}", folder.display())),
        }
    }
    let written = files.iter().try_for_each(|file| {
        let path = folder.join(file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.contents).with_context(|| format!("cannot write {}", path.display()))
    });
    if written.is_err() {
        // The folder was made above, and what is in it as well. The first error is the one that counts.
        let _ = fs::remove_dir_all(folder);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_made_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("kubectl-x");
        make(&folder, &scaffold::files("x").unwrap()).unwrap();
        assert!(folder.join("src/main.rs").is_file() && folder.join("kubectl-plugin/src/lib.rs").is_file());
        fs::write(folder.join("src/main.rs"), "mine").unwrap();
        let error = make(&folder, &scaffold::files("x").unwrap()).unwrap_err().to_string();
        assert!(error.contains("is there already"), "{error}");
        assert_eq!(fs::read_to_string(folder.join("src/main.rs")).unwrap(), "mine");
    }

    #[test]
    fn half_a_project_does_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("kubectl-x");
        let file = |path| ScaffoldFile { path, contents: String::new() };
        assert!(make(&folder, &[file("a"), file("a/b")]).is_err());
        assert!(!folder.exists());
    }
}
