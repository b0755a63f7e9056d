//! `kubewasm doctor`: what this machine can and cannot do, before somebody finds out with pods on it.
//!
//! ```text
//! flags of a node ─► Config ─┬─► machine: kernel, rights, processes of ours that are started as a node would, cgroups, disk, ports
//!                            └─► cluster: the API server, its clock, what it allows this identity
//!                                   └──► one Finding each ─► lines or JSON, and the exit code
//! ```
//!
//! Nothing is changed that a node would not change as well, and what is made for trying is removed.

mod cluster;
mod finding;
mod machine;

use std::process::ExitCode;

use anyhow::Context as _;
use kubewasm_kubelet::config::{Config, Flags};

use self::finding::{Finding, State};
use crate::node::{self, NodeArgs};

/// Arguments of `kubewasm doctor`: those of the node that is to run here.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// How to tell.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,

    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Output {
    /// A line for each check, and one for each way out.
    #[default]
    Text,
    /// A list of objects: check, state, message, remedy.
    Json,
}

/// Checks everything. The exit code is 1 when a node would not work here, and 0 when it would, warned or not.
pub(crate) fn main(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let DoctorArgs { output, node } = args;
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let findings = tokio.block_on(examine(node))?;
    match output {
        Output::Text => findings.iter().for_each(|finding| println!("{finding}")),
        Output::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
    }
    let failed = findings.iter().any(|finding| finding.state == State::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(node: NodeArgs) -> anyhow::Result<Vec<Finding>> {
    let network = node.network;
    let flags = node::flags(node);
    let mut findings = Vec::new();
    let config = match Config::load(&flags) {
        Ok((config, warnings)) => {
            findings.push(match warnings.len() {
                0 => Finding::ok("configuration", "it is understood"),
                _ => Finding::warning("configuration", warnings.join("; "), "leave out what has no effect"),
            });
            config
        }
        Err(error) => {
            findings.push(Finding::failed(
                "configuration",
                error.to_string(),
                "correct it: docs/configuration.md",
            ));
            // The rest is looked at as for a node without a file.
            let bare = Flags { root_dir: flags.root_dir, kubeconfig: flags.kubeconfig, ..Flags::default() };
            Config::load(&bare)?.0
        }
    };
    findings.extend(machine::examine(&config, network).await);
    findings.extend(cluster::examine(&config).await);
    Ok(findings)
}
