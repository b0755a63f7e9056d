//! What guests call.

use std::sync::Arc;

use kubewasm_host::GuestState;
use wasmtime::{
    StoreContextMut,
    component::{HasData, LinkerInstance, Resource, ResourceTableError},
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::{
    BlobError, BlobRange, BlobStores, IncomingValue, ObjectNames, OpenContainer, OutgoingValue, copy,
    pipe::EarlyBytes,
};
use crate::{
    host_interface::{GuestView, guest_view},
    interfaces::bindings::blobstore::wasi::blobstore::{blobstore, container, types},
};

/// The version of the interfaces.
pub(super) const VERSION: &str = "0.2.0-draft";

/// What an instance has of the interface.
#[derive(Clone, Debug)]
pub(super) struct BlobGuest {
    pub(super) stores: Arc<BlobStores>,
    pub(super) early: EarlyBytes,
}

type View<'a> = GuestView<'a, BlobGuest>;

struct HasBlobs;

impl HasData for HasBlobs {
    type Data<'a> = View<'a>;
}

/// Defines one of the interfaces.
pub(super) fn link(linker: &mut LinkerInstance<'_, GuestState>, interface: &str) -> wasmtime::Result<()> {
    match interface {
        "types" => types::add_to_linker_instance::<_, HasBlobs>(linker, guest_view::<BlobGuest>),
        "container" => container::add_to_linker_instance::<_, HasBlobs>(linker, guest_view::<BlobGuest>),
        "blobstore" => blobstore::add_to_linker_instance::<_, HasBlobs>(linker, guest_view::<BlobGuest>),
        other => wasmtime::bail!("wasi:blobstore has no interface {other}"),
    }
}

/// Defines the functions of `blobstore` once more, for an import that says which back end it is about.
pub(super) fn link_labelled(
    linker: &mut LinkerInstance<'_, GuestState>,
    label: &str,
) -> wasmtime::Result<()> {
    macro_rules! labelled {
        ($name:literal, $function:ident, ($($argument:ident: $type:ty),+)) => {{
            let label: Arc<str> = label.into();
            linker.func_wrap_async(
                $name,
                move |mut store: StoreContextMut<'_, GuestState>, ($($argument,)+): ($($type,)+)| {
                    let label = Arc::clone(&label);
                    Box::new(async move {
                        let mut view = guest_view::<BlobGuest>(store.data_mut());
                        Ok((view.$function(Some(&label), $($argument),+).await,))
                    })
                },
            )?;
        }};
    }
    labelled!("create-container", create_of, (name: String));
    labelled!("get-container", get_of, (name: String));
    labelled!("delete-container", delete_of, (name: String));
    labelled!("container-exists", exists_of, (name: String));
    labelled!("copy-object", copy_of, (from: types::ObjectId, to: types::ObjectId));
    labelled!("move-object", move_of, (from: types::ObjectId, to: types::ObjectId));
    Ok(())
}

impl From<ResourceTableError> for BlobError {
    fn from(error: ResourceTableError) -> Self {
        Self::new(error.to_string())
    }
}

fn told<T>(result: Result<T, BlobError>) -> Result<T, String> {
    result.map_err(|error| error.0)
}

