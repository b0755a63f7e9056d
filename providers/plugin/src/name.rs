//! Names of plugins, and of the files by which kubectl finds them. Pure.

use std::{ffi::OsStr, fmt, path::Path, str::FromStr};

use kubewasm_modules::ImageName;
use serde::{Deserialize, Serialize};

/// What files of plugins begin with.
const PREFIX: &str = "kubectl-";
/// What files of companions begin with, which kubectl asks for completions.
const COMPLETE_PREFIX: &str = "kubectl_complete-";
/// Bytes of a name.
const LONGEST: usize = 128;

/// Name of a plugin: what is typed behind `kubectl`. Letters, digits, `.` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PluginName(String);

/// A text that is no name of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a plugin: letters, digits, `.` and `-` are, with a letter or a digit in front")]
pub struct InvalidName(String);

/// As what this program was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartedAs {
    /// A plugin.
    Plugin(PluginName),
    /// The companion of a plugin that knows completions.
    Companion(PluginName),
}

impl FromStr for PluginName {
    type Err = InvalidName;

    /// `_` is `-`: kubectl knows no difference.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_first = |byte: u8| byte.is_ascii_alphanumeric();
        let is_name = text.len() <= LONGEST
            && text.bytes().next().is_some_and(is_first)
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        match is_name {
            true => Ok(Self(text.replace('_', "-"))),
            false => Err(InvalidName(text.chars().take(LONGEST).filter(|c| !c.is_control()).collect())),
        }
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PluginName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<PluginName> for String {
    fn from(name: PluginName) -> Self {
        name.0
    }
}

impl PluginName {
    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// That of an image, a URL or a file: the last part, without tag, digest and `.wasm`.
    ///
    /// # Errors
    /// [`InvalidName`], where that is none.
    pub fn of_image(image: &ImageName) -> Result<Self, InvalidName> {
        let last = |path: &str| path.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default().to_owned();
        let last = match image {
            ImageName::Reference(reference) => last(reference.repository()),
            ImageName::Url(url) => {
                let text = url.to_string();
                last(text.split_once("@sha256:").map_or(text.as_str(), |(url, _)| url))
            }
            ImageName::Path(path) => last(&path.to_string_lossy()),
        };
        let stem = last.strip_suffix(".wasm").unwrap_or(&last);
        stem.strip_prefix(PREFIX).unwrap_or(stem).parse()
    }

    /// The file that kubectl runs for it. A `-` in it would be a command below another one.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{PREFIX}{}", self.0.replace('-', "_"))
    }

    /// The file that kubectl asks for its completions.
    #[must_use]
    pub fn companion(&self) -> String {
        format!("{COMPLETE_PREFIX}{}", self.0.replace('-', "_"))
    }
}

impl StartedAs {
    /// What a file of this name runs; `None` for this program itself. Folders in front of it say nothing.
    #[must_use]
    pub fn of(program: &OsStr) -> Option<Self> {
        let file = Path::new(program).file_name()?.to_str()?;
        if let Some(name) = file.strip_prefix(COMPLETE_PREFIX) {
            return name.parse().ok().map(Self::Companion);
        }
        file.strip_prefix(PREFIX)?.parse().ok().map(Self::Plugin)
    }

    /// The plugin.
    #[must_use]
    pub fn name(&self) -> &PluginName {
        match self {
            Self::Plugin(name) | Self::Companion(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_called_like_the_last_part_of_its_image() {
        for (image, expected) in [
            ("ghcr.io/team/decoder:v1", Ok("decoder")),
            ("ghcr.io/team/kubectl-decoder", Ok("decoder")),
            (
                "127.0.0.1:5000/pod-watch@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                Ok("pod-watch"),
            ),
            ("ghcr.io/team/pod_watch.wasm:v1", Ok("pod-watch")),
            ("https://example.com/x/decoder.wasm", Ok("decoder")),
            ("./target/decoder.wasm", Ok("decoder")),
            ("/srv/kubectl-my_tool.wasm", Ok("my-tool")),
            ("./-x.wasm", Err(())),
            ("./ä.wasm", Err(())),
        ] {
            let name = PluginName::of_image(&image.parse().unwrap());
            assert_eq!(name.as_ref().map(PluginName::as_str).map_err(drop), expected, "{image}");
        }
    }

    #[test]
    fn no_name_leads_out_of_its_folder() {
        for text in ["", ".", "..", "../x", "a/b", "-a", "_a", "a b", "a\0", "a\n", &"a".repeat(129)] {
            assert!(text.parse::<PluginName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_plugin_is_known_by_the_name_of_its_file_wherever_that_is() {
        for (program, expected) in [
            ("kubectl-decoder", Some("decoder")),
            ("/usr/local/bin/kubectl-decoder", Some("decoder")),
            ("./bin/kubectl-pod_watch", Some("pod-watch")),
            ("../kubectl-a", Some("a")),
            ("kubewasm", None),
            ("/opt/kubectl-tools/kubewasm", None),
            ("kubectl", None),
            ("kubectl-", None),
            ("", None),
        ] {
            let started = StartedAs::of(OsStr::new(program));
            assert_eq!(started.as_ref().map(|started| started.name().as_str()), expected, "{program}");
            assert!(!matches!(started, Some(StartedAs::Companion(_))));
        }
        let companion = StartedAs::of(OsStr::new("/x/kubectl_complete-pod_watch"));
        assert_eq!(companion, Some(StartedAs::Companion("pod-watch".parse().unwrap())));
        let name: PluginName = "pod-watch".parse().unwrap();
        assert_eq!(
            (name.file(), name.companion()),
            ("kubectl-pod_watch".into(), "kubectl_complete-pod_watch".into())
        );
    }
}
