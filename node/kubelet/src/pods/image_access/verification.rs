//! `imagePullCredentialsVerificationPolicy`: which images that are here a pod has to show credentials for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use self::ImagePullCredentialsVerificationPolicy as Policy;
use crate::registry_auth::keyring::repository;

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

#[cfg(test)]
mod tests {
    use super::*;

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
