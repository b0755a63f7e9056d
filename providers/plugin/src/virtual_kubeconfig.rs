//! A kubeconfig with nothing in it, for plugins of krew-wasm's: their library reads one before it asks anything.

use std::{fs, io};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kubewasm_host::Preopen;
use serde_json::json;
use tempfile::TempDir;

use crate::api_server::VIRTUAL_AUTHORITY;

/// The folder of the file, as a plugin has it.
const FOLDER: &str = "/.kube";

/// A file that leads to the virtual authority, in a folder of its own. What it has in the place of keys and certificates is read by
/// nobody.
#[derive(Debug)]
pub(crate) struct VirtualKubeconfig(TempDir);

impl VirtualKubeconfig {
    pub(crate) fn write(namespace: &str) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let nothing = STANDARD.encode("none");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "preferences": {},
            "current-context": "current",
            "contexts": [{"name": "current", "context": {
                "cluster": "current", "user": "current", "namespace": namespace,
            }}],
            "clusters": [{"name": "current", "cluster": {
                "server": format!("https://{VIRTUAL_AUTHORITY}"), "certificate-authority-data": nothing,
            }}],
            "users": [{"name": "current", "user": {
                "client-certificate-data": nothing, "client-key-data": nothing,
            }}],
        });
        // JSON is YAML.
        fs::write(folder.path().join("config"), config.to_string())?;
        Ok(Self(folder))
    }

    /// The folder, to be given to the plugin.
    pub(crate) fn preopen(&self) -> Preopen {
        Preopen { host: self.0.path().to_owned(), guest: FOLDER.to_owned(), writable: false }
    }

    /// Where it is, as libraries look for it, unless the environment says something else.
    pub(crate) fn tell(environment: &mut Vec<(String, String)>) {
        for (name, value) in [("HOME", "/".to_owned()), ("KUBECONFIG", format!("{FOLDER}/config"))] {
            if !environment.iter().any(|(known, _)| known == name) {
                environment.push((name.to_owned(), value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::{ClusterChoice, ClusterEnvironment},
        kubeconfig::KubeconfigOverrides,
    };

    #[test]
    fn it_leads_to_the_virtual_authority_and_says_the_namespace() {
        let written = VirtualKubeconfig::write("team").unwrap();
        let overrides = KubeconfigOverrides {
            kubeconfig: Some(written.preopen().host.join("config")),
            ..KubeconfigOverrides::default()
        };
        assert_eq!(ClusterChoice::read(&overrides, &ClusterEnvironment::default()).namespace, "team");
        let mut environment = vec![("HOME".to_owned(), "/home/me".to_owned())];
        VirtualKubeconfig::tell(&mut environment);
        assert_eq!(environment.len(), 2);
        assert_eq!(environment[1], ("KUBECONFIG".to_owned(), "/.kube/config".to_owned()));
    }
}
