//! Where API servers reach the policy server.

use std::fmt;

use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{ServiceReference, WebhookClientConfig},
};
use url::{Host, Url};

/// The port of the Service.
const PORT: i32 = 443;

/// Where API servers reach the policy server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// By a Service of the cluster, on port 443.
    Service {
        /// Where it is.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By a URL: of a server that is not in the cluster.
    Url(WebhookUrl),
}

/// A URL that webhooks can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookUrl(Url);

/// A URL that no webhook can have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a webhook's URL is https://HOST[:PORT][/PATH], with no user, no query and no fragment")]
pub struct InvalidWebhookUrl;

impl std::str::FromStr for WebhookUrl {
    type Err = InvalidWebhookUrl;

    fn from_str(text: &str) -> Result<Self, InvalidWebhookUrl> {
        let url: Url = text.parse().map_err(|_| InvalidWebhookUrl)?;
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if url.scheme() == "https" && url.host().is_some() && is_plain {
            Ok(Self(url))
        } else {
            Err(InvalidWebhookUrl)
        }
    }
}

impl ServerAddress {
    /// The names and addresses that the server's certificate is made out to.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        match self {
            Self::Service { namespace, name } => vec![format!("{name}.{namespace}.svc")],
            Self::Url(WebhookUrl(url)) => match url.host() {
                Some(Host::Domain(name)) => vec![name.to_owned()],
                Some(Host::Ipv4(address)) => vec![address.to_string()],
                Some(Host::Ipv6(address)) => vec![address.to_string()],
                None => Vec::new(),
            },
        }
    }

    /// How a webhook says it that asks for one policy.
    pub(super) fn client_config(&self, path: &str, bundle: &str) -> WebhookClientConfig {
        let ca_bundle = Some(ByteString(bundle.as_bytes().to_vec()));
        match self {
            Self::Service { namespace, name } => WebhookClientConfig {
                ca_bundle,
                service: Some(ServiceReference {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    path: Some(path.to_owned()),
                    port: Some(PORT),
                }),
                url: None,
            },
            Self::Url(WebhookUrl(url)) => {
                let url = format!("{}{path}", url.as_str().trim_end_matches('/'));
                WebhookClientConfig { ca_bundle, service: None, url: Some(url) }
            }
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { namespace, name } => write!(f, "Service {namespace}/{name}"),
            Self::Url(WebhookUrl(url)) => write!(f, "{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_one_that_the_api_server_takes() {
        for text in
            ["http://h", "https://", "https://u@h", "https://u:p@h", "https://h?a", "https://h#a", "h", ""]
        {
            assert_eq!(text.parse::<WebhookUrl>(), Err(InvalidWebhookUrl), "{text}");
        }
        for (text, host, expected) in [
            ("https://policies.example:8443", "policies.example", "https://policies.example:8443/validate/a"),
            ("https://10.0.0.1/wasm/", "10.0.0.1", "https://10.0.0.1/wasm/validate/a"),
            ("https://[::1]:8443/", "::1", "https://[::1]:8443/validate/a"),
        ] {
            let address = ServerAddress::Url(text.parse().unwrap());
            assert_eq!(address.hosts(), [host]);
            let config = address.client_config("/validate/a", "CA");
            assert_eq!((config.url.as_deref(), config.service), (Some(expected), None));
        }
    }

    #[test]
    fn a_service_is_reached_by_its_name() {
        let address = ServerAddress::Service { namespace: "ns".into(), name: "policies".into() };
        assert_eq!(address.hosts(), ["policies.ns.svc"]);
        let config = address.client_config("/validate/a", "CA");
        assert_eq!(config.ca_bundle, Some(ByteString(b"CA".to_vec())));
        assert_eq!(config.service.unwrap().port, Some(443));
    }
}
