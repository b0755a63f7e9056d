//! Which policies there are to serve, as a file or a cluster names them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{metadata::ContextAwareResource, request::Settings};

/// What is served under one name.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// One policy.
    Policy(PolicySpec),
    /// Several, whose verdicts make one.
    Group(GroupSpec),
}

/// A policy that is served.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySpec {
    /// What is run.
    pub program: ProgramSpec,
    /// What becomes of its verdicts.
    pub mode: Mode,
    /// Whether it may change objects.
    pub allowed_to_mutate: bool,
    /// Said in place of the policy's own message, which becomes its cause.
    pub message: Option<String>,
}

/// Policies that are served as one.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSpec {
    /// The members, by the names that the expression calls them by.
    pub policies: BTreeMap<String, ProgramSpec>,
    /// What of them has to accept a request, such as `a() || (b() && c())`.
    pub expression: String,
    /// Said where a request is refused; what the members said are the causes.
    pub message: String,
    /// What becomes of the verdicts.
    pub mode: Mode,
}

/// A module and what it is run with.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramSpec {
    /// An image (`registry://…` or its name alone), a URL, or a file (`file://…`).
    pub module: String,
    /// What the policy is told each time.
    pub settings: Settings,
    /// What it may ask the cluster for.
    pub context_aware_resources: BTreeSet<ContextAwareResource>,
    /// How long a call may take, where the server's default is not what is wanted.
    pub timeout: Option<Duration>,
}

/// What becomes of a policy's verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They hold.
    #[default]
    Protect,
    /// They are logged; every request is let through as it is.
    Monitor,
}
