//! A server, and Envoys that are none.

use std::{collections::HashMap, future::Future};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{Node, TypedExtensionConfig},
        service::{
            discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
            extension::v3::extension_config_discovery_service_client::ExtensionConfigDiscoveryServiceClient,
        },
    },
    google::rpc,
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

use super::super::*;
use crate::{resource::RESOURCE_TYPE, subscribers::ExtensionSubscribers, xds::testing::name};

/// By which service.
#[derive(Clone, Copy, Debug)]
pub(super) enum Over {
    Extensions,
    Aggregated,
}

pub(super) struct Case {
    pub(super) table: ExtensionTable,
    pub(super) subscribers: Subscribers,
    pub(super) ready: watch::Sender<bool>,
    pub(super) address: SocketAddr,
    health: SocketAddr,
    cancel: CancellationToken,
    serving: JoinHandle<()>,
}

pub(super) fn options(bounds: ServerBounds) -> ServerOptions {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    ServerOptions {
        address: any,
        health_address: any,
        tls: None,
        authentication: Authentication { is_open: true, ..Authentication::default() },
        grants: Vec::new(),
        bounds,
        lame_duck: Duration::ZERO,
        spread: Duration::from_millis(20),
        goodbye: Duration::from_secs(600),
    }
}

impl Case {
    /// One that serves anybody, in the clear.
    pub(super) async fn open(bounds: ServerBounds) -> Self {
        Self::with(options(bounds)).await
    }

    pub(super) async fn with(options: ServerOptions) -> Self {
        let (table, subscribers) = (ExtensionTable::default(), Subscribers::default());
        let (ready, is_ready) = watch::channel(true);
        let registry = Registry::default();
        let server =
            ExtensionServer::bind(options, table.clone(), subscribers.clone(), registry, is_ready).unwrap();
        table.complete();
        let (address, health) = (server.address(), server.health_address());
        let cancel = CancellationToken::new();
        let serving = tokio::spawn(server.run(cancel.clone()));
        Self { table, subscribers, ready, address, health, cancel, serving }
    }

