//! Pull secrets, read as a kubelet reads those of pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kubewasm_extension::cluster::loader::PullSecrets;
use kubewasm_kubelet::pods::pull_secret_credentials;
use kubewasm_modules::Credential;

/// The forms that pods' imagePullSecrets have.
#[derive(Debug)]
pub(super) struct KubeletPullSecrets;

impl PullSecrets for KubeletPullSecrets {
    fn credentials(&self, image: &str, secret: &Arc<Secret>) -> Result<Vec<Credential>, String> {
        let found = pull_secret_credentials(image, secret)
            .map_err(|problem| format!("the Secret of image.pull_secret cannot be used: {problem}"))?;
        let plain = |c: kubewasm_kubelet::runtime::Credential| Credential {
            username: c.username,
            password: c.password,
        };
        Ok(found.into_iter().map(plain).collect())
    }
}
