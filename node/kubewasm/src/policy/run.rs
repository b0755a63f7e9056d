//! `kubewasm policy run`

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use kubewasm_policy::{
    capabilities::{Capabilities, Pattern},
    evaluator::{Bounds, Call, Evaluator},
    host::LocalHost,
    metadata::ExecutionMode,
    request::Question,
};

use super::{
    settings::{SettingsArgs, document},
    source::{PolicySource, find},
};
use crate::module::{self, ModuleSession};

/// Arguments of `kubewasm policy run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The policy: a file, an image, registry://…, https://…, or the beginning of the digest of one that is here.
    #[arg(value_name = "POLICY")]
    policy: PolicySource,

    /// The request: an AdmissionReview, or its request alone; with --raw any JSON. `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    request_path: PathBuf,

    #[command(flatten)]
    settings: SettingsArgs,

    /// How the policy is called, where it does not say so itself.
    #[arg(short, long, value_enum, value_name = "MODE")]
    execution_mode: Option<Mode>,

    /// The request is any JSON, and not one to Kubernetes.
    #[arg(long)]
    raw: bool,

    /// What the policy may ask its host for, such as net/v1/dns_lookup_host, oci/* or *. May be repeated, or several with
    /// commas between them.
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    allowed_host_capabilities: Vec<Pattern>,

    /// How long a call may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    timeout: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// As a program of WASI.
    Wasi,
    /// By waPC.
    KubewardenWapc,
    /// By Open Policy Agent's convention.
    Opa,
    /// By Gatekeeper's.
    Gatekeeper,
}

impl From<Mode> for ExecutionMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Wasi => Self::Wasi,
            Mode::KubewardenWapc => Self::KubewardenWapc,
            Mode::Opa => Self::Opa,
            Mode::Gatekeeper => Self::Gatekeeper,
        }
    }
}

pub(super) async fn run(session: &ModuleSession, args: RunArgs) -> anyhow::Result<()> {
    let timeout = Duration::try_from_secs_f64(args.timeout).ok().filter(|timeout| !timeout.is_zero());
    let Some(timeout) = timeout else {
        bail!("--timeout is a number of seconds above 0, not {}", args.timeout)
    };
    let settings = args.settings.read().await?;
    let text = document(&args.request_path).await?;
    let found = find(session, &args.policy).await?;
    found.check_mode(args.execution_mode.map(Into::into))?;
    let is_raw = args.raw || found.is_raw();
    let read = || format!("cannot read the request in {}", args.request_path.display());
    let question = if is_raw { Question::raw(&text) } else { Question::review(&text) }.with_context(read)?;

    let empty = tempfile::tempdir().context("cannot make an empty directory")?;
    let evaluator = Evaluator::new(empty.path(), Arc::new(LocalHost))?;
    let compiled = found.compiled(session).await?;
    let kind = compiled.facts.kind.parse()?;
    let granted: Capabilities = args.allowed_host_capabilities.into_iter().collect();
    let policy =
        evaluator.load(&compiled.path, kind).await.with_context(|| found.image.reference.to_string())?;
    let policy = policy.granted(granted).bounded(Bounds { timeout, ..Bounds::default() });

    let verdict = evaluator.call(&policy, Call::ValidateSettings, &settings.document()).await.settings();
    if !verdict.valid {
        bail!(
            "Provided settings are not valid: {}",
            verdict.message.as_deref().unwrap_or("the policy does not say why")
        );
    }
    let ended = evaluator.call(&policy, Call::Validate, &question.document(&settings)).await;
    let response = serde_json::to_string(&question.response(&ended))?;
    module::print(|out| writeln!(out, "{response}"))
}
