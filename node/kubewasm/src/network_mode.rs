//! `--network` and `--network-policies`: whose addresses pods have, and what holds for them.

use std::{fmt, path::Path, str::FromStr};

use anyhow::Context as _;
use kubewasm_cni::{SandboxOptions, Sandboxes};
use kubewasm_network::PodNetwork;

use crate::resolvers::Resolvers;

/// Whose addresses pods have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NetworkMode {
    /// Their own where that can be had, and the node's otherwise.
    #[default]
    Auto,
    /// Their own.
    Pod,
    /// Those that the cluster's own plugins give them. Has to be asked for: that plugins are there does not say that their
    /// network works on this machine.
    Cni,
    /// The node's.
    Host,
}

/// What it takes for pods to have addresses of their own.
pub(crate) const NEEDS: &str =
    "run the node as root, or with CAP_NET_ADMIN, CAP_SYS_ADMIN and a /proc/sys that can be written to";

/// Tells of servers that pods with addresses of their own do not reach.
fn warn_of(resolvers: &Resolvers) {
    if resolvers.are_local {
        tracing::warn!(
            "{} names resolvers on the node's loopback alone, which pods with addresses of their own do not reach: {} \
             resolve no names",
            resolvers.file.display(),
            if resolvers.has_cluster_dns { "those with dnsPolicy Default" } else { "they" }
        );
    }
}

impl NetworkMode {
    /// Where CNI plugins and their configuration are, if they are to make the networks of pods. Warns of those that they
    /// have made before, where they are not to any more.
    pub(crate) async fn sandboxes(self, options: SandboxOptions) -> anyhow::Result<Option<SandboxOptions>> {
        if self == Self::Cni {
            let checked = Sandboxes::check(&options).await;
            checked.with_context(|| format!("--network=cni cannot be had here; {NEEDS}"))?;
            return Ok(Some(options));
        }
        if std::fs::read_dir(&options.state_dir).is_ok_and(|mut entries| entries.next().is_some()) {
            tracing::warn!(
                dir = %options.state_dir.display(),
                "pods have networks that CNI plugins have made; start the node with --network=cni once more, and drain it, to \
                 have them removed"
            );
        }
        Ok(None)
    }

    /// Whether pods can have addresses of their own from the Node's podCIDR, on a node with this root directory and these servers of
    /// names. Says what was chosen and why.
    pub(crate) async fn has_pod_addresses(self, root: &Path, resolvers: &Resolvers) -> anyhow::Result<bool> {
        let check = || async { PodNetwork::check(&root.display().to_string()).await };
        match self {
            Self::Host | Self::Cni => Ok(false),
            Self::Pod => {
                let checked = check().await;
                checked.with_context(|| format!("--network=pod cannot be had here; {NEEDS}"))?;
                warn_of(resolvers);
                Ok(true)
            }
            Self::Auto => match check().await {
                Ok(()) if !PodNetwork::has_filter().await => {
                    tracing::info!(
                        "--network=auto: pods have the node's address and do not listen, because what those with addresses \
                         of their own send beyond the cluster would not be answered; install nft, or choose --network=pod"
                    );
                    Ok(false)
                }
                Ok(()) if !resolvers.are_reached() => {
                    tracing::info!(
                        "--network=auto: pods have the node's address and do not listen, because {} names resolvers on the \
                         node's loopback alone, and those with addresses of their own would resolve no names; set \
                         clusterDNS, name another one there, or choose --network=pod",
                        resolvers.file.display()
                    );
                    Ok(false)
                }
                Ok(()) => {
                    warn_of(resolvers);
                    tracing::info!(
                        "--network=auto: pods get addresses of their own, if the Node is given a podCIDR"
                    );
                    Ok(true)
                }
                Err(error) => {
                    tracing::info!(
                        %error,
                        "--network=auto: pods have the node's address and do not listen; for addresses of their own, {NEEDS}"
                    );
                    Ok(false)
                }
            },
        }
    }
}

/// A text that is no [`NetworkMode`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of auto, pod, cni and host")]
pub(crate) struct InvalidNetworkMode(String);

impl FromStr for NetworkMode {
    type Err = InvalidNetworkMode;

    fn from_str(text: &str) -> Result<Self, InvalidNetworkMode> {
        match text {
            "auto" => Ok(Self::Auto),
            "pod" => Ok(Self::Pod),
            "cni" => Ok(Self::Cni),
            "host" => Ok(Self::Host),
            other => Err(InvalidNetworkMode(other.to_owned())),
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Pod => "pod",
            Self::Cni => "cni",
            Self::Host => "host",
        })
    }
}

/// Whether NetworkPolicies hold for pods with addresses of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NetworkPolicyMode {
    /// If the node may read them.
    #[default]
    Auto,
    /// They are somebody else's business.
    Off,
}

/// A text that is no [`NetworkPolicyMode`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither auto nor off")]
pub(crate) struct InvalidNetworkPolicyMode(String);

impl FromStr for NetworkPolicyMode {
    type Err = InvalidNetworkPolicyMode;

    fn from_str(text: &str) -> Result<Self, InvalidNetworkPolicyMode> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            other => Err(InvalidNetworkPolicyMode(other.to_owned())),
        }
    }
}

impl fmt::Display for NetworkPolicyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Off => "off",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_modes_are_read_as_they_are_written() {
        for mode in [NetworkPolicyMode::Auto, NetworkPolicyMode::Off] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let error = "on".parse::<NetworkPolicyMode>().map_err(|error| error.to_string());
        assert_eq!(error, Err("\"on\" is neither auto nor off".to_owned()));
    }

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in [NetworkMode::Auto, NetworkMode::Pod, NetworkMode::Cni, NetworkMode::Host] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let error = "bridge".parse::<NetworkMode>().map_err(|error| error.to_string());
        assert_eq!(error, Err("\"bridge\" is none of auto, pod, cni and host".to_owned()));
    }

    #[tokio::test]
    async fn what_is_not_there_says_what_is() {
        let has = async |mode: NetworkMode| {
            let resolvers = Resolvers::look(Path::new("/etc/resolv.conf"), &[]);
            mode.has_pod_addresses(Path::new("/nonexistent"), &resolvers)
                .await
                .map_err(|error| error.to_string())
        };
        assert_eq!((has(NetworkMode::Host).await, has(NetworkMode::Cni).await), (Ok(false), Ok(false)));
        let options = SandboxOptions {
            namespaces_dir: "/proc/nonexistent".into(),
            ..SandboxOptions::new("/nonexistent/cni")
        };
        for mode in [NetworkMode::Auto, NetworkMode::Pod, NetworkMode::Host] {
            assert_eq!(mode.sandboxes(options.clone()).await.ok(), Some(None));
        }
        let error = NetworkMode::Cni.sandboxes(options).await.err().map(|error| error.to_string());
        let error = error.unwrap_or_default();
        assert!(error.contains("--network=cni cannot be had here; run the node as root"), "{error}");
    }
}
