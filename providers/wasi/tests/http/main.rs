//! Components that serve HTTP, asked over real connections.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod bounds;
mod concurrent;
mod ends;
mod failures;
mod malformed;
mod requests;
mod shared;
mod tls;
mod world;
