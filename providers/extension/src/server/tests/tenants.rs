//! Envoys of several tenants, by mutual TLS.

use kubewasm_control::tls::{ClientCertificates, server_config};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::PrivateKeyDer;

use super::{client::options, *};
use crate::access::Namespaces;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(common: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, common);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, alternative: SanType) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(alternative);
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    fn server(&self, clients: ClientCertificates<'_>) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(SanType::DnsName("localhost".try_into().unwrap()));
        server_config(certificate.pem().as_bytes(), key.serialize_pem().as_bytes(), clients).unwrap()
    }

    fn client(&self, of: Option<(&Self, &str)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match of {
            None => builder.with_no_client_auth(),
            Some((authority, id)) => {
                let (certificate, key) = authority.issue(SanType::URI(id.try_into().unwrap()));
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

async fn case(authority: &Authority, clients: ClientCertificates<'_>) -> Case {
    let mut options = options(ServerBounds::default());
    options.tls = Some(watch::channel(authority.server(clients)).1);
    options.authentication = Authentication::default();
    options.grants = vec![AccessGrant {
        identities: "spiffe://td/ns/gateways/sa/*".parse().unwrap(),
        namespaces: Namespaces::These(["team-a".to_owned()].into()),
    }];
    let case = Case::with(options).await;
    for name in ["team-a/filter", "team-b/filter"] {
        case.table.publish(extension(name, "1"));
    }
    case
}

#[tokio::test]
async fn an_envoy_has_what_is_of_its_namespace_or_granted() {
    let authority = Authority::new("ca");
    let pem = authority.0.pem();
    let case = case(&authority, ClientCertificates::Required(pem.as_bytes())).await;
    for (id, expected) in [
        ("spiffe://td/ns/team-a/sa/envoy", "team-a/filter"),
        ("spiffe://td/ns/team-b/sa/envoy", "team-b/filter"),
        ("spiffe://td/ns/gateways/sa/envoy", "team-a/filter"),
    ] {
        let config = authority.client(Some((&authority, id)));
        let channel = case.tls_channel(config).await.unwrap();
        let both = ["team-a/filter", "team-b/filter"];
        let fetched = client::fetch(channel.clone(), &both).await.unwrap();
        assert_eq!(client::names(&fetched), [expected], "{id}");
        // The stream of the one who may not have it says the same as of nobody's.
        let mut envoy = DeltaClient::open(channel, Over::Extensions).await;
        envoy.subscribe(&both, HashMap::new()).await;
        assert_eq!(envoy.next().await.unwrap().resources[0].name, expected);
        case.table.publish(extension("team-a/filter", id));
        case.table.publish(extension("team-b/filter", id));
        assert_eq!(envoy.next().await.unwrap().resources[0].name, expected);
    }
    assert!(case.metrics().await.contains("refused_total{reason=\"forbidden\"} 3"));
    case.close().await;
}

#[tokio::test]
async fn nobody_is_served_without_a_certificate_of_the_authority() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("another"));
    let pem = authority.0.pem();
    let id = "spiffe://td/ns/team-a/sa/envoy";
    let required = case(&authority, ClientCertificates::Required(pem.as_bytes())).await;
    let optional = case(&authority, ClientCertificates::Optional(pem.as_bytes())).await;
    for (case, of, expected) in [
        (&required, None, None),
        (&required, Some((&stranger, id)), None),
        (&optional, Some((&stranger, id)), None),
        // It has come in, and would have to show a token.
        (&optional, None, Some(Code::Unauthenticated)),
    ] {
        let refused = async {
            let channel = case.tls_channel(authority.client(of)).await.ok()?;
            Some(client::fetch(channel, &["team-a/filter"]).await.unwrap_err().code())
        };
        let code = refused.await;
        assert!(code != Some(Code::Ok) && (expected.is_none() || code == expected), "{code:?}");
    }
    assert!(optional.metrics().await.contains("refused_total{reason=\"unauthenticated\"} 1"));
    required.close().await;
    optional.close().await;
}