impl View<'_> {
    fn container(&self, container: &Resource<OpenContainer>) -> Result<OpenContainer, String> {
        told(self.table.get(container).cloned().map_err(BlobError::from))
    }

    fn named(&self, label: Option<&str>, name: &str) -> Result<OpenContainer, String> {
        told(self.state.stores.container(label, name))
    }

    async fn create_of(
        &mut self,
        label: Option<&str>,
        name: String,
    ) -> Result<Resource<OpenContainer>, String> {
        let container = self.named(label, &name)?;
        told(container.create().await)?;
        told(self.table.push(container).map_err(BlobError::from))
    }

    async fn get_of(&mut self, label: Option<&str>, name: String) -> Result<Resource<OpenContainer>, String> {
        let container = self.named(label, &name)?;
        told(told(container.created().await)?.ok_or_else(|| BlobError::no_container(&name)))?;
        told(self.table.push(container).map_err(BlobError::from))
    }

    async fn delete_of(&mut self, label: Option<&str>, name: String) -> Result<(), String> {
        told(self.named(label, &name)?.delete().await)
    }

    async fn exists_of(&mut self, label: Option<&str>, name: String) -> Result<bool, String> {
        Ok(told(self.named(label, &name)?.created().await)?.is_some())
    }

    async fn copy_of(
        &mut self,
        label: Option<&str>,
        from: types::ObjectId,
        to: types::ObjectId,
    ) -> Result<(), String> {
        let (source, target) = (self.named(label, &from.container)?, self.named(label, &to.container)?);
        told(copy::copy((&source, &from.object), (&target, &to.object)).await)
    }

    async fn move_of(
        &mut self,
        label: Option<&str>,
        from: types::ObjectId,
        to: types::ObjectId,
    ) -> Result<(), String> {
        let (source, target) = (self.named(label, &from.container)?, self.named(label, &to.container)?);
        told(copy::rename((&source, &from.object), (&target, &to.object)).await)
    }
}

impl blobstore::Host for View<'_> {
    async fn create_container(&mut self, name: String) -> Result<Resource<OpenContainer>, String> {
        self.create_of(None, name).await
    }

    async fn get_container(&mut self, name: String) -> Result<Resource<OpenContainer>, String> {
        self.get_of(None, name).await
    }

    async fn delete_container(&mut self, name: String) -> Result<(), String> {
        self.delete_of(None, name).await
    }

    async fn container_exists(&mut self, name: String) -> Result<bool, String> {
        self.exists_of(None, name).await
    }

    async fn copy_object(&mut self, from: types::ObjectId, to: types::ObjectId) -> Result<(), String> {
        self.copy_of(None, from, to).await
    }

    async fn move_object(&mut self, from: types::ObjectId, to: types::ObjectId) -> Result<(), String> {
        self.move_of(None, from, to).await
    }
}

impl container::Host for View<'_> {}

impl container::HostContainer for View<'_> {
    async fn name(&mut self, of: Resource<OpenContainer>) -> Result<String, String> {
        Ok(self.container(&of)?.name().to_owned())
    }

    async fn info(&mut self, of: Resource<OpenContainer>) -> Result<types::ContainerMetadata, String> {
        let container = self.container(&of)?;
        let created = told(container.created().await)?;
        let created_at = told(created.ok_or_else(|| BlobError::no_container(container.name())))?;
        Ok(types::ContainerMetadata { name: container.name().to_owned(), created_at })
    }

    async fn get_data(
        &mut self,
        of: Resource<OpenContainer>,
        object: String,
        start: u64,
        end: u64,
    ) -> Result<Resource<IncomingValue>, String> {
        let blob = told(self.container(&of)?.read(&object, BlobRange { start, end }).await)?;
        told(self.table.push(IncomingValue(blob)).map_err(BlobError::from))
    }

    async fn write_data(
        &mut self,
        of: Resource<OpenContainer>,
        object: String,
        value: Resource<OutgoingValue>,
    ) -> Result<(), String> {
        let container = self.container(&of)?;
        let value = told(self.table.get_mut(&value).map_err(BlobError::from))?;
        told(value.write_to(container, object))
    }

    async fn list_objects(&mut self, of: Resource<OpenContainer>) -> Result<Resource<ObjectNames>, String> {
        let names = told(self.container(&of)?.list().await)?;
        told(self.table.push(names).map_err(BlobError::from))
    }

    async fn delete_object(&mut self, of: Resource<OpenContainer>, object: String) -> Result<(), String> {
        told(self.container(&of)?.delete_object(&object).await)
    }

    async fn delete_objects(
        &mut self,
        of: Resource<OpenContainer>,
        objects: Vec<String>,
    ) -> Result<(), String> {
        told(self.container(&of)?.delete_objects(&objects).await)
    }

    async fn has_object(&mut self, of: Resource<OpenContainer>, object: String) -> Result<bool, String> {
        Ok(told(self.container(&of)?.object(&object).await)?.is_some())
    }

    async fn object_info(
        &mut self,
        of: Resource<OpenContainer>,
        object: String,
    ) -> Result<types::ObjectMetadata, String> {
        let container = self.container(&of)?;
        let info = told(container.object(&object).await)?;
        let info = told(info.ok_or_else(|| BlobError::no_object(&object)))?;
        let container = container.name().to_owned();
        Ok(types::ObjectMetadata { name: object, container, created_at: info.created_at, size: info.size })
    }

    async fn clear(&mut self, of: Resource<OpenContainer>) -> Result<(), String> {
        told(self.container(&of)?.clear().await)
    }

    async fn drop(&mut self, container: Resource<OpenContainer>) -> wasmtime::Result<()> {
        self.table.delete(container)?;
        Ok(())
    }
}

