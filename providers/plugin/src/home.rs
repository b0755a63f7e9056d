//! Where a user's plugins are noted down, and the links by which kubectl finds them.
//!
//! ```text
//!   <data>/plugins/<name>.json          what was pulled, and what its user has granted it
//!   <data>/bin/kubectl-<name>           a link to this program
//!   <data>/bin/kubectl_complete-<name>  the same, of a plugin that knows completions
//! ```
//!
//! Everything is written to a temporary name and renamed, so that a plugin is there whole or as it was.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::{
    name::{PluginName, StartedAs},
    record::PluginRecord,
};

/// Bytes of one record.
const LARGEST: u64 = 1 << 20;

/// A folder with a user's plugins.
#[derive(Clone, Debug)]
pub struct PluginHome {
    data: PathBuf,
}

/// A user's plugins cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file or folder of them.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, …
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What was noted down is not understood.
    #[error("{} is damaged: {reason}; pull the plugin again with -f", path.display())]
    Damaged {
        /// The record.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no such plugin.
    #[error("there is no plugin {name}; pull it with `kubewasm plugin pull`")]
    Unknown {
        /// What was asked for.
        name: PluginName,
    },
}

/// A plugin as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundPlugin {
    /// It was pulled.
    Pulled(Box<PluginRecord>),
    /// There is a link, or a file, that nothing was pulled for: where it leads.
    Stray(PathBuf),
}

/// Where a plugin can be started now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    /// The link that kubectl finds.
    pub link: PathBuf,
    /// Whether its folder is on PATH.
    pub is_on_path: bool,
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::Io { doing, path, source }
}

impl PluginHome {
    /// Below this folder, which need not be there.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self { data: data.into() }
    }

    /// The user's: `$XDG_DATA_HOME/kubewasm`, else `~/.local/share/kubewasm`. `None` where neither variable is set.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let data = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")))?;
        Some(Self::new(data.join("kubewasm")))
    }

    /// The folder of links, which belongs on PATH.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.data.join("bin")
    }

    fn records(&self) -> PathBuf {
        self.data.join("plugins")
    }

    fn record_of(&self, name: &PluginName) -> PathBuf {
        self.records().join(format!("{name}.json"))
    }

    fn link_of(&self, name: &PluginName) -> PathBuf {
        self.bin().join(name.file())
    }

    fn companion_of(&self, name: &PluginName) -> PathBuf {
        self.bin().join(name.companion())
    }

    /// What was pulled under a name.
    ///
    /// # Errors
    /// [`HomeError`]; it is no error that there is none.
    pub fn find(&self, name: &PluginName) -> Result<Option<PluginRecord>, HomeError> {
        let path = self.record_of(name);
        let bytes = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > LARGEST => {
                let reason = format!("it has more than {LARGEST} bytes");
                return Err(HomeError::Damaged { path, reason });
            }
            Ok(_) => fs::read(&path).map_err(failed("read", &path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let record: PluginRecord = serde_json::from_slice(&bytes)
            .map_err(|error| HomeError::Damaged { path: path.clone(), reason: error.to_string() })?;
        match record.name == *name {
            true => Ok(Some(record)),
            false => Err(HomeError::Damaged { path, reason: format!("it is that of {}", record.name) }),
        }
    }

    /// The plugin of that name, pulled or not.
    ///
    /// # Errors
    /// [`HomeError`]; [`HomeError::Unknown`] when there is neither a record nor a link.
    pub fn get(&self, name: &PluginName) -> Result<FoundPlugin, HomeError> {
        if let Some(record) = self.find(name)? {
            return Ok(FoundPlugin::Pulled(Box::new(record)));
        }
        let link = self.link_of(name);
        match link.symlink_metadata() {
            Ok(_) => Ok(FoundPlugin::Stray(fs::read_link(&link).unwrap_or(link))),
            Err(_) => Err(HomeError::Unknown { name: name.clone() }),
        }
    }

    /// All plugins, by name. A record that is damaged does not hide the others.
    ///
    /// # Errors
    /// [`HomeError::Io`] when the folders cannot be read.
    pub fn list(&self) -> Result<BTreeMap<PluginName, Result<FoundPlugin, HomeError>>, HomeError> {
        let mut names = Vec::new();
        for path in children(&self.bin())? {
            if let Some(StartedAs::Plugin(name)) = path.file_name().and_then(StartedAs::of) {
                names.push(name);
            }
        }
        for path in children(&self.records())? {
            let stem =
                path.extension().is_some_and(|extension| extension == "json").then(|| path.file_stem());
            names.extend(
                stem.flatten().and_then(OsStr::to_str).and_then(|stem| stem.parse::<PluginName>().ok()),
            );
        }
        Ok(names.into_iter().map(|name| (name.clone(), self.get(&name))).collect())
    }

    /// Notes a plugin down, and makes the links to `program`. What was there of that name is replaced at once.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn put(&self, record: &PluginRecord, program: &Path) -> Result<Linked, HomeError> {
        let records = self.records();
        fs::create_dir_all(&records).map_err(failed("make", &records))?;
        let path = self.record_of(&record.name);
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&records)?;
            serde_json::to_writer_pretty(&mut file, record)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(failed("write", &path))?;
        let bin = self.bin();
        fs::create_dir_all(&bin).map_err(failed("make", &bin))?;
        let link = self.link_of(&record.name);
        self.link(&link, program)?;
        let companion = self.companion_of(&record.name);
        match record.completions {
            true => self.link(&companion, program)?,
            false => remove(&companion)?,
        }
        Ok(Linked { link, is_on_path: is_on_path(&bin, std::env::var_os("PATH").as_deref()) })
    }

    /// Makes a link, in the place of what is there.
    fn link(&self, link: &Path, program: &Path) -> Result<(), HomeError> {
        let make = || -> io::Result<()> {
            let place = tempfile::TempDir::new_in(self.bin())?;
            let new = place.path().join("link");
            symlink(program, &new)?;
            fs::rename(new, link)
        };
        make().map_err(failed("write", link))
    }

    /// Removes a plugin's links and what was noted down of it, and the folders that are empty then. What a link leads to stays.
    ///
    /// # Errors
    /// [`HomeError`]; [`HomeError::Unknown`] when there is nothing of that name.
    pub fn remove(&self, name: &PluginName) -> Result<(), HomeError> {
        let paths = [self.link_of(name), self.companion_of(name), self.record_of(name)];
        if paths.iter().all(|path| path.symlink_metadata().is_err()) {
            return Err(HomeError::Unknown { name: name.clone() });
        }
        for path in &paths {
            remove(path)?;
        }
        for folder in [self.bin(), self.records(), self.data.clone()] {
            // One that is not empty stays.
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), HomeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn children(folder: &Path) -> Result<Vec<PathBuf>, HomeError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", folder)(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed("read", folder))).collect()
}

/// Whether a folder is on `path`, under this name or another.
fn is_on_path(folder: &Path, path: Option<&OsStr>) -> bool {
    let real = folder.canonicalize().ok();
    let is_it = |entry: PathBuf| entry == folder || (real.is_some() && entry.canonicalize().ok() == real);
    path.is_some_and(|path| std::env::split_paths(path).any(is_it))
}

#[cfg(test)]
mod tests;
