//! A client of a discovery server that is no Envoy: it asks for whatever it likes, takes what it gets in its own time, and there
//! can be a thousand of it in one process. The messages are Envoy's own.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
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
    google::{protobuf::Any, rpc},
};
use futures::{SinkExt as _, channel::mpsc};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;
use tonic::{
    Request, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::envoy::Variant;

/// What is asked for.
pub const RESOURCE_TYPE: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
/// Requests that wait to be sent.
const REQUESTS: usize = 16;

/// A connection to a discovery server, for any number of streams.
#[derive(Clone, Debug)]
pub struct Discovery {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    node: Node,
}

/// A stream. It ends when it is dropped.
#[derive(Debug)]
pub struct Subscriber {
    wire: Wire,
    node: Node,
    /// Of what was taken last.
    nonce: String,
    version: String,
    names: Vec<String>,
}

#[derive(Debug)]
enum Wire {
    World(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>),
    Delta(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>),
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// The answer's version; with the state of the world, that of all that is in it.
    pub version: String,
    /// What an acknowledgement names.
    pub nonce: String,
    /// What there is: its name, its version where there is one for each, and its encoded content.
    pub resources: Vec<(String, String, Any)>,
    /// What is gone, where that can be said.
    pub removed: Vec<String>,
}

impl Update {
    /// The names of what is in it.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.resources.iter().map(|(name, _, _)| name.as_str()).collect()
    }
}

impl Discovery {
    /// Connects to a port of the loopback, with TLS or without. The connection is one for all that comes of it.
    ///
    /// # Errors
    /// When nobody listens, or one of the two is refused.
    pub async fn connect(port: u16, tls: Option<Arc<ClientConfig>>) -> Result<Self> {
        let connector = tower::service_fn(move |_| {
            let tls = tls.clone();
            async move {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(TokioIo::new(match tls {
                    None => Either::Left(stream),
                    Some(tls) => {
                        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
                        Either::Right(TlsConnector::from(tls).connect(name, stream).await?)
                    }
                }))
            }
        });
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(Duration::from_secs(10));
        let channel = endpoint.connect_with_connector(connector).await?;
        let node = Node { id: "subscriber".to_owned(), cluster: "test".to_owned(), ..Node::default() };
        Ok(Self { channel, token: None, node })
    }

    /// The same connection with a service account's token.
    ///
    /// # Errors
    /// When it cannot be one.
    pub fn token(mut self, token: &str) -> Result<Self> {
        self.token = Some(format!("Bearer {token}").parse().context("not a token")?);
        Ok(self)
    }

    /// The same connection with another node.
    #[must_use]
    pub fn node(mut self, id: &str, cluster: &str) -> Self {
        self.node = Node { id: id.to_owned(), cluster: cluster.to_owned(), ..Node::default() };
        self
    }

    /// Opens a stream, and asks on it for these.
    ///
    /// # Errors
    /// When the server refuses it; the error is a [`tonic::Status`].
    pub async fn subscribe(&self, variant: Variant, names: &[&str]) -> Result<Subscriber> {
        self.resume(variant, names, HashMap::new()).await
    }

