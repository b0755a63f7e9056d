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
//! Each interface is a feature of the crate, which brings the clients of its back ends: `wasi-blobstore`, `wasi-config`,
//! `wasi-keyvalue`, `wasi-logging` and `wasmcloud-messaging`. All of them are on unless they are left out.
//!
//! Two rules hold for all of them. *Everything ends*: an operation that its back end does not answer within its deadline is
//! an error for the guest, and the next one tries again. *Nobody sees another's data*: [`Tenant`] says how.

#[cfg(feature = "wasi-blobstore")]
pub mod blobstore;
#[cfg(feature = "wasi-config")]
pub mod config;
#[cfg(any(feature = "wasi-blobstore", feature = "wasi-keyvalue"))]
mod folder;
#[cfg(feature = "wasi-keyvalue")]
pub mod keyvalue;
#[cfg(any(feature = "wasi-blobstore", feature = "wasi-keyvalue", feature = "wasmcloud-messaging"))]
mod limits;
#[cfg(feature = "wasi-logging")]
pub mod logging;
#[cfg(feature = "wasmcloud-messaging")]
pub mod messaging;
#[cfg(any(feature = "wasi-blobstore", feature = "wasi-keyvalue"))]
mod names;
#[cfg(any(feature = "wasi-blobstore", feature = "wasi-keyvalue", feature = "wasmcloud-messaging"))]
mod nats;
#[cfg(feature = "wasi-keyvalue")]
mod order;
#[cfg(any(feature = "wasi-blobstore", feature = "wasi-keyvalue", feature = "wasmcloud-messaging"))]
mod server;
#[cfg(any(feature = "wasi-blobstore", feature = "wasi-keyvalue", feature = "wasmcloud-messaging"))]
mod settings;
#[cfg(all(
    test,
    feature = "wasi-blobstore",
    feature = "wasi-config",
    feature = "wasi-keyvalue",
    feature = "wasi-logging",
    feature = "wasmcloud-messaging"
))]
mod tests;
#[cfg(any(feature = "wasi-blobstore", feature = "wasi-keyvalue", feature = "wasmcloud-messaging"))]
mod text;

#[cfg(any(feature = "wasi-blobstore", feature = "wasi-keyvalue", feature = "wasmcloud-messaging"))]
pub use limits::Limits;
#[cfg(any(feature = "wasi-blobstore", feature = "wasi-keyvalue", feature = "wasmcloud-messaging"))]
pub use settings::{InvalidSettings, Settings, Tenant};

/// One module for each interface, so that each can be left out.
#[allow(
    missing_docs,
    missing_debug_implementations,
    dead_code,
    unreachable_pub,
    unused_qualifications,
    reason = "generated; the worlds have the docs"
)]
pub(crate) mod bindings {
    #[cfg(feature = "wasi-config")]
    pub(crate) mod config {
        wasmtime::component::bindgen!({
            path: "wit",
            world: "config",
            imports: { default: async },
            require_store_data_send: true,
        });
    }

    #[cfg(feature = "wasi-logging")]
    pub(crate) mod logging {
        wasmtime::component::bindgen!({
            path: "wit",
            world: "logging",
            imports: { default: async },
            require_store_data_send: true,
        });
    }

    #[cfg(feature = "wasi-keyvalue")]
    pub(crate) mod keyvalue {
        wasmtime::component::bindgen!({
            path: "wit",
            world: "keyvalue",
            imports: { default: async },
            with: { "wasi:keyvalue/store.bucket": crate::interfaces::keyvalue::OpenBucket },
            require_store_data_send: true,
        });
    }

    #[cfg(feature = "wasi-blobstore")]
    pub(crate) mod blobstore {
        wasmtime::component::bindgen!({
            path: "wit",
            world: "blobstore",
            imports: {
                "wasi:blobstore/types.[static]outgoing-value.new-outgoing-value": async | trappable,
                default: async,
            },
            with: {
                "wasi:io": wasmtime_wasi::p2::bindings::io,
                "wasi:blobstore/types.outgoing-value": crate::interfaces::blobstore::OutgoingValue,
                "wasi:blobstore/types.incoming-value": crate::interfaces::blobstore::IncomingValue,
                "wasi:blobstore/container.container": crate::interfaces::blobstore::OpenContainer,
                "wasi:blobstore/container.stream-object-names": crate::interfaces::blobstore::ObjectNames,
            },
            require_store_data_send: true,
        });
    }

    #[cfg(feature = "wasmcloud-messaging")]
    pub(crate) mod messaging {
        wasmtime::component::bindgen!({
            path: "wit",
            world: "messaging",
            imports: { default: async },
            require_store_data_send: true,
        });
    }
}
