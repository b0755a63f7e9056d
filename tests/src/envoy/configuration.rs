//! What an Envoy is configured with: a listener whose filters are discovered, and the cluster that it asks for them.

use std::path::PathBuf;

use serde_json::{Value, json};

/// How an Envoy asks for extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// A stream for each filter, on which every answer says all that there is.
    StateOfTheWorld,
    /// A stream for each filter, on which answers say what has changed.
    Delta,
    /// One stream for everything, as the first.
    Aggregated,
    /// One stream for everything, as the second.
    AggregatedDelta,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::StateOfTheWorld, Self::Delta, Self::Aggregated, Self::AggregatedDelta];

    /// Whether answers say what has changed alone.
    #[must_use]
    pub fn is_delta(self) -> bool {
        matches!(self, Self::Delta | Self::AggregatedDelta)
    }

    /// Whether there is one stream for everything.
    #[must_use]
    pub fn is_aggregated(self) -> bool {
        matches!(self, Self::Aggregated | Self::AggregatedDelta)
    }

    fn api_type(self) -> &'static str {
        match self {
            Self::StateOfTheWorld | Self::Aggregated => "GRPC",
            Self::Delta | Self::AggregatedDelta => "DELTA_GRPC",
        }
    }
}

/// Where in an Envoy its filters are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FilterKind {
    /// In front of an answer to all requests: `200`, and `hello` as its body.
    #[default]
    Http,
    /// In front of what sends back all that it gets.
    Network,
}

/// Who an Envoy is to the discovery server.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// Nobody.
    #[default]
    None,
    /// The service account of a token.
    Token(String),
    /// The owner of a certificate: its file, and that of its key, in PEM.
    Certificate(PathBuf, PathBuf),
}

/// How an Envoy differs from the usual one.
#[derive(Clone, Debug)]
pub struct EnvoyOptions {
    pub(super) variant: Variant,
    pub(super) filters: Vec<String>,
    pub(super) kind: FilterKind,
    pub(super) servers: Vec<u16>,
    pub(super) authority: Option<PathBuf>,
    pub(super) credentials: Credentials,
    pub(super) id: String,
    pub(super) cluster: String,
    pub(super) metadata: Value,
}

impl EnvoyOptions {
    /// One that asks the discovery server at this port of the loopback for a filter of this name.
    #[must_use]
    pub fn new(variant: Variant, server: u16, filter: &str) -> Self {
        Self {
            variant,
            filters: vec![filter.to_owned()],
            kind: FilterKind::Http,
            servers: vec![server],
            authority: None,
            credentials: Credentials::None,
            id: "test".to_owned(),
            cluster: "test".to_owned(),
            metadata: json!({}),
        }
    }

    /// Another filter, after those that there are.
    #[must_use]
    pub fn filter(mut self, name: &str) -> Self {
        self.filters.push(name.to_owned());
        self
    }

    /// Where its filters are.
    #[must_use]
    pub fn kind(mut self, kind: FilterKind) -> Self {
        self.kind = kind;
        self
    }

    /// Another port at which there is a discovery server.
    #[must_use]
    pub fn server(mut self, port: u16) -> Self {
        self.servers.push(port);
        self
    }

    /// Speaks TLS with the server, whose certificate an authority of this file has signed.
    #[must_use]
    pub fn authority(mut self, file: PathBuf) -> Self {
        self.authority = Some(file);
        self
    }

    /// Who it is.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// What it says of itself: the id of its node, the node's cluster, and its metadata.
    #[must_use]
    pub fn node(mut self, id: &str, cluster: &str, metadata: Value) -> Self {
        (self.id, self.cluster, self.metadata) = (id.to_owned(), cluster.to_owned(), metadata);
        self
    }
}

