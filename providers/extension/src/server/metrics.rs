//! What the server tells monitoring. Names of extensions and of Envoys are not in it: statuses have those.

use std::fmt;

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The content type of [`ServerMetrics::text`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = [(&'static str, &'static str); 1];

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct ServerMetrics {
    registry: Registry,
    /// By variant.
    streams: Family<Labels, Gauge>,
    pub(super) subscriptions: Gauge,
    pushes: Family<Labels, Counter>,
    pub(super) acks: Counter,
    pub(super) nacks: Counter,
    pub(super) bytes: Counter,
    refused: Family<Labels, Counter>,
}

impl ServerMetrics {
    /// Together with what is in the registry already.
    pub(super) fn new(mut registry: Registry) -> Self {
        let (streams, pushes, refused) = (Family::default(), Family::default(), Family::default());
        let (subscriptions, acks, nacks, bytes) =
            (Gauge::default(), Counter::default(), Counter::default(), Counter::default());
        let ours = registry.sub_registry_with_prefix("kubewasm_extension");
        ours.register("streams", "Streams that are open, by variant of the protocol", streams.clone());
        ours.register("subscriptions", "Names that these ask for", subscriptions.clone());
        ours.register("pushes", "Responses, by variant of the protocol", pushes.clone());
        ours.register("acks", "Responses that were accepted", acks.clone());
        ours.register("nacks", "Responses that were refused", nacks.clone());
        ours.register("response_bytes", "Bytes of responses", bytes.clone());
        ours.register("refused", "What was asked for in vain, by reason", refused.clone());
        Self { registry, streams, subscriptions, pushes, acks, nacks, bytes, refused }
    }

    pub(super) fn streams(&self, variant: &'static str) -> Gauge {
        self.streams.get_or_create_owned(&[("variant", variant)])
    }

    pub(super) fn pushed(&self, variant: &'static str, bytes: usize) {
        self.pushes.get_or_create(&[("variant", variant)]).inc();
        self.bytes.inc_by(bytes as u64);
    }

    pub(super) fn refused(&self, reason: RefusedReason) {
        self.refused_by(reason, 1);
    }

    pub(super) fn refused_by(&self, reason: RefusedReason, count: u64) {
        self.refused.get_or_create(&[("reason", reason.name())]).inc_by(count);
    }

    /// All of it, as OpenMetrics.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Why something was asked for in vain.
#[derive(Clone, Copy, Debug)]
pub(super) enum RefusedReason {
    /// It is not known who asks.
    Unauthenticated,
    /// There are too many streams.
    Streams,
    /// A stream asks for too many names.
    Names,
    /// The extension is of a namespace that the Envoy may not have.
    Forbidden,
    /// A stream says nothing, or something that is not to be understood.
    Invalid,
    /// The type of what is asked for is another one.
    Type,
    /// Nobody reads the stream.
    Stalled,
}

impl RefusedReason {
    fn name(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Streams => "streams",
            Self::Names => "names",
            Self::Forbidden => "forbidden",
            Self::Invalid => "invalid",
            Self::Type => "type",
            Self::Stalled => "stalled",
        }
    }
}
