//! What servers of a cluster have in common that run in several replicas.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use kube::{Client, Config};
use kubewasm_control::elector::ElectionTimes;
use kubewasm_kubelet::identity::read_kubeconfig;

/// A client of the API server, with these credentials, or those of the pod that this runs in.
pub(crate) async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    // Another part of the program may have chosen already; both choices are fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = match kubeconfig {
        Some(file) => read_kubeconfig(file).await?,
        None => Config::incluster().context(
            "this is no pod of a cluster with a service account; name credentials with --kubeconfig",
        )?,
    };
    Client::try_from(config).context("cannot make a client of the API server")
}

/// Times of an election, from the flags that say them in seconds.
pub(crate) fn election(lease: u16, retry: u16) -> anyhow::Result<ElectionTimes> {
    let election =
        ElectionTimes { lease: Duration::from_secs(lease.into()), retry: Duration::from_secs(retry.into()) };
    ensure!(
        !election.retry.is_zero() && election.lease > election.retry * 2,
        "--leader-elect-lease-duration is more than twice --leader-elect-retry-period, which is not 0"
    );
    Ok(election)
}

/// Another one for each process: a replica that comes back is not taken for the one that was.
pub(crate) fn random_identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let host: String =
        host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    // Each of them is seeded at random.
    let random = RandomState::new().build_hasher().finish();
    format!("{}-{random:016x}", host.trim_matches('-')).trim_matches('-').to_owned()
}

/// Whether it is a name of lower-case letters, digits and dashes, not longer than this.
pub(crate) fn is_name(name: &str, longest: usize) -> bool {
    let is_sign = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty()
        && name.len() <= longest
        && name.chars().all(is_sign)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_has_a_name_of_its_own() {
        let (one, other) = (random_identity(), random_identity());
        assert_ne!(one, other);
        assert!(is_name(&one, 128), "{one}");
    }

    #[test]
    fn names_are_those_of_objects() {
        for name in ["", "A", "a_b", "-a", "a-", "a.b", "ä"] {
            assert!(!is_name(name, 63), "{name}");
        }
        assert!(is_name("a-1", 63) && !is_name("abcd", 3));
    }
}
