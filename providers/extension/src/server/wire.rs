//! Responses, encoded: what comes before a resource, the resource's own bytes, which are shared, and what comes after.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Status;

use crate::{
    resource::{EncodedResource, RESOURCE_TYPE},
    table::PublishedExtension,
    xds::{StreamUpdate, UpdateContent},
};

/// Bytes before each message of gRPC: whether it is compressed, and its length.
const GRPC_HEADER: usize = 5;

/// A message of gRPC, in the order of its parts.
pub(super) type MessageParts = Vec<Bytes>;

/// A `DiscoveryResponse`.
pub(super) fn state_of_the_world(
    version_info: &str,
    nonce: &str,
    resources: &[&EncodedResource],
) -> Result<MessageParts, Status> {
    let mut message = Message::default();
    message.string(1, version_info);
    for resource in resources {
        message.open(2, any_len(resource));
        message.any(resource);
    }
    message.string(4, RESOURCE_TYPE);
    message.string(5, nonce);
    message.finish()
}

/// A `DeltaDiscoveryResponse`.
pub(super) fn delta(update: &StreamUpdate) -> Result<MessageParts, Status> {
    let mut message = Message::default();
    message.string(1, &update.version_info);
    if let UpdateContent::Extension(extension) = &update.content {
        message.delta_resource(extension);
    }
    message.string(4, RESOURCE_TYPE);
    message.string(5, &update.nonce);
    if let UpdateContent::Removed(name) = &update.content {
        message.string(6, name.as_str());
    }
    message.finish()
}

#[derive(Default)]
struct Message {
    /// What is complete.
    parts: Vec<Bytes>,
    /// What comes after it.
    open: Vec<u8>,
}

impl Message {
    fn string(&mut self, tag: u32, text: &str) {
        if !text.is_empty() {
            self.open(tag, text.len());
            self.open.extend_from_slice(text.as_bytes());
        }
    }

    /// Begins a field of this length.
    fn open(&mut self, tag: u32, len: usize) {
        encode_key(tag, WireType::LengthDelimited, &mut self.open);
        encode_varint(len as u64, &mut self.open);
    }

    /// The fields of an `Any` with this resource in it.
    fn any(&mut self, resource: &EncodedResource) {
        self.string(1, RESOURCE_TYPE);
        self.open(2, resource.len());
        self.parts.push(std::mem::take(&mut self.open).into());
        self.parts.extend(resource.parts().iter().filter(|part| !part.is_empty()).cloned());
    }

    /// The `Resource` of a delta response.
    fn delta_resource(&mut self, extension: &PublishedExtension) {
        let (name, version) = (extension.name().as_str(), extension.version().as_str());
        let any_len = any_len(extension.resource());
        let len = delimited_len(3, name.len()) + delimited_len(1, version.len()) + delimited_len(2, any_len);
        self.open(2, len);
        self.string(3, name);
        self.string(1, version);
        self.open(2, any_len);
        self.any(extension.resource());
    }

    fn finish(self) -> Result<MessageParts, Status> {
        let Self { mut parts, open } = self;
        parts.push(open.into());
        let len: usize = parts.iter().map(Bytes::len).sum();
        let len = u32::try_from(len).map_err(|_| {
            Status::resource_exhausted("the response is larger than a message of gRPC can be")
        })?;
        let mut header = Vec::with_capacity(GRPC_HEADER);
        header.push(0);
        header.extend(len.to_be_bytes());
        parts.insert(0, header.into());
        Ok(parts)
    }
}

fn any_len(resource: &EncodedResource) -> usize {
    delimited_len(1, RESOURCE_TYPE.len()) + delimited_len(2, resource.len())
}

/// Length of a field with this content, its key included.
fn delimited_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::{
        config::core::v3::TypedExtensionConfig,
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
    };
    use prost::Message as _;

    use super::*;
    use crate::xds::testing::extension;

    fn decode<M: prost::Message + Default>(parts: &MessageParts) -> M {
        let whole = parts.concat();
        let (header, message) = whole.split_at(GRPC_HEADER);
        assert_eq!(header[0], 0);
        assert_eq!(u32::from_be_bytes(header[1..].try_into().unwrap()) as usize, message.len());
        M::decode(message).unwrap()
    }

    #[test]
    fn a_response_is_what_others_read_and_copies_no_module() {
        let extension = Arc::new(extension("ns/a", "1"));
        let module = extension.resource().parts()[1].as_ptr();
        let resource: Vec<u8> = extension.resource().parts().concat();
        assert_eq!(TypedExtensionConfig::decode(&*resource).unwrap().name, "ns/a");

        let parts = state_of_the_world("v", "7", &[extension.resource(), extension.resource()]).unwrap();
        assert_eq!(parts.iter().filter(|part| part.as_ptr() == module).count(), 2);
        let response: DiscoveryResponse = decode(&parts);
        assert_eq!(
            (&*response.version_info, &*response.nonce, &*response.type_url),
            ("v", "7", RESOURCE_TYPE)
        );
        for any in &response.resources {
            assert_eq!((&*any.type_url, &any.value), (RESOURCE_TYPE, &resource));
        }
        assert_eq!(response.resources.len(), 2);

        let update = |content| StreamUpdate { content, version_info: "v".into(), nonce: "8".into() };
        let parts = delta(&update(UpdateContent::Extension(Arc::clone(&extension)))).unwrap();
        assert!(parts.iter().any(|part| part.as_ptr() == module));
        let response: DeltaDiscoveryResponse = decode(&parts);
        assert_eq!((&*response.nonce, &*response.type_url), ("8", RESOURCE_TYPE));
        let sent = &response.resources[0];
        assert_eq!((&*sent.name, &*sent.version), ("ns/a", extension.version().as_str()));
        assert_eq!(sent.resource.as_ref().unwrap().value, resource);

        let response: DeltaDiscoveryResponse =
            decode(&delta(&update(UpdateContent::Removed(extension.name().clone()))).unwrap());
        assert_eq!((response.resources.len(), response.removed_resources), (0, vec!["ns/a".to_owned()]));
    }
}
