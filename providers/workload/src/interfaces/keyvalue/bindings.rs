//! What guests call.

use std::sync::Arc;

use kubewasm_host::GuestState;
use wasmtime::{
    StoreContextMut,
    component::{HasData, LinkerInstance, Resource, ResourceTable},
};

use super::{KeyValueError, KeyValueStores, LimitedBucket};
use crate::{
    host_interface::{GuestView, guest_view},
    interfaces::bindings::keyvalue::wasi::keyvalue::{atomics, batch, store},
};

/// The interfaces, by their whole names.
pub(super) const VERSION: &str = "0.2.0-draft";

/// What an instance has of the interface.
#[derive(Clone, Debug)]
pub(super) struct KeyValueGuest(pub(super) Arc<KeyValueStores>);

/// A bucket in a guest's table.
#[derive(Debug)]
pub struct OpenBucket(LimitedBucket);

struct HasKeyValue;

impl HasData for HasKeyValue {
    type Data<'a> = GuestView<'a, KeyValueGuest>;
}

/// Defines one of the interfaces.
pub(super) fn link(linker: &mut LinkerInstance<'_, GuestState>, interface: &str) -> wasmtime::Result<()> {
    match interface {
        "store" => {
            store::add_to_linker_instance::<_, HasKeyValue>(linker, guest_view::<KeyValueGuest>)?;
        }
        "atomics" => {
            atomics::add_to_linker_instance::<_, HasKeyValue>(linker, guest_view::<KeyValueGuest>)?;
        }
        "batch" => {
            batch::add_to_linker_instance::<_, HasKeyValue>(linker, guest_view::<KeyValueGuest>)?;
        }
        other => wasmtime::bail!("wasi:keyvalue has no interface {other}"),
    }
    Ok(())
}

/// Defines `open` once more, for an import that says which back end it is about.
pub(super) fn link_open(linker: &mut LinkerInstance<'_, GuestState>, label: &str) -> wasmtime::Result<()> {
    let label: Arc<str> = label.into();
    linker.func_wrap_async("open", move |mut store: StoreContextMut<'_, GuestState>, (name,): (String,)| {
        let label = Arc::clone(&label);
        Box::new(async move {
            Ok((guest_view::<KeyValueGuest>(store.data_mut()).open_of(Some(&label), &name).await,))
        })
    })
}

impl GuestView<'_, KeyValueGuest> {
    async fn open_of(
        &mut self,
        label: Option<&str>,
        name: &str,
    ) -> Result<Resource<OpenBucket>, store::Error> {
        let opened = self.state.0.open(label, name).await?;
        // Too many of them is the guest's own doing, and it is told.
        self.table.push(OpenBucket(opened)).map_err(|error| store::Error::Other(error.to_string()))
    }
}

impl From<KeyValueError> for store::Error {
    fn from(error: KeyValueError) -> Self {
        match error {
            KeyValueError::NoSuchStore => Self::NoSuchStore,
            KeyValueError::AccessDenied => Self::AccessDenied,
            KeyValueError::Other(text) => Self::Other(text),
        }
    }
}

/// Resources of a guest are in its table, and it has no others.
fn bucket(table: &ResourceTable, bucket: &Resource<OpenBucket>) -> Result<LimitedBucket, store::Error> {
    let found = table.get(bucket).map_err(|error| store::Error::Other(error.to_string()))?;
    Ok(found.0.clone())
}

impl store::Host for GuestView<'_, KeyValueGuest> {
    async fn open(&mut self, name: String) -> Result<Resource<OpenBucket>, store::Error> {
        self.open_of(None, &name).await
    }
}

impl store::HostBucket for GuestView<'_, KeyValueGuest> {
    async fn get(&mut self, of: Resource<OpenBucket>, key: String) -> Result<Option<Vec<u8>>, store::Error> {
        Ok(bucket(self.table, &of)?.get(&key).await?)
    }

    async fn set(
        &mut self,
        of: Resource<OpenBucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<(), store::Error> {
        Ok(bucket(self.table, &of)?.set(&key, value).await?)
    }

    async fn delete(&mut self, of: Resource<OpenBucket>, key: String) -> Result<(), store::Error> {
        Ok(bucket(self.table, &of)?.delete(&key).await?)
    }

    async fn exists(&mut self, of: Resource<OpenBucket>, key: String) -> Result<bool, store::Error> {
        Ok(bucket(self.table, &of)?.exists(&key).await?)
    }

    async fn list_keys(
        &mut self,
        of: Resource<OpenBucket>,
        cursor: Option<u64>,
    ) -> Result<store::KeyResponse, store::Error> {
        let page = bucket(self.table, &of)?.keys(cursor).await?;
        Ok(store::KeyResponse { keys: page.keys, cursor: page.cursor })
    }

    async fn drop(&mut self, bucket: Resource<OpenBucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for GuestView<'_, KeyValueGuest> {
    async fn increment(
        &mut self,
        of: Resource<OpenBucket>,
        key: String,
        delta: u64,
    ) -> Result<u64, store::Error> {
        Ok(bucket(self.table, &of)?.increment(&key, delta).await?)
    }
}

impl batch::Host for GuestView<'_, KeyValueGuest> {
    async fn get_many(
        &mut self,
        of: Resource<OpenBucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, store::Error> {
        let values = bucket(self.table, &of)?.get_many(&keys).await?;
        Ok(keys.into_iter().zip(values).map(|(key, value)| Some((key, value?))).collect())
    }

    async fn set_many(
        &mut self,
        of: Resource<OpenBucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Result<(), store::Error> {
        Ok(bucket(self.table, &of)?.set_many(pairs).await?)
    }

    async fn delete_many(&mut self, of: Resource<OpenBucket>, keys: Vec<String>) -> Result<(), store::Error> {
        Ok(bucket(self.table, &of)?.delete_many(&keys).await?)
    }
}
