//! The services: extension discovery, and aggregated discovery.
//!
//! They are not those that are generated of their definitions: those copy each message for each stream.

use std::{collections::BTreeSet, marker::PhantomData, sync::Arc};

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use futures::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use kubewasm_control::listener::Peer;
use tonic::{
    Status, Streaming,
    codec::{BufferSettings, DecodeBuf, Decoder},
};

use super::{
    ServerState,
    body::GrpcBody,
    metrics::RefusedReason,
    stream::{DiscoveryStream, Service, StreamClient},
    streams::StreamTicket,
    variant::StreamVariant,
    wire::{self, MessageParts},
};
use crate::{
    access::Access,
    identity::{EnvoyIdentity, IdentityFailure},
    name::ExtensionName,
    resource::RESOURCE_TYPE,
    selector::EnvoyNode,
    xds::{DeltaStream, Sight, SotwStream, StreamView, TooManyNames, version_of_all},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Sotw(Service),
    Delta(Service),
    Fetch,
}

impl Call {
    fn of(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        match (service, method) {
            ("envoy.service.extension.v3.ExtensionConfigDiscoveryService", "StreamExtensionConfigs") => {
                Some(Self::Sotw(Service::Extensions))
            }
            ("envoy.service.extension.v3.ExtensionConfigDiscoveryService", "DeltaExtensionConfigs") => {
                Some(Self::Delta(Service::Extensions))
            }
            ("envoy.service.extension.v3.ExtensionConfigDiscoveryService", "FetchExtensionConfigs") => {
                Some(Self::Fetch)
            }
            ("envoy.service.discovery.v3.AggregatedDiscoveryService", "StreamAggregatedResources") => {
                Some(Self::Sotw(Service::Aggregated))
            }
            ("envoy.service.discovery.v3.AggregatedDiscoveryService", "DeltaAggregatedResources") => {
                Some(Self::Delta(Service::Aggregated))
            }
            _ => None,
        }
    }
}