    /// Opens a stream that goes on where another one has ended: it has these versions of these names.
    ///
    /// # Errors
    /// See [`Discovery::subscribe`].
    pub async fn resume(
        &self,
        variant: Variant,
        names: &[&str],
        versions: HashMap<String, String>,
    ) -> Result<Subscriber> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let wire = if variant.is_delta() {
            let first = DeltaDiscoveryRequest {
                node: Some(self.node.clone()),
                type_url: RESOURCE_TYPE.to_owned(),
                resource_names_subscribe: names.clone(),
                initial_resource_versions: versions,
                ..DeltaDiscoveryRequest::default()
            };
            let (mut requests, sent) = mpsc::channel(REQUESTS);
            requests.send(first).await?;
            let answers = match variant.is_aggregated() {
                true => self.aggregated().delta_aggregated_resources(self.request(sent)).await?,
                false => self.extensions().delta_extension_configs(self.request(sent)).await?,
            };
            Wire::Delta(requests, answers.into_inner())
        } else {
            let first = self.first(&names);
            let (mut requests, sent) = mpsc::channel(REQUESTS);
            requests.send(first).await?;
            let answers = match variant.is_aggregated() {
                true => self.aggregated().stream_aggregated_resources(self.request(sent)).await?,
                false => self.extensions().stream_extension_configs(self.request(sent)).await?,
            };
            Wire::World(requests, answers.into_inner())
        };
        Ok(Subscriber { wire, node: self.node.clone(), nonce: String::new(), version: String::new(), names })
    }

    /// Asks once, without a stream.
    ///
    /// # Errors
    /// When the server refuses it; the error is a [`tonic::Status`].
    pub async fn fetch(&self, names: &[&str]) -> Result<Update> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let answer = self.extensions().fetch_extension_configs(self.request(self.first(&names))).await?;
        world(answer.into_inner())
    }

    fn first(&self, names: &[String]) -> DiscoveryRequest {
        DiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: RESOURCE_TYPE.to_owned(),
            resource_names: names.to_vec(),
            ..DiscoveryRequest::default()
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    /// What is sent may be as large as it is.
    fn extensions(&self) -> ExtensionConfigDiscoveryServiceClient<Channel> {
        ExtensionConfigDiscoveryServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    fn aggregated(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }
}

impl Subscriber {
    /// Waits for the next answer, which is not acknowledged by that.
    ///
    /// # Errors
    /// When the stream has ended; where the server has said why, the error is a [`tonic::Status`].
    pub async fn next(&mut self) -> Result<Update> {
        let update = match &mut self.wire {
            Wire::World(_, answers) => world(answers.message().await?.context("the stream has ended")?)?,
            Wire::Delta(_, answers) => delta(answers.message().await?.context("the stream has ended")?)?,
        };
        self.nonce.clone_from(&update.nonce);
        Ok(update)
    }

    /// Waits for the next answer, and takes it.
    ///
    /// # Errors
    /// See [`Subscriber::next`].
    pub async fn take(&mut self) -> Result<Update> {
        let update = self.next().await?;
        self.acknowledge(&update).await?;
        Ok(update)
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn acknowledge(&mut self, update: &Update) -> Result<()> {
        self.version.clone_from(&update.version);
        self.answer(&update.nonce, None).await
    }

    /// Refuses an answer.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn refuse(&mut self, update: &Update, message: &str) -> Result<()> {
        // `INVALID_ARGUMENT`, as Envoy says it.
        let status = rpc::Status { code: 3, message: message.to_owned(), ..rpc::Status::default() };
        self.answer(&update.nonce, Some(status)).await
    }

    async fn answer(&mut self, nonce: &str, error: Option<rpc::Status>) -> Result<()> {
        let node = Some(self.node.clone());
        match &mut self.wire {
            Wire::World(requests, _) => {
                let request = DiscoveryRequest {
                    version_info: self.version.clone(),
                    node,
                    type_url: RESOURCE_TYPE.to_owned(),
                    resource_names: self.names.clone(),
                    response_nonce: nonce.to_owned(),
                    error_detail: error,
                    ..DiscoveryRequest::default()
                };
                requests.send(request).await.context("the stream has ended")
            }
            Wire::Delta(requests, _) => {
                let request = DeltaDiscoveryRequest {
                    node,
                    type_url: RESOURCE_TYPE.to_owned(),
                    response_nonce: nonce.to_owned(),
                    error_detail: error,
                    ..DeltaDiscoveryRequest::default()
                };
                requests.send(request).await.context("the stream has ended")
            }
        }
    }

    /// Asks for these from now on, and for nothing else.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn change(&mut self, names: &[&str]) -> Result<()> {
        let new: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let old = std::mem::replace(&mut self.names, new);
        let Wire::Delta(requests, _) = &mut self.wire else {
            let nonce = self.nonce.clone();
            return self.answer(&nonce, None).await;
        };
        let not_in = |all: &[String], other: &[String]| -> Vec<String> {
            all.iter().filter(|name| !other.contains(name)).cloned().collect()
        };
        let request = DeltaDiscoveryRequest {
            type_url: RESOURCE_TYPE.to_owned(),
            resource_names_subscribe: not_in(&self.names, &old),
            resource_names_unsubscribe: not_in(&old, &self.names),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(request).await.context("the stream has ended")
    }
}

fn world(response: DiscoveryResponse) -> Result<Update> {
    let DiscoveryResponse { version_info: version, nonce, resources, type_url, .. } = response;
    ensure!(type_url == RESOURCE_TYPE, "an answer is of the type {type_url}");
    let resources = resources.into_iter().map(|any| named(any, &version)).collect::<Result<_>>()?;
    Ok(Update { version, nonce, resources, removed: Vec::new() })
}

fn delta(response: DeltaDiscoveryResponse) -> Result<Update> {
    let DeltaDiscoveryResponse {
        system_version_info: version,
        nonce,
        resources,
        removed_resources: removed,
        type_url,
        ..
    } = response;
    ensure!(type_url == RESOURCE_TYPE, "an answer is of the type {type_url}");
    let resources = resources.into_iter().map(|resource| {
        let (name, any) = (resource.name, resource.resource.context("a resource without content")?);
        let (inner, version, any) = named(any, &resource.version)?;
        ensure!(inner == name, "a resource is called {name} outside and {inner} inside");
        Ok((name, version, any))
    });
    Ok(Update { version, nonce, resources: resources.collect::<Result<_>>()?, removed })
}

fn named(any: Any, version: &str) -> Result<(String, String, Any)> {
    if any.type_url != RESOURCE_TYPE {
        bail!("a resource is of the type {}", any.type_url);
    }
    let TypedExtensionConfig { name, typed_config } = TypedExtensionConfig::decode(any.value.as_slice())?;
    Ok((name, version.to_owned(), typed_config.context("a resource without content")?))
}
