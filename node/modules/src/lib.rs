//! Modules: found, fetched, verified, kept and precompiled.
//!
//! ```text
//! "r.io/app:v1" ─► ImageName ─► Store::get ──────────────────► Image ─► Store::module(argv0) ─► Module
//!                       └─────► Store::pull ─► registry ─► unpack ─┤                              │
//! "https://h/app.wasm" ───────► Store::pull ─► HTTP, S3, a file ───┤                              │
//! "./app.wasm" ───────────────► Store::import ─────────────────────┘      Store::precompiled(Compiler) ─► file
//! ```
//!
//! - [`ImageName`] reads what people write in `image:`: a [`Reference`], a [`ModuleUrl`] or a path.
//! - [`Store`] is a directory of content by digest, and of names for it. Nothing is keyed by a tag alone: a
//!   tag leads to a digest, and the digest to what was downloaded and checked against it. See the `layout`
//!   module for what lies where and why a crash does no harm.
//! - [`Store::pull`] takes Wasm artifacts (one layer is the module), classic container images (a root file
//!   system with modules in it) and single files that are modules, from sources that are not trusted: everything is
//!   bounded and verified. See the `source` module for what a source is.
//! - [`SignaturePolicy`] says which images must be signed and by whom. What does not meet it is not kept, and what is
//!   kept already is not found.
//! - [`Store::look_up`] and [`Store::verify_remote`] ask a registry about any image, of which nothing is kept.
//! - [`Store::push`] sends a module file to a registry, as the kind of artifact that all tools pull.
//! - [`Store::module`] finds the module that a command starts, [`Store::precompiled`] its compiled form, with the
//!   [`Facts`] that its compiler has found out. Where the policy trusts somebody with that, a pull brings such forms along,
//!   and [`Store::push_precompiled`] makes one for others.
//!
//! This crate names neither Kubernetes nor an engine. A kubelet asks it for images, an engine gives it a
//! [`Compiler`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod compile;
mod digest;
mod error;
mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
mod image;
mod import;
mod layout;
mod manifest;
mod media;
mod module;
mod module_url;
mod options;
mod progress;
mod pull;
mod push;
mod record;
mod reference;
mod referrers;
mod registry;
mod remote;
mod removal;
mod rootpath;
mod shared_code;
mod signature;
mod source;
mod store;
#[cfg(test)]
mod testing;
mod text;
mod unpack;
mod usage;

pub use compile::{CompiledFor, Compiler, Facts, Precompiled};
pub use digest::{Digest, InvalidDigest};
pub use error::{ModuleError, PrecompileError, PullError, PullFailure, StoreError};
pub use image::{Credential, Image, ImageKind, ImageName};
pub use module::Module;
pub use module_url::{ModuleUrl, UrlScheme};
pub use options::{S3Options, StoreOptions};
pub use progress::{Progress, PullProgress};
pub use pull::Fetched;
pub use push::{Artifact, ArtifactConfig, ComponentInterfaces, PushedArtifact};
pub use reference::{InvalidReference, Reference};
pub use remote::{RemoteImage, RemoteManifest};
pub use shared_code::PushedCode;
pub use signature::{InvalidSignaturePolicy, SignaturePolicy};
pub use store::{Hold, Store};
pub use usage::ImageUse;
