//! Kubeconfig files: reading them with messages that help, and writing the one that a bootstrap results in.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use super::{IdentityError, connection::use_certificate, pair::Pair, pair::write_private};

/// A kubeconfig as it was read.
pub(super) struct LoadedKubeconfig {
    /// How to reach the API server, with the certificate in it and not beside it.
    pub(super) access: kube::Config,
    /// The file that holds both certificate and key, when one file does.
    pub(super) pair_file: Option<PathBuf>,
}

/// Reads what a kubeconfig gives access to. What is wrong in it may be next to its secrets: errors tell no value of the file.
///
/// # Errors
/// [`IdentityError::Io`] and [`IdentityError::Kubeconfig`].
pub async fn read_kubeconfig(path: &Path) -> Result<kube::Config, IdentityError> {
    let refused = |message: String| IdentityError::Kubeconfig { path: path.to_path_buf(), message };
    let text = std::fs::read_to_string(path)
        .map_err(|source| IdentityError::Io { path: path.to_path_buf(), source })?;
    check(&text).map_err(refused)?;
    // Reading it again resolves relative paths in it.
    let kubeconfig = Kubeconfig::read_from(path).map_err(|_| refused("it is not a kubeconfig".to_owned()))?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|err| refused(err.to_string()))
}

/// Reads a kubeconfig, and the certificate that it names.
pub(super) async fn load(path: &Path) -> Result<LoadedKubeconfig, IdentityError> {
    let mut access = read_kubeconfig(path).await?;
    let auth = &access.auth_info;
    let files = auth.client_certificate.as_deref().zip(auth.client_key.as_deref());
    let Some((certificate, key)) = files.filter(|_| auth.client_certificate_data.is_none()) else {
        return Ok(LoadedKubeconfig { access, pair_file: None });
    };
    let (certificate, key) = (PathBuf::from(certificate), PathBuf::from(key));
    let pair = Pair::read(&certificate, &key)?;
    use_certificate(&mut access, &pair);
    Ok(LoadedKubeconfig { access, pair_file: (certificate == key).then_some(certificate) })
}

/// Whether a kubeconfig exists and its certificate, if it names one, is good now. One that is malformed is
/// usable in this sense: reading it will tell the user what is wrong, and a bootstrap would hide it.
pub(super) fn is_usable(path: &Path) -> bool {
    let Ok(kubeconfig) = Kubeconfig::read_from(path) else {
        return path.exists();
    };
    kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref()).all(|user| {
        match (&user.client_certificate, &user.client_key) {
            (Some(certificate), Some(key)) => Pair::read(Path::new(certificate), Path::new(key))
                .is_ok_and(|pair| pair.is_valid(Timestamp::now())),
            _ => true,
        }
    })
}

/// Writes a kubeconfig that names the certificate file, with the cluster of the one it was got with.
pub(super) async fn write(bootstrap: &Path, target: &Path, pair_file: &Path) -> Result<(), IdentityError> {
    let refused = |message: String| IdentityError::Kubeconfig { path: bootstrap.to_path_buf(), message };
    let kubeconfig =
        Kubeconfig::read_from(bootstrap).map_err(|_| refused("it is not a kubeconfig".to_owned()))?;
    let context = kubeconfig
        .contexts
        .iter()
        .find(|context| Some(&context.name) == kubeconfig.current_context.as_ref())
        .and_then(|context| context.context.as_ref())
        .ok_or_else(|| refused("its current-context does not exist".to_owned()))?;
    let cluster = kubeconfig
        .clusters
        .iter()
        .find(|cluster| cluster.name == context.cluster)
        .and_then(|cluster| cluster.cluster.as_ref())
        .ok_or_else(|| {
            refused(format!("cluster {:?} of its current context does not exist", context.cluster))
        })?;
    let written = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "default-cluster", "cluster": cluster }],
        "users": [{ "name": "default-auth", "user": { "client-certificate": pair_file, "client-key": pair_file } }],
        "contexts": [{ "name": "default-context", "context": {
            "cluster": "default-cluster", "namespace": "default", "user": "default-auth",
        } }],
        "current-context": "default-context",
    });
    let text = serde_yaml_ng::to_string(&written).map_err(|err| refused(err.to_string()))?;
    write_private(target, text.as_bytes())
        .map_err(|source| IdentityError::Io { path: target.to_path_buf(), source })
}

/// Whether the text is YAML of the right shape. The message names the line and no value of the file, which
/// may be secret.
fn check(text: &str) -> Result<(), String> {
    let at = |err: &serde_yaml_ng::Error, message: &str| match err.location() {
        Some(place) => format!("line {}: {message}", place.line()),
        None => message.to_owned(),
    };
    serde_yaml_ng::from_str::<serde_yaml_ng::Value>(text).map_err(|err| {
        let message = err.to_string();
        at(&err, message.split(" at line ").next().unwrap_or_default())
    })?;
    serde_yaml_ng::from_str::<Kubeconfig>(text).map_err(|err| {
        let message = err.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        if message.contains("missing field") {
            at(&err, message)
        } else {
            at(&err, "a value is not of the type that a kubeconfig has there")
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::pair::tests::self_signed, *};

    const CLUSTER: &str = "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: https://10.0.0.1:6443\n\
                           contexts:\n- name: x\n  context: {cluster: c, user: u}\ncurrent-context: x\n";

    #[test]
    fn messages_name_the_line_and_no_secret() {
        for (text, expected) in [
            ("clusters:\n- name: c\n  cluster: [\n", "line "),
            ("users:\n- name: u\n  user:\n    token: {s3cret: 1}\n", "line "),
            ("clusters: s3cret\n", "line 1: a value is not of the type"),
            ("clusters:\n- cluster: {}\n", "missing field `name`"),
        ] {
            let message = check(text).expect_err(text);
            assert!(message.contains(expected), "{text:?}: {message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_bootstrap_results_in_a_kubeconfig_that_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("bootstrap"), format!("{CLUSTER}users:\n- name: u\n  user: {{token: abc}}\n"))
            .unwrap();
        let pair = self_signed(&["node"], -1..1);
        pair.store(&path("pair.pem")).unwrap();
        write(&path("bootstrap"), &path("kubeconfig"), &path("pair.pem")).await.unwrap();

        let written = std::fs::read_to_string(path("kubeconfig")).unwrap();
        assert!(!written.contains("abc"), "the token is not carried over: {written}");
        let loaded = load(&path("kubeconfig")).await.unwrap();
        assert_eq!(loaded.access.cluster_url, "https://10.0.0.1:6443");
        assert_eq!(loaded.pair_file, Some(path("pair.pem")));
        assert!(loaded.access.auth_info.client_certificate_data.is_some());
        assert!(is_usable(&path("kubeconfig")));
    }

    #[tokio::test]
    async fn an_expired_certificate_makes_a_kubeconfig_unusable() {
        let dir = tempfile::tempdir().unwrap();
        let pair_file = dir.path().join("pair.pem");
        self_signed(&["node"], -2..-1).store(&pair_file).unwrap();
        let file = pair_file.display();
        let user = format!("users:\n- name: u\n  user: {{client-certificate: {file}, client-key: {file}}}\n");
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, format!("{CLUSTER}{user}")).unwrap();
        assert!(!is_usable(&path));
        assert!(!is_usable(&dir.path().join("missing")));
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let Err(err) = load(Path::new("/does/not/exist")).await else { panic!("it was read") };
        assert!(err.to_string().starts_with("/does/not/exist: "), "{err}");
    }
}
