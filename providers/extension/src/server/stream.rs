//! One stream: requests and what is published on one side, responses on the other, whenever the Envoy takes one.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, Stream, stream};
use jiff::Timestamp;
use kubewasm_control::listener::Peer;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{sync::watch, time::Instant};
use tonic::{Code, Status, Streaming};

use super::{
    ServerState, metrics::RefusedReason, streams::StreamTicket, variant::StreamVariant, wire::MessageParts,
};
use crate::{
    access::Access,
    name::ExtensionName,
    resource::RESOURCE_TYPE,
    selector::EnvoyNode,
    subscribers::{Subscription, shown},
    table::Published,
    xds::{StreamEvent, StreamView},
};

/// Most requests that are looked at before what is due is sent.
const MOST_REQUESTS: usize = 16;

/// Of what service a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// That of extensions alone.
    Extensions,
    /// That of everything, of which there are the extensions here.
    Aggregated,
}

/// Who is at the other end.
#[derive(Debug)]
pub(super) struct StreamClient {
    pub(super) peer: Arc<Peer>,
    /// As it is shown.
    pub(super) identity: String,
    pub(super) access: Access,
}

pub(super) struct DiscoveryStream<V: StreamVariant> {
    variant: V,
    service: Service,
    requests: Streaming<V::Message>,
    published: watch::Receiver<Published>,
    client: StreamClient,
    /// What it said in its first message; none before that.
    node: Option<EnvoyNode>,
    subscriptions: HashMap<ExtensionName, Subscription>,
    counted: StreamCount,
    /// Whether it was said once that it asks for what it may not have, and for what is not here.
    is_forbidden_told: bool,
    is_type_told: bool,
    first_message: Instant,
    state: Arc<ServerState>,
    _ticket: StreamTicket,
}

impl<V: StreamVariant> DiscoveryStream<V> {
    pub(super) fn new(
        service: Service,
        requests: Streaming<V::Message>,
        client: StreamClient,
        state: Arc<ServerState>,
        ticket: StreamTicket,
    ) -> Self {
        let mut published = state.table.subscribe();
        published.mark_unchanged();
        tracing::debug!(client = ?client.identity, peer = %client.peer.address, variant = V::NAME, "a stream is open");
        Self {
            variant: V::new(state.bounds.names),
            service,
            requests,
            published,
            client,
            node: None,
            subscriptions: HashMap::new(),
            counted: StreamCount::new(&state, V::NAME),
            is_forbidden_told: false,
            is_type_told: false,
            first_message: Instant::now() + state.bounds.first_message,
            state,
            _ticket: ticket,
        }
    }

