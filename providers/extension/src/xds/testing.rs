//! What is published, for tests.

use bytes::Bytes;

use super::StreamView;
use crate::{
    access::{Access, AccessGrant, Namespaces},
    identity::EnvoyIdentity,
    name::ExtensionName,
    resource::{EncodedResource, FailurePolicy, FilterType, InlineModule, RUNTIME_V8, ResourceSpec},
    selector::{EnvoyNode, EnvoySelector},
    table::{AfterDeletion, ExtensionTable, PublishedExtension, PublishedVersion},
};

pub(crate) fn name(text: &str) -> ExtensionName {
    ExtensionName::parse(text).unwrap()
}

/// One with this root id.
pub(crate) fn extension(name: &str, root_id: &str) -> PublishedExtension {
    extension_of(name, root_id, EnvoySelector::default(), AfterDeletion::Remove)
}

pub(crate) fn extension_of(
    name: &str,
    root_id: &str,
    selector: EnvoySelector,
    after_deletion: AfterDeletion,
) -> PublishedExtension {
    extension_with(name, root_id, &InlineModule::new(Bytes::from_static(b"module")), selector, after_deletion)
}

pub(crate) fn extension_with(
    name: &str,
    root_id: &str,
    module: &InlineModule,
    selector: EnvoySelector,
    after_deletion: AfterDeletion,
) -> PublishedExtension {
    let name = self::name(name);
    let resource = EncodedResource::new(&ResourceSpec {
        name: &name,
        filter: FilterType::Http,
        runtime: RUNTIME_V8,
        vm_id: "vm",
        root_id,
        module,
        vm_configuration: None,
        plugin_configuration: None,
        failure_policy: FailurePolicy::default(),
    });
    PublishedExtension::new(name, FilterType::Http, resource, selector, after_deletion)
}

/// A table that is complete, and an Envoy of namespace `ns`, which may have those of `granted` too.
pub(crate) struct World {
    pub(crate) table: ExtensionTable,
    access: Access,
    node: EnvoyNode,
}

impl World {
    pub(crate) fn new(extensions: impl IntoIterator<Item = PublishedExtension>) -> Self {
        let world = Self::incomplete(extensions);
        world.table.complete();
        world
    }

    pub(crate) fn incomplete(extensions: impl IntoIterator<Item = PublishedExtension>) -> Self {
        let table = ExtensionTable::default();
        for extension in extensions {
            table.publish(extension);
        }
        let identity =
            EnvoyIdentity::Known { names: ["envoy".to_owned()].into(), namespaces: ["ns".to_owned()].into() };
        let grant = AccessGrant {
            identities: "envoy".parse().unwrap(),
            namespaces: Namespaces::These(["granted".to_owned()].into()),
        };
        Self { table, access: Access::new(&identity, &[grant]), node: EnvoyNode::default() }
    }

    pub(crate) fn publish(&self, name: &str, root_id: &str) {
        self.table.publish(extension(name, root_id));
    }

    pub(crate) fn version(&self, name: &str) -> PublishedVersion {
        self.table.get(&self::name(name)).unwrap().version().clone()
    }

    pub(crate) fn see<T>(&self, look: impl FnOnce(StreamView<'_>) -> T) -> T {
        let published = self.table.subscribe();
        let published = published.borrow();
        look(StreamView { published: &published, access: &self.access, node: &self.node })
    }
}
