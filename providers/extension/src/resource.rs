//! Resources: what Envoy is told of an extension, encoded once.
//!
//! A resource is a `TypedExtensionConfig` whose `Wasm` has the module inline; Envoy is never told to fetch one itself, because it
//! then drops the filter that it has. The module's bytes are not copied into the encoded form: this is what comes before them, they
//! themselves, and what comes after. So extensions of one module share it, and so do all streams.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{name::ExtensionName, no_op};

/// What an `Any` with a [resource](EncodedResource) in it says of it.
pub const RESOURCE_TYPE: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
/// The engine of a stock Envoy.
pub const RUNTIME_V8: &str = "envoy.wasm.runtime.v8";

const STRING_VALUE: &str = "type.googleapis.com/google.protobuf.StringValue";
/// Bytes of a version in hexadecimal digits: half of a hash is enough to tell contents apart.
const VERSION_BYTES: usize = 16;

/// In which chain of Envoy's a filter is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterType {
    /// That of the HTTP connection manager.
    #[default]
    Http,
    /// That of a listener.
    Network,
}

impl FilterType {
    /// The type of the filter's configuration.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Http => "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            Self::Network => "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
        }
    }
}

/// What Envoy does with requests when the module has failed, by the numbers of its `FailurePolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailurePolicy {
    /// They are refused.
    #[default]
    FailClosed,
    /// They pass unfiltered.
    FailOpen,
    /// A new instance is tried.
    FailReload,
}

impl FailurePolicy {
    fn number(self) -> u64 {
        match self {
            Self::FailReload => 1,
            Self::FailClosed => 2,
            Self::FailOpen => 3,
        }
    }
}

/// The bytes of a module, to be shared between resources, and their hash.
#[derive(Clone)]
pub struct InlineModule {
    bytes: Bytes,
    digest: [u8; 32],
}

impl InlineModule {
    /// Hashes the bytes, which takes a while for large ones.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        let digest = Sha256::digest(&bytes).into();
        Self { bytes, digest }
    }

    /// The module.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its SHA-256.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

impl fmt::Debug for InlineModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InlineModule").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// An extension in plain values.
#[derive(Clone)]
pub struct ResourceSpec<'a> {
    /// Which.
    pub name: &'a ExtensionName,
    /// In which chain.
    pub filter: FilterType,
    /// Envoy's name of the engine, such as [`RUNTIME_V8`].
    pub runtime: &'a str,
    /// Extensions of one id, module and VM configuration share a VM.
    pub vm_id: &'a str,
    /// Which root context of the module's.
    pub root_id: &'a str,
    /// The module.
    pub module: &'a InlineModule,
    /// What `proxy_on_vm_start` reads. May be secret.
    pub vm_configuration: Option<&'a str>,
    /// What `proxy_on_configure` reads. May be secret.
    pub plugin_configuration: Option<&'a str>,
    /// What happens once the module has failed.
    pub failure_policy: FailurePolicy,
}

impl fmt::Debug for ResourceSpec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceSpec")
            .field("name", &self.name)
            .field("module", &self.module)
            .finish_non_exhaustive()
    }
}

/// A `TypedExtensionConfig`, encoded, in parts that are shared by all clones. Its text is never shown: there may be secrets in it.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedResource {
    parts: [Bytes; 3],
    hash: Box<str>,
}

impl EncodedResource {
    /// Encodes an extension.
    #[must_use]
    pub fn new(spec: &ResourceSpec<'_>) -> Self {
        let ResourceSpec { module, .. } = spec;
        let string_value = |text: &str| Message::default().string(1, text);
        let any =
            |type_url: &str, message: Message| Message::default().string(1, type_url).message(2, message);
        let configuration = |message: Message, tag, text: Option<&str>| match text {
            Some(text) => message.message(tag, any(STRING_VALUE, string_value(text))),
            None => message,
        };
        let code = Message::inline(2, module.bytes.len());
        // AsyncDataSource, of which DataSource is the local one.
        let code = code.within(1);
        let vm = code.within(3).string(1, spec.vm_id).string(2, spec.runtime);
        let vm = configuration(vm, 4, spec.vm_configuration).number(5, 1);
        let plugin = vm.within(3).string(1, spec.name.as_str()).string(2, spec.root_id);
        let plugin =
            configuration(plugin, 4, spec.plugin_configuration).number(7, spec.failure_policy.number());
        let wasm = plugin.within(1);
        let typed = wasm.within(2).string(1, spec.filter.type_url());
        let Message { before, after, .. } = typed.within(2).string(1, spec.name.as_str());

        let mut hash = Sha256::new();
        for part in [&*before, &module.digest, &*after] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let mut text = String::with_capacity(VERSION_BYTES * 2);
        for byte in hash.finalize().iter().take(VERSION_BYTES) {
            let _ = write!(text, "{byte:02x}");
        }
        Self { parts: [before.into(), module.bytes.clone(), after.into()], hash: text.into() }
    }