impl container::HostStreamObjectNames for View<'_> {
    async fn read_stream_object_names(
        &mut self,
        of: Resource<ObjectNames>,
        most: u64,
    ) -> Result<(Vec<String>, bool), String> {
        let names = told(self.table.get_mut(&of).map_err(BlobError::from))?;
        told(names.read(most).await)
    }

    async fn skip_stream_object_names(
        &mut self,
        of: Resource<ObjectNames>,
        most: u64,
    ) -> Result<(u64, bool), String> {
        let names = told(self.table.get_mut(&of).map_err(BlobError::from))?;
        told(names.skip(most).await)
    }

    async fn drop(&mut self, names: Resource<ObjectNames>) -> wasmtime::Result<()> {
        self.table.delete(names)?;
        Ok(())
    }
}

impl types::Host for View<'_> {}

impl types::HostOutgoingValue for View<'_> {
    async fn new_outgoing_value(&mut self) -> wasmtime::Result<Resource<OutgoingValue>> {
        // It has no error of its own: a guest that has too many ends.
        Ok(self.table.push(OutgoingValue::new(self.state.early.clone()))?)
    }

    async fn outgoing_value_write_body(
        &mut self,
        value: Resource<OutgoingValue>,
    ) -> Result<Resource<DynOutputStream>, ()> {
        let stream = self.table.get_mut(&value).map_err(drop)?.stream().ok_or(())?;
        let stream: DynOutputStream = Box::new(stream);
        self.table.push(stream).map_err(drop)
    }

    async fn finish(&mut self, value: Resource<OutgoingValue>) -> Result<(), String> {
        let value = told(self.table.delete(value).map_err(BlobError::from))?;
        told(value.finish().await)
    }

    async fn drop(&mut self, value: Resource<OutgoingValue>) -> wasmtime::Result<()> {
        self.table.delete(value)?;
        Ok(())
    }
}

impl types::HostIncomingValue for View<'_> {
    async fn incoming_value_consume_sync(
        &mut self,
        value: Resource<IncomingValue>,
    ) -> Result<Vec<u8>, String> {
        let value = told(self.table.delete(value).map_err(BlobError::from))?;
        told(value.whole().await)
    }

    async fn incoming_value_consume_async(
        &mut self,
        value: Resource<IncomingValue>,
    ) -> Result<Resource<DynInputStream>, String> {
        let value = told(self.table.delete(value).map_err(BlobError::from))?;
        let stream: DynInputStream = Box::new(value.stream());
        told(self.table.push(stream).map_err(BlobError::from))
    }

    async fn size(&mut self, value: Resource<IncomingValue>) -> u64 {
        self.table.get(&value).map_or(0, |value| value.0.size)
    }

    async fn drop(&mut self, value: Resource<IncomingValue>) -> wasmtime::Result<()> {
        self.table.delete(value)?;
        Ok(())
    }
}
