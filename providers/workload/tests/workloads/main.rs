//! Workloads on a host, with real components.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod egress;
mod examples;
mod guests;
mod http;
mod linking;
mod plugins;
mod reload;
mod services;
mod volumes;
mod world;
