//! End-to-end tests: a user's view of a node, on a real control plane and a real registry.
//!
//! One control plane, one registry and one node serve all tests of a run; [`suite`] starts them when the
//! first test asks. Every test has a namespace of its own, and where it kills or configures a node, a node
//! of its own. One module per behaviour.
//!
//! The `kubewasm` binary must have been built (`make test` does); see [`kubewasm_tests::node::program`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod addresses;
mod admission;
mod attach;
mod autoscaling;
mod bad_input;
mod buildah;
mod callers;
mod certificates;
mod churn;
mod cni;
mod collector;
mod commands;
mod conditions;
mod configuration;
mod controllers;
mod crash;
mod deletion;
mod desk;
mod disk;
mod doctor;
mod endings;
mod endpoint;
mod ephemeral_containers;
mod exec;
mod exit_code;
mod extension_controller;
mod extension_resource;
mod history;
mod hooks;
mod host_ports;
mod hostile;
mod http;
mod images;
mod impatient;
mod init_containers;
mod install;
mod lifecycle;
mod limits;
mod listeners;
mod logs;
mod long_logs;
mod module_command;
mod monitoring;
mod names;
mod node_admission;
mod notice;
mod outage;
mod outgoing;
mod plugins;
mod pod_files;
mod pods;
mod policies;
mod policy_certificates;
mod policy_changes;
mod policy_cluster;
mod policy_command;
mod policy_controller;
mod policy_host_calls;
mod policy_leader;
mod policy_resources;
mod policy_server;
mod policy_site;
mod policy_webhooks;
mod port_forward;
mod pressure;
mod probes;
mod reasons;
mod registration;
mod resizes;
mod restarts;
mod rolling;
mod root_fs;
mod run_command;
mod run_streams;
mod rust_program;
mod scale;
mod services;
mod sessions;
mod shutdown;
mod sidecars;
mod static_pods;
mod status;
mod storm;
mod stream_clients;
mod stream_hostile;
mod suite;
mod tls;
mod traces;
mod volumes;
mod workers;
mod world;
