//! `imagePullCredentialsVerificationPolicy`: which images that are here a pod has to show credentials for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use self::ImagePullCredentialsVerificationPolicy as Policy;

/// Which images that are on the node already a pod has to show credentials for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImagePullCredentialsVerificationPolicy {
    /// For none.
    NeverVerify,
    /// For those that were pulled for a pod.
    #[default]
    NeverVerifyPreloadedImages,
    /// For all but those of a list.
    NeverVerifyAllowlistedImages,
    /// For all.
    AlwaysVerify,
}

/// The policy, and the images that it leaves out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageVerification {
    policy: Policy,
    /// Repositories that `preloadedImagesVerificationAllowlist` names.
    repositories: BTreeSet<String>,
    /// Beginnings of repositories, up to a slash.
    prefixes: Vec<String>,
}

impl ImageVerification {
    /// Takes the configuration: the policy, and `preloadedImagesVerificationAllowlist`, whose entries are whole
    /// repositories, or their beginning and `/*`.
    ///
    /// # Errors
    /// A sentence that names the entry that is none, or says that the policy has no use for them.
    pub fn new(policy: Policy, allowlist: &[String]) -> Result<Self, String> {
        if !allowlist.is_empty() && policy != Policy::NeverVerifyAllowlistedImages {
            return Err(
                "preloadedImagesVerificationAllowlist is for imagePullCredentialsVerificationPolicy: \
                        NeverVerifyAllowlistedImages alone"
                    .to_owned(),
            );
        }
        let mut verification = Self { policy, ..Self::default() };
        for entry in allowlist {
            let refuse = |why: &str| Err(format!("preloadedImagesVerificationAllowlist: {entry:?}: {why}"));
            let prefix = entry.strip_suffix('*').filter(|rest| rest.ends_with('/'));
            let rest = prefix.unwrap_or(entry);
            if entry.trim() != entry || entry.is_empty() {
                return refuse("it must not be empty, or begin or end with spaces");
            } else if rest.contains('*') {
                return refuse("a \"*\" may only be the last part of a path");
            } else if prefix == Some("/") {
                return refuse("it must name a registry at least");
            } else if prefix.is_none() && repository(entry) != *entry {
                return refuse("write the whole name, with its registry, and neither tag nor digest");
            }
            match prefix {
                Some(prefix) => verification.prefixes.push(prefix.to_owned()),
                None => {
                    verification.repositories.insert(entry.clone());
                }
            }
        }
        Ok(verification)
    }

    /// Whether a pod that wants an image of `repository`, which is here, has to be known to have access to it.
    /// `pulled_by_node`: it was pulled for a pod, and not put here otherwise.
    pub(super) fn requires(&self, repository: &str, pulled_by_node: bool) -> bool {
        match self.policy {
            Policy::NeverVerify => false,
            Policy::NeverVerifyPreloadedImages => pulled_by_node,
            Policy::NeverVerifyAllowlistedImages => {
                !self.repositories.contains(repository)
                    && !self.prefixes.iter().any(|prefix| repository.starts_with(prefix))
            }
            Policy::AlwaysVerify => true,
        }
    }
}

/// The repository of an image reference, with its registry, without tag and digest: `app:v1` is of
/// `docker.io/library/app`.
pub(super) fn repository(image: &str) -> String {
    let image = image.strip_prefix("oci://").unwrap_or(image);
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    match name.split_once('/') {
        Some(("index.docker.io", rest)) => format!("docker.io/{rest}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_of_an_image() {
        for (image, expected) in [
            ("app", "docker.io/library/app"),
            ("app:v1", "docker.io/library/app"),
            ("oci://r.io/app:v1", "r.io/app"),
            ("team/app@sha256:00", "docker.io/team/app"),
            ("docker.io/library/app:v1", "docker.io/library/app"),
            ("index.docker.io/library/app", "docker.io/library/app"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app"),
            ("127.0.0.1:5000/a/b:v1@sha256:00", "127.0.0.1:5000/a/b"),
            ("localhost/app:v1", "localhost/app"),
            ("r.io/team/app:v1", "r.io/team/app"),
        ] {
            assert_eq!(repository(image), expected, "{image}");
        }
    }

    #[test]
    fn policies_differ_in_what_they_leave_out() {
        let allowlist = ["r.io/app", "r.io/team/*"].map(str::to_owned);
        let listed = ImageVerification::new(Policy::NeverVerifyAllowlistedImages, &allowlist).unwrap();
        for (repository, required) in [
            ("r.io/app", false),
            ("r.io/apple", true),
            ("r.io/team/a/b", false),
            ("r.io/team", true),
            ("x.io/app", true),
        ] {
            for pulled_by_node in [true, false] {
                assert_eq!(listed.requires(repository, pulled_by_node), required, "{repository}");
            }
        }
        for (policy, pulled, preloaded) in [
            (Policy::NeverVerify, false, false),
            (Policy::NeverVerifyPreloadedImages, true, false),
            (Policy::AlwaysVerify, true, true),
        ] {
            let verification = ImageVerification::new(policy, &[]).unwrap();
            assert_eq!(
                (verification.requires("r.io/app", true), verification.requires("r.io/app", false)),
                (pulled, preloaded)
            );
        }
    }

    #[test]
    fn entries_that_are_none() {
        for entry in
            ["", " r.io/app", "*", "/*", "r.io/*/app", "r.io/app*", "app", "r.io/app:v1", "r.io/app@sha256:0"]
        {
            let refusal = ImageVerification::new(Policy::NeverVerifyAllowlistedImages, &[entry.to_owned()])
                .unwrap_err();
            assert!(refusal.contains(&format!("{entry:?}")), "{refusal}");
        }
        let refusal = ImageVerification::new(Policy::NeverVerify, &["r.io/app".to_owned()]).unwrap_err();
        assert!(refusal.contains("NeverVerifyAllowlistedImages alone"), "{refusal}");
    }
}