    /// A filter of this name that does nothing, for Envoys whose extension is gone.
    #[must_use]
    pub fn no_op(name: &ExtensionName, filter: FilterType) -> Self {
        Self::new(&ResourceSpec {
            name,
            filter,
            runtime: RUNTIME_V8,
            vm_id: "no-op",
            root_id: "",
            module: &InlineModule::new(Bytes::from_static(no_op::MODULE)),
            vm_configuration: None,
            plugin_configuration: None,
            failure_policy: FailurePolicy::FailOpen,
        })
    }

    /// The encoded text, one part after the other.
    #[must_use]
    pub fn parts(&self) -> &[Bytes; 3] {
        &self.parts
    }

    /// Length of the encoded text in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Never: there is always a name in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A hash of the content, in hexadecimal digits: the same for the same content, whoever has encoded it and when.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

impl fmt::Debug for EncodedResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedResource")
            .field("len", &self.len())
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

/// A message that may have the module in it: what comes before the module, and what comes after it.
#[derive(Debug, Default)]
struct Message {
    before: Vec<u8>,
    after: Vec<u8>,
    /// Length of the module, where it is in here.
    inline: usize,
}

impl Message {
    /// One that has nothing but the module, as its field of this tag.
    fn inline(tag: u32, len: usize) -> Self {
        let mut before = Vec::new();
        delimit(tag, len, &mut before);
        Self { before, after: Vec::new(), inline: len }
    }

    fn len(&self) -> usize {
        self.before.len() + self.inline + self.after.len()
    }

    /// The message that has this one as its field of this tag.
    fn within(self, tag: u32) -> Self {
        let mut before = Vec::new();
        delimit(tag, self.len(), &mut before);
        before.extend(self.before);
        Self { before, ..self }
    }

    /// Adds a text, which is left out when it is empty.
    fn string(mut self, tag: u32, text: &str) -> Self {
        if !text.is_empty() {
            delimit(tag, text.len(), &mut self.after);
            self.after.extend_from_slice(text.as_bytes());
        }
        self
    }

    /// Adds a message, which has no module in it.
    fn message(mut self, tag: u32, message: Self) -> Self {
        delimit(tag, message.len(), &mut self.after);
        self.after.extend(message.before);
        self.after.extend(message.after);
        self
    }

