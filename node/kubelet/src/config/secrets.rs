//! Where on this machine the node's credentials are: what no guest, and no process that hosts guests, may see.

use std::path::{Path, PathBuf};

use kube::config::{AuthInfo, Kubeconfig};

use super::{Config, is_set};

/// Where a cluster puts the tokens of a pod, such as one that this node may be.
const SERVICE_ACCOUNTS: &str = "/var/run/secrets";

/// Credentials for registries, in the root directory.
pub const REGISTRY_CONFIG: &str = "config.json";

/// The same in a user's home directory, where `docker login` writes it.
pub const HOME_REGISTRY_CONFIG: &str = ".docker/config.json";

/// Who may use which image, in the root directory: with hashes of what was used to pull them.
pub const IMAGE_ACCESS: &str = "image_manager";

/// Files and directories that hold keys and tokens of the node: kubeconfigs and what they refer to, the
/// certificate directory, the key of the HTTPS API, credentials for registries, and the service account. Some
/// need not exist. A kubeconfig that cannot be read refers to nothing; whoever connects by it says what is wrong.
#[must_use]
pub fn secret_files(config: &Config) -> Vec<PathBuf> {
    let kubeconfigs = [&config.kubeconfig, &config.bootstrap_kubeconfig].into_iter().flatten();
    let kubeconfigs: Vec<&PathBuf> = kubeconfigs.filter(|path| is_set(path)).collect();
    let referred = kubeconfigs.iter().flat_map(|path| referred_to_by(path));
    let key = Some(&config.kubelet.tls_private_key_file).filter(|path| is_set(path));
    let mut files: Vec<PathBuf> = referred.collect();
    files.extend(kubeconfigs.into_iter().chain(key).cloned());
    files.extend([
        config.cert_dir.clone(),
        // Hashes of passwords.
        config.root_dir.join(IMAGE_ACCESS),
        PathBuf::from(SERVICE_ACCOUNTS),
    ]);
    files.extend(config.registry_configs.iter().chain(&config.credential_provider_config).cloned());
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    files.into_iter().map(absolute).collect()
}

/// Keys and tokens that a kubeconfig names.
fn referred_to_by(kubeconfig: &Path) -> Vec<PathBuf> {
    // Relative paths in it are those of its directory; this resolves them.
    let Ok(kubeconfig) = Kubeconfig::read_from(kubeconfig) else { return Vec::new() };
    kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref()).flat_map(of_user).collect()
}

fn of_user(user: &AuthInfo) -> Vec<PathBuf> {
    let named = [&user.client_key, &user.token_file].into_iter().flatten().map(PathBuf::from);
    let exec = user.exec.as_ref();
    let arguments = exec.and_then(|exec| exec.args.as_ref()).into_iter().flatten();
    let variables = exec.and_then(|exec| exec.env.as_ref()).into_iter().flatten();
    let variables = variables.filter_map(|variable| variable.get("value"));
    // A plugin is told of its files by arguments (`--key=/path`, `/path`) and variables. A directory may be
    // anything, the machine's home directory among them.
    let told = arguments.chain(variables).filter_map(|text| {
        let path = Path::new(text.rsplit_once('=').map_or(text.as_str(), |(_, value)| value));
        (path.is_absolute() && path.is_file()).then(|| path.to_owned())
    });
    named.chain(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    #[test]
    fn keys_that_a_kubeconfig_or_the_configuration_refers_to_are_among_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["plugin.key", "plugin.json"] {
            std::fs::write(at(name), "").unwrap();
        }
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\nusers:\n\
             - name: a\n  user: {{client-certificate: client.crt, client-key: client.key}}\n\
             - name: b\n  user: {{tokenFile: /tokens/b}}\n\
             - name: c\n  user:\n    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: plugin\n\
             \x20     args: [\"--key={key}\", \"--home=/\", login]\n\
             \x20     env: [{{name: CREDENTIALS, value: {json}}}, {{name: NONE, value: /does/not/exist}}]\n",
            key = at("plugin.key").display(),
            json = at("plugin.json").display(),
        );
        std::fs::write(at("kubeconfig"), kubeconfig).unwrap();
        let file = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                    tlsCertFile: /tls/node.crt\ntlsPrivateKeyFile: /tls/node.key\n";
        let flags = Flags {
            kubeconfig: Some(at("kubeconfig")),
            bootstrap_kubeconfig: Some(at("bootstrap")),
            root_dir: Some(at("root")),
            home_dir: Some(at("home")),
            image_credential_provider_config: Some(at("providers.yaml")),
            image_credential_provider_bin_dir: Some(at("bin")),
            ..Flags::default()
        };
        let (config, _) = Config::resolve(file, &flags, "edge").unwrap();
        let mut found = secret_files(&config);
        found.sort();
        let mut expected = vec![
            at("client.key"),
            "/tokens/b".into(),
            at("plugin.key"),
            at("plugin.json"),
            at("kubeconfig"),
            at("bootstrap"),
            "/tls/node.key".into(),
            at("root/pki"),
            at("root/config.json"),
            at("home/.docker/config.json"),
            at("providers.yaml"),
            at("root/image_manager"),
            "/var/run/secrets".into(),
        ];
        expected.sort();
        assert_eq!(found, expected);
    }
}
