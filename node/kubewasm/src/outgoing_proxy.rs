//! `--outgoing-proxy`: what requests of guests for HTTP go through.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context as _;
use kubewasm_host::{HttpProxy, InvalidHttpProxy, PastProxy, ProxyCredentials};

use crate::network_mode::NetworkMode;

/// More than credentials have.
const LONGEST_FILE: u64 = 8 << 10;

/// The proxy for guests. The environment of the node is not asked: it is about what the node itself fetches.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProxyArgs {
    /// A proxy that requests of guests (wasi:http) go through, http://host:port, in place of going where they are to
    /// [default: none].
    #[arg(long, value_name = "URL")]
    outgoing_proxy: Option<String>,

    /// A file with one line, user:password, that --outgoing-proxy is asked with.
    #[arg(long, value_name = "FILE", requires = "outgoing_proxy")]
    outgoing_proxy_credentials: Option<PathBuf>,

    /// What is reached past --outgoing-proxy: a name with all below it, .name for those below it alone, an address, a network,
    /// or *; with or without :port. May be repeated, or several with commas between them. Services, the pod itself, and names
    /// below svc and the cluster's domain always are.
    #[arg(long, value_name = "NAME|CIDR", requires = "outgoing_proxy")]
    outgoing_no_proxy: Vec<PastProxies>,
}

/// Several entries with commas between them, and white space and empty ones among them, as programs write `NO_PROXY`.
#[derive(Clone, Debug)]
struct PastProxies(Vec<PastProxy>);

impl FromStr for PastProxies {
    type Err = InvalidHttpProxy;

    fn from_str(text: &str) -> Result<Self, InvalidHttpProxy> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl ProxyArgs {
    /// The file that nobody else is to read.
    pub(crate) fn credentials_file(&self) -> Option<&Path> {
        self.outgoing_proxy_credentials.as_deref()
    }

    /// Reads what they name, in a cluster of this domain, for pods with such addresses.
    pub(crate) fn read(
        &self,
        cluster_domain: &str,
        network: NetworkMode,
    ) -> anyhow::Result<Option<HttpProxy>> {
        let Some(url) = &self.outgoing_proxy else { return Ok(None) };
        let credentials = self.credentials_file().map(credentials).transpose()?;
        let mut past: Vec<_> =
            self.outgoing_no_proxy.iter().flat_map(|entries| entries.0.iter().cloned()).collect();
        for domain in ["svc", cluster_domain].into_iter().filter(|domain| !domain.is_empty()) {
            let entry = format!(".{}", domain.trim_matches('.')).parse();
            past.push(entry.context("the cluster's domain is none")?);
        }
        let proxy = HttpProxy::new(url, credentials, past).context("--outgoing-proxy")?;
        if proxy.is_on_loopback() {
            check_loopback(&proxy.url(), network)?;
        }
        Ok(Some(proxy))
    }
}

/// A proxy on the node's loopback, which is that of pods as well only where they have the node's addresses.
fn check_loopback(url: &str, network: NetworkMode) -> anyhow::Result<()> {
    match network {
        NetworkMode::Pod | NetworkMode::Cni => anyhow::bail!(
            "--outgoing-proxy={url} is on the node's loopback, and with --network={network} pods have a loopback of their own; \
             name an address of the node"
        ),
        NetworkMode::Auto => tracing::warn!(
            "--outgoing-proxy={url} is on the node's loopback, and pods with addresses of their own, which --network=auto may \
             give them, have a loopback of their own: their requests fail; name an address of the node, or choose \
             --network=host"
        ),
        NetworkMode::Host => {}
    }
    Ok(())
}

fn credentials(path: &Path) -> anyhow::Result<ProxyCredentials> {
    let file = || format!("--outgoing-proxy-credentials={}", path.display());
    let mut text = String::new();
    File::open(path).with_context(file)?.take(LONGEST_FILE).read_to_string(&mut text).with_context(file)?;
    text.parse().with_context(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        proxy: ProxyArgs,
    }

    fn read(args: &[&str]) -> anyhow::Result<Option<HttpProxy>> {
        let args = std::iter::once("node").chain(args.iter().copied());
        Command::try_parse_from(args)?.proxy.read("cluster.local", NetworkMode::Pod)
    }

    #[test]
    fn what_is_of_the_cluster_is_reached_past_the_proxy() {
        assert_eq!(read(&[]).unwrap(), None);
        let proxy = read(&["--outgoing-proxy=http://proxy:3128", "--outgoing-no-proxy=a.test,10.0.0.0/8"]);
        let proxy = proxy.unwrap().unwrap();
        assert_eq!(proxy.url(), "http://proxy:3128");
        let past: Vec<String> = proxy.past().iter().map(ToString::to_string).collect();
        assert_eq!(past, ["a.test", "10.0.0.0/8", ".svc", ".cluster.local"]);
        assert!(read(&["--outgoing-no-proxy=a.test"]).is_err(), "there is no proxy");
        assert!(read(&["--outgoing-proxy=http://proxy", "--outgoing-no-proxy=a b"]).is_err());
    }

    #[test]
    fn what_is_past_the_proxy_is_listed_as_programs_list_it() {
        let read = read(&[
            "--outgoing-proxy=http://proxy",
            "--outgoing-no-proxy= a.test, *:443 ,,10.0.0.0/8,",
            "--outgoing-no-proxy=",
            "--outgoing-no-proxy=b.test",
        ]);
        let past: Vec<String> = read.unwrap().unwrap().past().iter().map(ToString::to_string).collect();
        assert_eq!(past, ["a.test", "*:443", "10.0.0.0/8", "b.test", ".svc", ".cluster.local"]);
    }

    #[test]
    fn a_proxy_on_the_loopback_is_for_pods_that_share_it() {
        let read = |url: &str, network| {
            let command = Command::try_parse_from(["node", "--outgoing-proxy", url]).unwrap();
            command.proxy.read("cluster.local", network)
        };
        for url in
            ["http://127.0.0.1:3128", "http://[::1]:3128", "http://localhost:3128", "http://0.0.0.0:3128"]
        {
            for network in [NetworkMode::Auto, NetworkMode::Host] {
                assert!(read(url, network).unwrap().is_some(), "{url}");
            }
            for network in [NetworkMode::Pod, NetworkMode::Cni] {
                let error = read(url, network).unwrap_err().to_string();
                assert!(error.contains(url) && error.contains("name an address of the node"), "{error}");
            }
        }
        assert!(read("http://192.0.2.1:3128", NetworkMode::Cni).unwrap().is_some());
    }

    #[test]
    fn credentials_come_from_a_file_and_are_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let from = format!("--outgoing-proxy-credentials={}", path.display());
        let with_file = || read(&["--outgoing-proxy=http://proxy", &from]);
        let error = format!("{:#}", with_file().unwrap_err());
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
        fs::write(&path, "hunter2\n").unwrap();
        let error = format!("{:#}", with_file().unwrap_err());
        assert!(error.contains("user:password") && !error.contains("hunter2"), "{error}");
        fs::write(&path, "me:hunter2\n").unwrap();
        assert_eq!(with_file().unwrap().unwrap().credentials().unwrap().secret(), "me:hunter2");
        let error = read(&["--outgoing-proxy=http://me:hunter2@proxy"]).unwrap_err();
        assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
    }
}