    fn number(mut self, tag: u32, number: u64) -> Self {
        encode_key(tag, WireType::Varint, &mut self.after);
        encode_varint(number, &mut self.after);
        self
    }
}

fn delimit(tag: u32, len: usize, text: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, text);
    encode_varint(len as u64, text);
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::{
            config::core::v3::{TypedExtensionConfig, async_data_source, data_source},
            extensions::{filters::http::wasm::v3::Wasm, wasm::v3::plugin_config},
        },
        google::protobuf::{Any, StringValue},
    };
    use prost::Message as _;

    use super::*;

    fn name() -> ExtensionName {
        ExtensionName::parse("ns/filter").unwrap()
    }

    fn spec<'a>(name: &'a ExtensionName, module: &'a InlineModule) -> ResourceSpec<'a> {
        ResourceSpec {
            name,
            filter: FilterType::Http,
            runtime: RUNTIME_V8,
            vm_id: "vm",
            root_id: "root",
            module,
            vm_configuration: Some("of the vm"),
            plugin_configuration: Some(""),
            failure_policy: FailurePolicy::FailOpen,
        }
    }

    fn text(any: Option<Any>) -> String {
        let any = any.unwrap();
        assert_eq!(any.type_url, STRING_VALUE);
        StringValue::decode(&*any.value).unwrap().value
    }

    #[test]
    fn what_is_encoded_is_what_envoy_reads() {
        for size in [0, 1, 127, 128, 70_000] {
            let module = InlineModule::new(vec![7; size].into());
            let resource = EncodedResource::new(&spec(&name(), &module));
            let whole = resource.parts().concat();
            assert_eq!(whole.len(), resource.len());
            let config = TypedExtensionConfig::decode(&*whole).unwrap();
            assert_eq!(config.name, "ns/filter");
            let typed = config.typed_config.unwrap();
            assert_eq!(typed.type_url, FilterType::Http.type_url());
            let plugin = Wasm::decode(&*typed.value).unwrap().config.unwrap();
            assert_eq!((&*plugin.name, &*plugin.root_id, plugin.failure_policy), ("ns/filter", "root", 3));
            assert_eq!(text(plugin.configuration), "");
            let Some(plugin_config::Vm::VmConfig(vm)) = plugin.vm else { panic!("there is a VM") };
            assert_eq!((&*vm.vm_id, &*vm.runtime, vm.allow_precompiled), ("vm", RUNTIME_V8, true));
            assert_eq!(text(vm.configuration), "of the vm");
            let Some(async_data_source::Specifier::Local(source)) = vm.code.unwrap().specifier else {
                panic!("it is inline")
            };
            assert_eq!(source.specifier, Some(data_source::Specifier::InlineBytes(vec![7; size])));
        }
    }

    #[test]
    fn what_is_not_there_is_left_out_and_a_network_filter_is_one() {
        let (name, module) = (name(), InlineModule::new(Bytes::from_static(b"m")));
        let mut spec = spec(&name, &module);
        (spec.filter, spec.vm_configuration, spec.plugin_configuration) = (FilterType::Network, None, None);
        let config = TypedExtensionConfig::decode(&*EncodedResource::new(&spec).parts().concat()).unwrap();
        let typed = config.typed_config.unwrap();
        assert_eq!(typed.type_url, "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm");
        let plugin = Wasm::decode(&*typed.value).unwrap().config.unwrap();
        let Some(plugin_config::Vm::VmConfig(vm)) = plugin.vm else { panic!("there is a VM") };
        assert_eq!((plugin.configuration, vm.configuration), (None, None));
    }

    #[test]
    fn extensions_of_one_module_share_its_bytes() {
        let module = InlineModule::new(vec![0; 100].into());
        let [one, other] = ["ns/a", "ns/b"].map(|name| ExtensionName::parse(name).unwrap());
        let [one, other] = [&one, &other].map(|name| EncodedResource::new(&spec(name, &module)));
        assert_eq!(one.parts()[1].as_ptr(), module.bytes().as_ptr());
        assert_eq!(other.parts()[1].as_ptr(), module.bytes().as_ptr());
        assert_ne!(one.hash(), other.hash());
    }

    #[test]
    fn the_hash_is_that_of_everything_that_is_sent() {
        let (name, other_name) = (name(), ExtensionName::parse("ns/other").unwrap());
        let module = InlineModule::new(Bytes::from_static(b"one"));
        let other_module = InlineModule::new(Bytes::from_static(b"two"));
        let spec = spec(&name, &module);
        let hash = |spec: &ResourceSpec<'_>| EncodedResource::new(spec).hash().to_owned();
        let mut all = vec![
            hash(&spec),
            hash(&ResourceSpec { name: &other_name, ..spec.clone() }),
            hash(&ResourceSpec { filter: FilterType::Network, ..spec.clone() }),
            hash(&ResourceSpec { runtime: "r", ..spec.clone() }),
            hash(&ResourceSpec { vm_id: "v", ..spec.clone() }),
            hash(&ResourceSpec { root_id: "r", ..spec.clone() }),
            hash(&ResourceSpec { module: &other_module, ..spec.clone() }),
            hash(&ResourceSpec { vm_configuration: Some("x"), ..spec.clone() }),
            hash(&ResourceSpec { vm_configuration: None, ..spec.clone() }),
            hash(&ResourceSpec { plugin_configuration: Some("x"), ..spec.clone() }),
            hash(&ResourceSpec { plugin_configuration: None, ..spec.clone() }),
            hash(&ResourceSpec { failure_policy: FailurePolicy::FailClosed, ..spec.clone() }),
        ];
        assert_eq!(all[0], hash(&spec), "it does not change by itself");
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn no_secret_is_in_what_is_logged() {
        let (name, module) = (name(), InlineModule::new(Bytes::from_static(b"m")));
        let spec = spec(&name, &module);
        for text in [format!("{spec:?}"), format!("{:?}", EncodedResource::new(&spec))] {
            assert!(!text.contains("of the vm"), "{text}");
        }
    }
}