    pub(super) async fn close(self) {
        self.cancel.cancel();
        self.serving.await.unwrap();
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    pub(super) async fn channel(&self) -> Channel {
        self.endpoint().connect().await.unwrap()
    }

    /// By TLS.
    pub(super) async fn tls_channel(
        &self,
        config: rustls::ClientConfig,
    ) -> Result<Channel, tonic::transport::Error> {
        let (connector, address) = (TlsConnector::from(Arc::new(config)), self.address);
        let connect = tower::service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
                Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        self.endpoint().connect_with_connector(connect).await
    }

    pub(super) fn version(&self, text: &str) -> String {
        self.table.get(&name(text)).unwrap().version().to_string()
    }

    /// Waits until this is so of what Envoys make of an extension.
    pub(super) async fn until(
        &self,
        text: &str,
        is_so: impl Fn(&ExtensionSubscribers) -> bool,
    ) -> ExtensionSubscribers {
        let mut changes = self.subscribers.changes();
        loop {
            changes.mark_unchanged();
            let known = self.subscribers.get(&name(text));
            if is_so(&known) {
                return known;
            }
            changes.changed().await.unwrap();
        }
    }

    /// The status of a path of the other port.
    pub(super) async fn health(&self, path: &str) -> u16 {
        let text = self.http(self.health, path).await;
        text.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(super) async fn metrics(&self) -> String {
        self.http(self.health, "/metrics").await
    }

    pub(super) async fn http(&self, address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

/// The names of the extensions in a response.
pub(super) fn names(response: &DiscoveryResponse) -> Vec<String> {
    let name = |value: &Vec<u8>| TypedExtensionConfig::decode(&**value).unwrap().name;
    response.resources.iter().map(|any| name(&any.value)).collect()
}

pub(super) fn node() -> Option<Node> {
    Some(Node { id: "envoy-1".to_owned(), cluster: "test".to_owned(), ..Node::default() })
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn error(message: &str) -> Option<rpc::Status> {
    Some(rpc::Status { code: 13, message: message.to_owned(), ..rpc::Status::default() })
}

fn extensions(channel: Channel) -> ExtensionConfigDiscoveryServiceClient<Channel> {
    ExtensionConfigDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX)
}

fn aggregated(channel: Channel) -> AggregatedDiscoveryServiceClient<Channel> {
    AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX)
}

pub(super) async fn fetch(channel: Channel, names: &[&str]) -> Result<DiscoveryResponse, Status> {
    let request = DiscoveryRequest { resource_names: owned(names), ..DiscoveryRequest::default() };
    Ok(extensions(channel).fetch_extension_configs(request).await?.into_inner())
}

/// A stream, whose responses have begun or not.
pub(super) struct Exchange<Q, A> {
    pub(super) requests: mpsc::Sender<Q>,
    responses: Streaming<A>,
}

impl<Q, A> Exchange<Q, A> {
    async fn open<F: Future<Output = Result<tonic::Response<Streaming<A>>, Status>>>(
        open: impl FnOnce(ReceiverStream<Q>) -> F,
    ) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(64);
        let responses = open(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    pub(super) async fn next(&mut self) -> Result<A, Status> {
        self.responses.message().await?.ok_or_else(|| Status::ok("the end"))
    }
}

pub(super) struct SotwClient(pub(super) Exchange<DiscoveryRequest, DiscoveryResponse>);

impl SotwClient {
    pub(super) async fn open(channel: Channel, over: Over) -> Self {
        Self::try_open(channel, over).await.unwrap()
    }

    pub(super) async fn try_open(channel: Channel, over: Over) -> Result<Self, Status> {
        let exchange = match over {
            Over::Extensions => {
                let mut client = extensions(channel);
                Exchange::open(|requests| async move { client.stream_extension_configs(requests).await })
                    .await
            }
            Over::Aggregated => {
                let mut client = aggregated(channel);
                Exchange::open(|requests| async move { client.stream_aggregated_resources(requests).await })
                    .await
            }
        };
        exchange.map(Self)
    }

    pub(super) async fn ask(&self, names: &[&str], version_info: &str, nonce: &str) {
        self.send(names, version_info, nonce, None).await;
    }

    pub(super) async fn refuse(&self, names: &[&str], version_info: &str, nonce: &str, message: &str) {
        self.send(names, version_info, nonce, error(message)).await;
    }

    async fn send(&self, names: &[&str], version_info: &str, nonce: &str, error_detail: Option<rpc::Status>) {
        let request = DiscoveryRequest {
            version_info: version_info.to_owned(),
            node: node(),
            resource_names: owned(names),
            type_url: RESOURCE_TYPE.to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail,
            ..DiscoveryRequest::default()
        };
        self.0.requests.send(request).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        self.0.next().await
    }
}

pub(super) struct DeltaClient(pub(super) Exchange<DeltaDiscoveryRequest, DeltaDiscoveryResponse>);

impl DeltaClient {
    pub(super) async fn open(channel: Channel, over: Over) -> Self {
        let exchange = match over {
            Over::Extensions => {
                let mut client = extensions(channel);
                Exchange::open(|requests| async move { client.delta_extension_configs(requests).await }).await
            }
            Over::Aggregated => {
                let mut client = aggregated(channel);
                Exchange::open(|requests| async move { client.delta_aggregated_resources(requests).await })
                    .await
            }
        };
        Self(exchange.unwrap())
    }

    pub(super) async fn subscribe(&self, names: &[&str], initial_resource_versions: HashMap<String, String>) {
        let request = DeltaDiscoveryRequest {
            node: node(),
            type_url: RESOURCE_TYPE.to_owned(),
            resource_names_subscribe: owned(names),
            initial_resource_versions,
            ..DeltaDiscoveryRequest::default()
        };
        self.0.requests.send(request).await.unwrap();
    }

    pub(super) async fn answer(&self, nonce: &str, message: Option<&str>) {
        let request = DeltaDiscoveryRequest {
            type_url: RESOURCE_TYPE.to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail: message.and_then(error),
            ..DeltaDiscoveryRequest::default()
        };
        self.0.requests.send(request).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        self.0.next().await
    }
}
