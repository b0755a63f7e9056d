//! The two variants of the protocol, between the messages of gRPC and the state of a stream.

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
};
use tonic::Status;

use super::wire::{self, MessageParts};
use crate::xds::{
    DeltaRequest, DeltaStream, SotwRequest, SotwStream, StreamEvent, StreamUpdate, StreamView, TooManyNames,
    UpdateContent,
};

/// A variant, with the state of one stream.
pub(super) trait StreamVariant: Send + 'static {
    /// What an Envoy sends.
    type Message: prost::Message + Default + Send + 'static;

    /// For metrics.
    const NAME: &'static str;

    fn new(most_names: usize) -> Self;

    /// The type of what is asked for, and who asks, which is in the first message alone.
    fn head(message: &mut Self::Message) -> (&str, Option<Node>);

    fn request(
        &mut self,
        message: Self::Message,
        view: StreamView<'_>,
    ) -> Result<Vec<StreamEvent>, TooManyNames>;

    fn look_at_all(&mut self);

    fn next(&mut self, view: StreamView<'_>) -> Option<(Option<StreamUpdate>, StreamEvent)>;

    fn encode(update: &StreamUpdate) -> Result<MessageParts, Status>;

    /// Names that are asked for.
    fn len(&self) -> usize;
}

impl StreamVariant for SotwStream {
    type Message = DiscoveryRequest;

    const NAME: &'static str = "sotw";

    fn new(most_names: usize) -> Self {
        Self::new(most_names)
    }

    fn head(message: &mut DiscoveryRequest) -> (&str, Option<Node>) {
        (&message.type_url, message.node.take())
    }

    fn request(
        &mut self,
        message: DiscoveryRequest,
        view: StreamView<'_>,
    ) -> Result<Vec<StreamEvent>, TooManyNames> {
        let request = SotwRequest {
            names: message.resource_names,
            version_info: message.version_info,
            nonce: message.response_nonce,
            error: message.error_detail.map(|status| status.message),
        };
        self.request(request, view)
    }

    fn look_at_all(&mut self) {
        self.look_at_all();
    }

    fn next(&mut self, view: StreamView<'_>) -> Option<(Option<StreamUpdate>, StreamEvent)> {
        self.next(view)
    }

    fn encode(update: &StreamUpdate) -> Result<MessageParts, Status> {
        let resources: &[_] = match &update.content {
            UpdateContent::Extension(extension) => &[extension.resource()],
            UpdateContent::Removed(_) => &[],
        };
        wire::state_of_the_world(&update.version_info, &update.nonce, resources)
    }

    fn len(&self) -> usize {
        self.len()
    }
}

impl StreamVariant for DeltaStream {
    type Message = DeltaDiscoveryRequest;

    const NAME: &'static str = "delta";

    fn new(most_names: usize) -> Self {
        Self::new(most_names)
    }

    fn head(message: &mut DeltaDiscoveryRequest) -> (&str, Option<Node>) {
        (&message.type_url, message.node.take())
    }

    fn request(
        &mut self,
        message: DeltaDiscoveryRequest,
        view: StreamView<'_>,
    ) -> Result<Vec<StreamEvent>, TooManyNames> {
        let request = DeltaRequest {
            subscribe: message.resource_names_subscribe,
            unsubscribe: message.resource_names_unsubscribe,
            initial_versions: message.initial_resource_versions,
            nonce: message.response_nonce,
            error: message.error_detail.map(|status| status.message),
        };
        self.request(request, view)
    }

    fn look_at_all(&mut self) {
        self.look_at_all();
    }

    fn next(&mut self, view: StreamView<'_>) -> Option<(Option<StreamUpdate>, StreamEvent)> {
        self.next(view)
    }

    fn encode(update: &StreamUpdate) -> Result<MessageParts, Status> {
        wire::delta(update)
    }

    fn len(&self) -> usize {
        self.len()
    }
}
