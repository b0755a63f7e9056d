//! kubectl plugins: a user's own kubectl, the real API server, a real registry, and plugins that behave or do not.

mod cluster;
mod commands;
mod consent;
mod demos;
mod ends;
mod hostile;
mod proxies;
mod user;
