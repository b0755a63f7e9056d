//! Which network a node has: the first configuration in its directory, as containerd and CRI-O find it.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::config::{self, ConfigError, NetworkConfig};

/// Endings of files that are configurations.
const LIST: &str = "conflist";
const SINGLE: [&str; 2] = ["conf", "json"];
/// Longest file, in bytes.
const LIMIT: u64 = 1 << 20;

/// A configuration is there and cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the network configuration {}: {source}", path.display())]
pub(crate) struct UnusableConfig {
    path: PathBuf,
    source: ConfDirError,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfDirError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("it has more than {LIMIT} bytes")]
    TooLarge,
}

/// The network of a directory: that of its first file by name. `None` where there is none yet. Blocks.
///
/// The first file decides, also where it cannot be used: pods must not get into another network because somebody has made a
/// mistake in the file of the one that they belong to.
pub(crate) fn load(dir: &Path) -> Result<Option<NetworkConfig>, UnusableConfig> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        |source| UnusableConfig { path, source }
    };
    let files = files(dir, |ending| ending == LIST || SINGLE.contains(&ending)).map_err(unusable(dir))?;
    let Some(path) = files.into_iter().next() else { return Ok(None) };
    network(&path).map(Some).map_err(unusable(&path))
}

fn network(path: &Path) -> Result<NetworkConfig, ConfDirError> {
    let bytes = read(path)?;
    if path.extension().is_none_or(|ending| ending != LIST) {
        return Ok(config::single(&bytes)?);
    }
    let config::ListFile { mut network, has_folder } = config::list(&bytes)?;
    if let Some(dir) = path.parent().filter(|_| has_folder) {
        for path in files(&dir.join(&network.name), |ending| ending == "conf")? {
            network.plugins.push(config::plugin(&read(&path)?)?);
        }
    }
    if network.plugins.is_empty() {
        return Err(ConfigError::NoPlugins.into());
    }
    Ok(network)
}

/// The files of a directory with one of these endings, by name.
fn files(dir: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, ConfDirError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_wanted = path.extension().and_then(|ending| ending.to_str()).is_some_and(&is_wanted);
        // Also what a link leads to: that is how ConfigMaps are mounted.
        if is_wanted && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, ConfDirError> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT { Err(ConfDirError::TooLarge) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: &str = r#"{"cniVersion": "1.0.0", "name": "b", "plugins": [{"type": "bridge"}]}"#;
    const PTP: &str = r#"{"cniVersion": "0.4.0", "name": "p", "type": "ptp"}"#;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn with(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in files {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(dir)
        }

        fn load(&self) -> Result<Option<NetworkConfig>, String> {
            load(self.0.path()).map_err(|error| error.to_string())
        }

        fn name(&self) -> String {
            self.load().unwrap().unwrap().name
        }
    }

    #[test]
    fn the_first_file_by_name_is_the_network() {
        assert_eq!(Dir::with(&[("20-a.conflist", BRIDGE), ("10-z.conf", PTP)]).name(), "p");
        assert_eq!(Dir::with(&[("20-a.json", PTP), ("10-z.conflist", BRIDGE)]).name(), "b");
        assert_eq!(Dir::with(&[("0.txt", ""), (".conflist~", ""), ("9.conf", PTP)]).name(), "p");
        assert_eq!(Dir::with(&[("0.conf/inside", ""), ("9.conf", PTP)]).name(), "p");
    }

    #[test]
    fn there_may_be_none_yet() {
        assert_eq!(Dir::with(&[("README", "")]).load(), Ok(None));
        assert!(load(Path::new("/nonexistent")).unwrap().is_none());
    }

    #[test]
    fn a_network_may_have_plugins_in_a_folder_of_its_name() {
        let list = r#"{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "bridge"}]}"#;
        let more = [("n/20.conf", r#"{"type": "late"}"#), ("n/10.conf", r#"{"type": "early"}"#)];
        let kinds = |dir: &Dir| -> Vec<_> {
            dir.load().unwrap().unwrap().plugins.into_iter().map(|plugin| plugin.kind).collect()
        };
        let dir = Dir::with(&[("1.conflist", list), more[0], more[1]]);
        assert_eq!(kinds(&dir), ["bridge", "early", "late"]);
        let only = list.replace("\"name\"", "\"loadOnlyInlinedPlugins\": true, \"name\"");
        assert_eq!(kinds(&Dir::with(&[("1.conflist", &only), more[0]])), ["bridge"]);
        let none = r#"{"cniVersion": "1.1.0", "name": "n"}"#;
        assert_eq!(kinds(&Dir::with(&[("1.conflist", none), more[0]])), ["late"]);
        let error = Dir::with(&[("1.conflist", none)]).load().unwrap_err();
        assert!(error.contains("1.conflist") && error.contains("it has no plugins"), "{error}");
    }

    #[test]
    fn a_first_file_that_cannot_be_used_is_not_passed_over() {
        let error = Dir::with(&[("1.conflist", "{"), ("2.conf", PTP)]).load().unwrap_err();
        assert!(error.contains("1.conflist") && error.contains("no JSON"), "{error}");
        let long = " ".repeat(2 << 20);
        let error = Dir::with(&[("1.conf", &long), ("2.conf", PTP)]).load().unwrap_err();
        assert!(error.contains("1.conf") && error.contains("more than"), "{error}");
    }
}
