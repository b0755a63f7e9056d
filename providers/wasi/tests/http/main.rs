//! Components that serve HTTP, asked over real connections.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod bounds;
mod concurrent;
mod corpus;
mod ends;
mod failures;
mod h2spec;
mod hostile;
mod malformed;
mod python;
mod requests;
mod shared;
mod tls;
mod world;