/// The configuration of an Envoy that listens on these ports of the loopback.
pub(super) fn configuration(options: &EnvoyOptions, port: u16, admin: u16) -> Value {
    let mut filters: Vec<Value> = options.filters.iter().map(|name| discovered(options, name)).collect();
    match options.kind {
        FilterKind::Http => {
            filters.push(json!({
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
            }));
            let answer = json!({ "status": 200, "body": { "inline_string": "hello\n" } });
            let route = json!({ "match": { "prefix": "/" }, "direct_response": answer });
            let manager = json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "ingress",
                "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
                "http_filters": filters,
            });
            filters = vec![json!({ "name": "http", "typed_config": manager })];
        }
        FilterKind::Network => filters.push(json!({
            "name": "echo",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" },
        })),
    }
    let listener =
        json!({ "name": "listener", "address": at(port), "filter_chains": [{ "filters": filters }] });
    let mut whole = json!({
        "admin": { "address": at(admin) },
        "node": { "id": options.id, "cluster": options.cluster, "metadata": options.metadata },
        "static_resources": { "listeners": [listener], "clusters": [cluster(options)] },
    });
    if options.variant.is_aggregated() {
        whole["dynamic_resources"] = json!({ "ads_config": api(options) });
    }
    whole
}

/// A filter of this name.
fn discovered(options: &EnvoyOptions, name: &str) -> Value {
    // After that time, the listener opens without the filter, and answers 500.
    let mut source = json!({ "initial_fetch_timeout": "3s", "resource_api_version": "V3" });
    match options.variant.is_aggregated() {
        true => source["ads"] = json!({}),
        false => source["api_config_source"] = api(options),
    }
    let kind = match options.kind {
        FilterKind::Http => "http",
        FilterKind::Network => "network",
    };
    let of_type = format!("type.googleapis.com/envoy.extensions.filters.{kind}.wasm.v3.Wasm");
    json!({ "name": name, "config_discovery": { "config_source": source, "type_urls": [of_type] } })
}

fn api(options: &EnvoyOptions) -> Value {
    let mut service = json!({ "envoy_grpc": { "cluster_name": "wasmxds" } });
    if let Credentials::Token(token) = &options.credentials {
        service["initial_metadata"] = json!([{ "key": "authorization", "value": format!("Bearer {token}") }]);
    }
    json!({
        "api_type": options.variant.api_type(), "transport_api_version": "V3", "grpc_services": [service],
    })
}

/// The discovery servers.
fn cluster(options: &EnvoyOptions) -> Value {
    let endpoints: Vec<Value> =
        options.servers.iter().map(|&port| json!({ "endpoint": { "address": at(port) } })).collect();
    let http2 = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        // A server that is gone is not talked to any more, whatever has become of its connection.
        "explicit_http_config": { "http2_protocol_options": { "connection_keepalive": { "interval": "5s", "timeout": "5s" } } },
    });
    let mut cluster = json!({
        "name": "wasmxds",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2 },
        "load_assignment": { "cluster_name": "wasmxds", "endpoints": [{ "lb_endpoints": endpoints }] },
    });
    if let Some(authority) = &options.authority {
        let mut context = json!({ "validation_context": { "trusted_ca": { "filename": authority } } });
        if let Credentials::Certificate(certificate, key) = &options.credentials {
            let pair = json!({ "certificate_chain": { "filename": certificate }, "private_key": { "filename": key } });
            context["tls_certificates"] = json!([pair]);
        }
        cluster["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "localhost",
                "common_tls_context": context,
            },
        });
    }
    cluster
}

fn at(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each variant is another way to ask, and says how in one place.
    #[test]
    fn every_variant_is_asked_for_in_its_place() {
        for variant in Variant::ALL {
            let options = EnvoyOptions::new(variant, 8610, "default/a")
                .credentials(Credentials::Token("secret".to_owned()));
            let whole = configuration(&options, 1, 2);
            let filter = &whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
                ["http_filters"][0]["config_discovery"]["config_source"];
            let (there, other) = match variant.is_aggregated() {
                true => (&whole["dynamic_resources"]["ads_config"], &filter["api_config_source"]),
                false => (&filter["api_config_source"], &whole["dynamic_resources"]["ads_config"]),
            };
            assert_eq!(there["api_type"], if variant.is_delta() { "DELTA_GRPC" } else { "GRPC" });
            assert_eq!(there["grpc_services"][0]["initial_metadata"][0]["value"], "Bearer secret");
            assert!(other.is_null(), "{variant:?}");
        }
    }
}
