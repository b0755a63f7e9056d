//! Which kubeconfig, context and namespace the arguments of a plugin choose. Pure.
//!
//! kubectl hands everything behind a plugin's name to the plugin, its own flags among it. The plugin gets it all; the host
//! looks for those flags that say whom it speaks to, and as whom.

use std::path::PathBuf;

/// What a user says over what a kubeconfig says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeconfigOverrides {
    /// `--kubeconfig`: this file alone.
    pub kubeconfig: Option<PathBuf>,
    /// `--context`
    pub context: Option<String>,
    /// `--cluster`
    pub cluster: Option<String>,
    /// `--user`
    pub user: Option<String>,
    /// `--namespace` or `-n`
    pub namespace: Option<String>,
    /// `--as`
    pub impersonate: Option<String>,
    /// `--as-uid`
    pub impersonate_uid: Option<String>,
    /// `--as-group`, which may be repeated
    pub impersonate_groups: Vec<String>,
}

/// Flags with a value that are looked for; the short form of one begins with a single dash.
const FLAGS: [&str; 9] = [
    "--kubeconfig",
    "--context",
    "--cluster",
    "--user",
    "--namespace",
    "-n",
    "--as",
    "--as-uid",
    "--as-group",
];

impl KubeconfigOverrides {
    /// Reads the arguments of a plugin, without its name, up to `--`. Of a flag that is there twice, the last one counts.
    pub fn of_arguments<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let mut found = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let argument = argument.as_ref();
            if argument == "--" {
                break;
            }
            let (flag, value) = split(argument);
            if !FLAGS.contains(&flag) {
                continue;
            }
            let value = match value {
                Some(value) => value.to_owned(),
                None => match arguments.next() {
                    Some(next) => next.as_ref().to_owned(),
                    None => break,
                },
            };
            found.set(flag, value);
        }
        found
    }

    fn set(&mut self, flag: &str, value: String) {
        match flag {
            "--kubeconfig" => self.kubeconfig = Some(PathBuf::from(value)),
            "--context" => self.context = Some(value),
            "--cluster" => self.cluster = Some(value),
            "--user" => self.user = Some(value),
            "--namespace" | "-n" => self.namespace = Some(value),
            "--as" => self.impersonate = Some(value),
            "--as-uid" => self.impersonate_uid = Some(value),
            _ => self.impersonate_groups.extend(value.split(',').map(str::to_owned)),
        }
    }
}

/// A flag and the value that is in the same argument: `--flag=value`, `-nvalue`, `-n=value`.
fn split(argument: &str) -> (&str, Option<&str>) {
    if argument.starts_with("--") {
        return match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (argument, None),
        };
    }
    match argument.strip_prefix("-n") {
        Some("") | None => (argument, None),
        Some(value) => ("-n", Some(value.strip_prefix('=').unwrap_or(value))),
    }
}
