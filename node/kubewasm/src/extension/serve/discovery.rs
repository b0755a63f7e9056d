//! What `kubewasm extension serve` is told of Envoys: where they ask, how they say who they are, and what they may have.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use kube::Client;
use kubewasm_control::tls_files::{CertificateFiles, TlsFiles};
use kubewasm_extension::{
    access::{AccessGrant, IdentityPattern, Namespaces},
    identity::{Authentication, TokenReviews, TokenTimes},
    server::{ServerBounds, ServerOptions},
};
use rustls::ServerConfig;
use tokio::sync::watch;

use crate::replica;

/// Over which time Envoys are told to go at the stop.
const SPREAD: Duration = Duration::from_secs(5);
/// How long is waited for those that are told.
const GOODBYE: Duration = Duration::from_secs(10);

/// What some Envoys may have: `IDENTITY=NAMESPACE[,NAMESPACE...]`.
#[derive(Clone, Debug)]
struct GrantArg(AccessGrant);

impl FromStr for GrantArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pattern, namespaces) = text.rsplit_once('=').ok_or(
            "a grant is IDENTITY=NAMESPACE, with more namespaces after commas, or * for all of them",
        )?;
        let identities = pattern.parse::<IdentityPattern>().map_err(|error| error.to_string())?;
        let namespaces = match namespaces {
            "*" => Namespaces::All,
            names => {
                let names: Vec<&str> = names.split(',').collect();
                if let Some(wrong) = names.iter().find(|name| !replica::is_name(name, 63)) {
                    return Err(format!("{wrong:?} is not the name of a namespace"));
                }
                Namespaces::These(names.into_iter().map(str::to_owned).collect())
            }
        };
        Ok(Self(AccessGrant { identities, namespaces }))
    }
}

/// Arguments of `kubewasm extension serve` for Envoys.
#[derive(Debug, clap::Args)]
pub(super) struct DiscoveryArgs {
    /// The address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    addr: IpAddr,

    /// The port of Envoys.
    #[arg(long, value_name = "PORT", default_value_t = 8610)]
    port: u16,

    /// The port of /readyz, /healthz and /metrics, by plain HTTP.
    #[arg(long, value_name = "PORT", default_value_t = 8081)]
    readiness_probe_port: u16,

    /// The certificate and what leads from it to an authority, in PEM. Read again when it changes
    /// [default: one that has signed itself, for localhost].
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,

    /// The certificate's key, in PEM.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,

    /// Authorities of Envoys' certificates, in PEM. Read again when it changes. May be repeated [default: Envoys show a token of a
    /// service account].
    #[arg(long, value_name = "FILE")]
    client_ca_file: Vec<PathBuf>,

    /// A trust domain whose SPIFFE ids are believed in certificates [default: all that --client-ca-file vouches for]. May be
    /// repeated.
    #[arg(long, value_name = "DOMAIN", requires = "client_ca_file")]
    trust_domain: Vec<String>,

    /// The audience of the tokens that Envoys show; an empty one takes no tokens.
    #[arg(long, value_name = "AUDIENCE", default_value = "wasmxds")]
    token_audience: String,

    /// Extensions of other namespaces than their own that Envoys may have: IDENTITY=NAMESPACE[,NAMESPACE...]. The identity is a SPIFFE
    /// id, a name of DNS, or system:serviceaccount:NAMESPACE:NAME, with one * for anything; the namespaces are * for all. May be
    /// repeated.
    #[arg(long, value_name = "GRANT")]
    grant: Vec<GrantArg>,

    /// Speak without TLS, and give everything to whoever comes.
    #[arg(long, conflicts_with_all = ["cert_file", "client_ca_file", "grant"])]
    insecure: bool,

    /// How long Envoys are still taken in after SIGTERM, in seconds: until everybody has heard that this server is not ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    shutdown_delay: f64,
}

/// The files of certificates, and the TLS that comes of them.
pub(super) type Tls = (TlsFiles, watch::Receiver<Arc<ServerConfig>>);

impl DiscoveryArgs {
    /// Reads the certificates; none where there is no TLS.
    pub(super) fn tls(&self) -> anyhow::Result<Option<Tls>> {
        if self.insecure {
            tracing::warn!(
                "--insecure: whoever reaches this server gets all extensions, and the secrets in them"
            );
            return Ok(None);
        }
        ensure!(
            !self.client_ca_file.is_empty() || !self.token_audience.is_empty(),
            "nobody could say who they are: give --client-ca-file, or --token-audience"
        );
        let files = CertificateFiles {
            pair: self.cert_file.clone().zip(self.key_file.clone()),
            client_authorities: self.client_ca_file.clone(),
            // Who has none may have a token.
            is_client_optional: !self.token_audience.is_empty(),
        };
        Ok(Some(TlsFiles::open(files)?))
    }

    /// How Envoys are served.
    pub(super) fn options(
        self,
        client: &Client,
        tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    ) -> anyhow::Result<ServerOptions> {
        let lame_duck = Duration::try_from_secs_f64(self.shutdown_delay).ok().with_context(|| {
            format!("--shutdown-delay is a number of seconds, not {}", self.shutdown_delay)
        })?;
        let has_tokens = !self.insecure && !self.token_audience.is_empty();
        let tokens = has_tokens
            .then(|| TokenReviews::new(client.clone(), &self.token_audience, TokenTimes::default()));
        Ok(ServerOptions {
            address: SocketAddr::new(self.addr, self.port),
            health_address: SocketAddr::new(self.addr, self.readiness_probe_port),
            tls,
            authentication: Authentication {
                trust_domains: self.trust_domain.into_iter().collect(),
                tokens,
                is_open: self.insecure,
            },
            grants: self.grant.into_iter().map(|grant| grant.0).collect(),
            bounds: ServerBounds::default(),
            lame_duck,
            spread: SPREAD,
            goodbye: GOODBYE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_an_identity_and_its_namespaces() {
        let grant: GrantArg = "spiffe://td/ns/edge/sa/*=a,b".parse().unwrap();
        assert_eq!(grant.0.identities, "spiffe://td/ns/edge/sa/*".parse().unwrap());
        assert_eq!(grant.0.namespaces, Namespaces::These(["a".to_owned(), "b".to_owned()].into()));
        let all: GrantArg = "system:serviceaccount:edge:envoy=*".parse().unwrap();
        assert_eq!(all.0.namespaces, Namespaces::All);
        for text in ["", "a", "=a", "a=", "a=B", "a=b,", "a*b*=c"] {
            assert!(text.parse::<GrantArg>().is_err(), "{text}");
        }
    }
}