/// The answer to a request.
pub(super) async fn answer(state: Arc<ServerState>, request: Request<Incoming>) -> Response<GrpcBody> {
    if request.method() != Method::POST || !is_grpc(request.headers()) {
        let mut response = GrpcBody::refusal(Status::internal("only gRPC is spoken here"));
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    match call(state, request).await {
        Ok(response) => response,
        Err(status) => GrpcBody::refusal(status),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let rest = kind.strip_prefix("application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("+proto") || rest.starts_with(';'))
}

async fn call(state: Arc<ServerState>, request: Request<Incoming>) -> Result<Response<GrpcBody>, Status> {
    let call = Call::of(request.uri().path())
        .ok_or_else(|| Status::unimplemented("there are extension and aggregated discovery here"))?;
    let (parts, body) = request.into_parts();
    let peer = parts.extensions.get::<Arc<Peer>>().ok_or_else(|| Status::internal("a request of nobody"))?;
    let identity = state.authentication.identify(peer, &parts.headers).await.map_err(|failure| {
        state.metrics.refused(RefusedReason::Unauthenticated);
        tracing::info!(peer = %peer.address, reason = %failure, "an Envoy is not served");
        match failure {
            IdentityFailure::Unavailable => Status::unavailable(failure.to_string()),
            _ => Status::unauthenticated(failure.to_string()),
        }
    })?;
    // Who is not asked is told apart by the address.
    let name = match &identity {
        EnvoyIdentity::Anyone => peer.address.ip().to_string(),
        EnvoyIdentity::Known { .. } => identity.to_string(),
    };
    let ticket = state.streams.admit(name.clone(), Arc::clone(peer)).map_err(|full| {
        state.metrics.refused(RefusedReason::Streams);
        Status::resource_exhausted(full.to_string())
    })?;
    let access = Access::new(&identity, &state.grants);
    let client = StreamClient { peer: Arc::clone(peer), identity: name, access };
    match call {
        Call::Sotw(service) => Ok(stream::<SotwStream>(service, body, client, state, ticket)),
        Call::Delta(service) => Ok(stream::<DeltaStream>(service, body, client, state, ticket)),
        Call::Fetch => fetch(body, &client, &state, ticket).await,
    }
}

fn stream<V: StreamVariant>(
    service: Service,
    body: Incoming,
    client: StreamClient,
    state: Arc<ServerState>,
    ticket: StreamTicket,
) -> Response<GrpcBody> {
    let requests = messages(body, &state);
    let progress = Arc::clone(&ticket.progress);
    let stream = DiscoveryStream::<V>::new(service, requests, client, state, ticket);
    GrpcBody::new(stream.responses(), progress).response()
}

/// What is published now, of the names that are asked for.
async fn fetch(
    body: Incoming,
    client: &StreamClient,
    state: &ServerState,
    ticket: StreamTicket,
) -> Result<Response<GrpcBody>, Status> {
    let mut requests: Streaming<DiscoveryRequest> = messages(body, state);
    let request = tokio::time::timeout(state.bounds.first_message, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no request has come"))??
        .ok_or_else(|| Status::invalid_argument("there is no request"))?;
    if !matches!(&*request.type_url, "" | RESOURCE_TYPE) {
        state.metrics.refused(RefusedReason::Type);
        return Err(Status::invalid_argument(format!("there are only {RESOURCE_TYPE} here")));
    }
    let names: BTreeSet<_> =
        request.resource_names.iter().filter_map(|name| ExtensionName::parse(name).ok()).collect();
    if names.len() > state.bounds.names {
        state.metrics.refused(RefusedReason::Names);
        return Err(Status::resource_exhausted(TooManyNames(state.bounds.names).to_string()));
    }
    let node = EnvoyNode::new(request.node.unwrap_or_default());
    let message = fetched(&names, &node, client, state)?;
    state.metrics.pushed("fetch", message.iter().map(bytes::Bytes::len).sum());
    let progress = Arc::clone(&ticket.progress);
    // The place is kept as long as the message is sent.
    let messages = stream::unfold((Some(message), ticket), |(message, ticket)| async {
        message.map(|message| (Ok(message), (None, ticket)))
    });
    Ok(GrpcBody::new(messages, progress).response())
}

fn fetched(
    names: &BTreeSet<ExtensionName>,
    node: &EnvoyNode,
    client: &StreamClient,
    state: &ServerState,
) -> Result<MessageParts, Status> {
    let published = state.published.borrow();
    let view = StreamView { published: &published, access: &client.access, node };
    let shown: Vec<_> = names
        .iter()
        .filter_map(|name| match view.sight(name) {
            Sight::Shown(extension) => Some(extension),
            Sight::Unsettled | Sight::Absent => None,
        })
        .collect();
    let version =
        version_of_all(shown.iter().map(|extension| (extension.name(), extension.version(), false)));
    let resources: Vec<_> = shown.iter().map(|extension| extension.resource()).collect();
    wire::state_of_the_world(&version, "", &resources)
}

fn messages<M: prost::Message + Default + Send + 'static>(
    body: Incoming,
    state: &ServerState,
) -> Streaming<M> {
    Streaming::new_request(MessageDecoder(PhantomData), body, None, Some(state.bounds.request_size))
}

/// Bytes that are set aside for the requests of one stream, which are small.
const REQUEST_BUFFER: usize = 1024;

/// Reads messages of protobuf.
struct MessageDecoder<M>(PhantomData<fn() -> M>);

impl<M: prost::Message + Default> Decoder for MessageDecoder<M> {
    type Item = M;
    type Error = Status;

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(REQUEST_BUFFER, REQUEST_BUFFER)
    }

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        M::decode(buffer)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("a request cannot be read: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_is_defined_is_called() {
        let extensions = "/envoy.service.extension.v3.ExtensionConfigDiscoveryService";
        let aggregated = "/envoy.service.discovery.v3.AggregatedDiscoveryService";
        for (path, expected) in [
            (format!("{extensions}/StreamExtensionConfigs"), Some(Call::Sotw(Service::Extensions))),
            (format!("{extensions}/DeltaExtensionConfigs"), Some(Call::Delta(Service::Extensions))),
            (format!("{extensions}/FetchExtensionConfigs"), Some(Call::Fetch)),
            (format!("{aggregated}/StreamAggregatedResources"), Some(Call::Sotw(Service::Aggregated))),
            (format!("{aggregated}/DeltaAggregatedResources"), Some(Call::Delta(Service::Aggregated))),
            (format!("{aggregated}/StreamExtensionConfigs"), None),
            ("/".to_owned(), None),
            (extensions.to_owned(), None),
        ] {
            assert_eq!(Call::of(&path), expected, "{path}");
        }
    }

    #[test]
    fn grpc_is_told_by_its_type() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc+json", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
