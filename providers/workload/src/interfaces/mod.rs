//! Interfaces that components import from their host, and where what they keep is kept.
//!
//! ```text
//!                     WasiKeyValue, … (HostInterface): settings of a workload ─► its back ends
//!                                                                                │
//!   guest ─► bindings ─┬► KeyValueStores ─► limits ─► Arc<dyn KeyValue>:  memory, files, Redis, NATS
//!                      ├► BlobStores ─────► limits ─► Arc<dyn BlobStore>: memory, files, S3, NATS
//!                      ├► LiveConfig
//!                      ├► Arc<dyn LogSink>
//!                      └► NatsMessenger ── subscriptions ─► Arc<dyn MessageHandler>: the guest's export
//! ```
//!
//! Back ends know nothing of guests, and nothing of workloads: [`Settings`] are plain values, so that whoever has guests can
//! give them what is behind these interfaces.
//!
//! Two rules hold for all of them. *Everything ends*: an operation that its back end does not answer within its deadline is
//! an error for the guest, and the next one tries again. *Nobody sees another's data*: [`Tenant`] says how.

pub mod blobstore;
pub mod config;
mod folder;
pub mod keyvalue;
mod limits;
pub mod logging;
pub mod messaging;
mod names;
mod nats;
mod order;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod text;

pub use limits::Limits;
pub use settings::{InvalidSettings, Settings, Tenant};

#[allow(
    missing_docs,
    missing_debug_implementations,
    dead_code,
    unreachable_pub,
    unused_qualifications,
    reason = "generated; the world has the docs"
)]
pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "host-interfaces",
        imports: {
            "wasi:blobstore/types.[static]outgoing-value.new-outgoing-value": async | trappable,
            default: async,
        },
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:keyvalue/store.bucket": crate::interfaces::keyvalue::OpenBucket,
            "wasi:blobstore/types.outgoing-value": crate::interfaces::blobstore::OutgoingValue,
            "wasi:blobstore/types.incoming-value": crate::interfaces::blobstore::IncomingValue,
            "wasi:blobstore/container.container": crate::interfaces::blobstore::OpenContainer,
            "wasi:blobstore/container.stream-object-names": crate::interfaces::blobstore::ObjectNames,
        },
        require_store_data_send: true,
    });
}