    /// All responses. A status that is an error is the last.
    pub(super) fn responses(self) -> impl Stream<Item = Result<MessageParts, Status>> + Send + 'static {
        stream::unfold(Some(self), |stream| async {
            let mut stream = stream?;
            match stream.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(stream))),
                Ok(None) => None,
                Err(status) => {
                    tracing::debug!(client = ?stream.client.identity, %status, "a stream is ended");
                    Some((Err(status), None))
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Option<MessageParts>, Status> {
        loop {
            // What has come first: it may be that less is wanted now.
            for _ in 0..MOST_REQUESTS {
                match self.requests.message().now_or_never() {
                    None => break,
                    Some(message) => match message.map_err(|status| self.invalid(status))? {
                        Some(message) => self.take(message)?,
                        None => return Ok(None),
                    },
                }
            }
            if self.published.has_changed().unwrap_or_default() {
                self.published.mark_unchanged();
                self.variant.look_at_all();
            }
            if let Some(response) = self.due()? {
                return Ok(Some(response));
            }
            let is_first = self.node.is_none();
            tokio::select! {
                () = self.client.peer.going.cancelled() => {
                    return Err(Status::unavailable("this server asks its clients to connect anew"));
                }
                message = self.requests.message() => match message {
                    Ok(Some(message)) => self.take(message)?,
                    Ok(None) => return Ok(None),
                    Err(status) => return Err(self.invalid(status)),
                },
                changed = self.published.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("this server stops"));
                    }
                    self.variant.look_at_all();
                }
                () = tokio::time::sleep_until(self.first_message), if is_first => {
                    self.state.metrics.refused(RefusedReason::Invalid);
                    return Err(Status::deadline_exceeded("a stream begins with a request, and none has come"));
                }
            }
        }
    }

    /// Counts what cannot be read, apart from connections that are gone.
    fn invalid(&self, status: Status) -> Status {
        if !matches!(status.code(), Code::Cancelled | Code::Unavailable | Code::Unknown) {
            self.state.metrics.refused(RefusedReason::Invalid);
        }
        status
    }

    /// Takes in a request.
    fn take(&mut self, mut message: V::Message) -> Result<(), Status> {
        let (kind, node) = V::head(&mut message);
        match (kind, self.service) {
            (RESOURCE_TYPE, _) | ("", Service::Extensions) => {}
            ("", Service::Aggregated) => {
                self.state.metrics.refused(RefusedReason::Invalid);
                return Err(Status::invalid_argument("a request to the aggregated service names a type"));
            }
            (other, Service::Extensions) => {
                self.state.metrics.refused(RefusedReason::Type);
                let other = shown(other);
                return Err(Status::invalid_argument(format!(
                    "there are only {RESOURCE_TYPE} here, and no {other}"
                )));
            }
            // The Envoy waits for those in vain, and for nothing else: an error would take its extensions as well.
            (other, Service::Aggregated) => {
                self.state.metrics.refused(RefusedReason::Type);
                if !std::mem::replace(&mut self.is_type_told, true) {
                    let kind = shown(other);
                    tracing::warn!(client = ?self.client.identity, kind, "a stream asks for a type that is not served");
                }
                self.node.get_or_insert_with(|| EnvoyNode::new(node.unwrap_or_default()));
                return Ok(());
            }
        }
        let node = &*self.node.get_or_insert_with(|| EnvoyNode::new(node.unwrap_or_default()));
        let published = self.published.borrow();
        let view = StreamView { published: &published, access: &self.client.access, node };
        let events = self.variant.request(message, view);
        drop(published);
        let events = events.map_err(|error| {
            self.state.metrics.refused(RefusedReason::Names);
            Status::resource_exhausted(error.to_string())
        })?;
        self.counted.subscriptions(self.variant.len());
        for event in events {
            self.note(event);
        }
        Ok(())
    }

    /// The response that is due.
    fn due(&mut self) -> Result<Option<MessageParts>, Status> {
        loop {
            let Some(node) = &self.node else { return Ok(None) };
            let published = self.published.borrow();
            let view = StreamView { published: &published, access: &self.client.access, node };
            let due = self.variant.next(view);
            drop(published);
            let Some((update, event)) = due else { return Ok(None) };
            let response = update.as_ref().map(V::encode).transpose()?;
            if let Some(response) = &response {
                self.state.metrics.pushed(V::NAME, response.iter().map(Bytes::len).sum());
            }
            self.note(event);
            if response.is_some() {
                return Ok(response);
            }
        }
    }

    fn note(&mut self, event: StreamEvent) {
        let ServerState { metrics, subscribers, .. } = &*self.state;
        match event {
            StreamEvent::Held(name, version) => {
                let subscription = subscribers.held(&name, &version);
                self.subscriptions.insert(name, subscription);
            }
            StreamEvent::Sent(name, version) => {
                let subscription = subscribers.sent(&name, &version);
                self.subscriptions.insert(name, subscription);
            }
            StreamEvent::Accepted(name) => {
                metrics.acks.inc();
                if let Some(subscription) = self.subscriptions.get_mut(&name) {
                    subscription.accepted();
                }
            }
            StreamEvent::Refused(name, error) => {
                metrics.nacks.inc();
                let node = self.node.as_ref().map_or("", |node| &node.id);
                tracing::warn!(extension = %name, node = ?node, error = shown(&error), "an Envoy refuses an extension");
                if let Some(subscription) = self.subscriptions.get_mut(&name) {
                    subscription.refused(node, &error, Timestamp::now());
                }
            }
            StreamEvent::Left(name) => {
                self.subscriptions.remove(&name);
            }
            StreamEvent::Forbidden(name) => {
                metrics.refused(RefusedReason::Forbidden);
                if !std::mem::replace(&mut self.is_forbidden_told, true) {
                    tracing::warn!(
                        client = ?self.client.identity, extension = %name,
                        "an Envoy asks for an extension of a namespace that it has no access to"
                    );
                }
            }
        }
    }
}

/// What a stream adds to the numbers of streams and of names.
struct StreamCount {
    streams: Gauge,
    names: Gauge,
    counted: i64,
}

impl StreamCount {
    fn new(state: &ServerState, variant: &'static str) -> Self {
        let streams = state.metrics.streams(variant);
        streams.inc();
        Self { streams, names: state.metrics.subscriptions.clone(), counted: 0 }
    }

    fn subscriptions(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.names.inc_by(count - std::mem::replace(&mut self.counted, count));
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.streams.dec();
        self.names.dec_by(self.counted);
    }
}
