//! `kubectl exec`: another program of a container's image, in the container, connected to its caller.

mod bytes;
mod commands;
mod copies;
mod ends;
mod rights;

use crate::sessions::{Ended, Route, run};

/// Runs a command that is given no input.
async fn exec(route: Route, ns: &str, pod: &str, argv: &[&str]) -> Ended {
    let arguments = [&["exec", pod, "--"][..], argv].concat();
    run(route.kubectl(ns, &arguments).await, b"").await
}
