//! What it takes to call a policy by hand: the policy, a request, settings, and whom it may ask.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use kubewasm_policy::{
    capabilities::{Capabilities, Pattern},
    evaluator::{Bounds, Call, Evaluator, Program, check_engine, check_mode},
    host::{ComposedHost, RecordingHost, ReplayingHost},
    host_call::HostCapabilities,
    metadata::ExecutionMode,
    request::{Question, Settings},
};
use tempfile::TempDir;

use super::{
    cluster,
    settings::{SettingsArgs, document},
    source::{Found, PolicySource, UserCredentials, find},
};
use crate::module::ModuleSession;

/// Arguments of what calls a policy.
#[derive(Debug, clap::Args)]
pub(super) struct EvaluationArgs {
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

    /// The policy may ask the cluster for the kinds of objects that it says it needs (contextAwareResources), and what
    /// somebody may do there. Look at what these are before: `kubewasm policy inspect`.
    #[arg(long)]
    allow_context_aware: bool,

    /// The cluster that it asks [default: that of $KUBECONFIG, of ~/.kube/config, or the one that this runs in].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// What the policy may ask its host for, such as net/v1/dns_lookup_host, oci/* or *. May be repeated, or several with
    /// commas between them.
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    allowed_host_capabilities: Vec<Pattern>,

    /// Write down what the policy asks its host, and what it is answered.
    #[arg(long, value_name = "FILE", conflicts_with = "replay_host_capabilities_interactions")]
    record_host_capabilities_interactions: Option<PathBuf>,

    /// Answer the policy as in this file, and ask nobody.
    #[arg(long, value_name = "FILE")]
    replay_host_capabilities_interactions: Option<PathBuf>,

    /// How long a call may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    timeout: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// As a program of WASI.
    Wasi,
    /// By waPC.
    #[value(alias = "kubewarden")]
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

/// All that was asked for, ready.
pub(super) struct Evaluation {
    pub(super) question: Question,
    pub(super) settings: Settings,
    pub(super) evaluator: Evaluator,
    pub(super) program: Program,
    /// Kept for as long as the policy is called.
    _found: Found,
    _empty: TempDir,
    recorder: Option<(Arc<RecordingHost>, PathBuf)>,
}

impl Evaluation {
    /// Reads what there is to read, and makes the policy ready.
    pub(super) async fn prepare(session: &ModuleSession, args: EvaluationArgs) -> anyhow::Result<Self> {
        let timeout = Duration::try_from_secs_f64(args.timeout).ok().filter(|timeout| !timeout.is_zero());
        let Some(timeout) = timeout else {
            bail!("--timeout is a number of seconds above 0, not {}", args.timeout)
        };
        let settings = args.settings.read().await?;
        let text = document(&args.request_path).await?;
        let found = find(session, &args.policy).await?;
        let said = args.execution_mode.map(ExecutionMode::from).or(found.mode());
        let read = || format!("cannot read the request in {}", args.request_path.display());
        let is_raw = args.raw || found.is_raw();
        let question =
            if is_raw { Question::raw(&text) } else { Question::review(&text) }.with_context(read)?;
        let name = || found.image.reference.to_string();

        check_engine(said).with_context(name)?;
        let empty = tempfile::tempdir().context("cannot make an empty directory")?;
        let compiled = found.compiled(session).await?;
        let kind = compiled.facts.kind.parse()?;
        check_mode(said, kind).with_context(name)?;
        let (host, recorder) = host(session, &args).await?;
        let evaluator = Evaluator::new(empty.path(), host)?;
        let program = evaluator.load(&compiled.path, kind).await.with_context(name)?;
        let mut granted = args.allowed_host_capabilities;
        let mut resources = Vec::new();
        if args.allow_context_aware {
            granted.push("kubernetes/*".parse()?);
            resources = found.context_aware_resources();
        }
        let granted: Capabilities = granted.into_iter().collect();
        let program = program.granted(granted).aware_of(resources);
        let program = program.bounded(Bounds { timeout, ..Bounds::default() });
        Ok(Self { question, settings, evaluator, program, _found: found, _empty: empty, recorder })
    }

    /// Asks the policy whether it can work with its settings.
    pub(super) async fn check_settings(&self) -> anyhow::Result<()> {
        let settings = self.settings.document();
        let verdict = self.evaluator.call(&self.program, Call::ValidateSettings, &settings).await.settings();
        ensure!(
            verdict.valid,
            "Provided settings are not valid: {}",
            verdict.message.as_deref().unwrap_or("the policy does not say why")
        );
        Ok(())
    }

    /// Writes down what was asked and answered, if that is wanted.
    pub(super) fn write_session(&self) -> anyhow::Result<()> {
        let Some((recorder, path)) = &self.recorder else { return Ok(()) };
        let session = recorder.session()?;
        std::fs::write(path, session).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Most bytes of a session that is replayed, 128 MiB.
const LONGEST_SESSION: u64 = 128 << 20;

type Host = (Arc<dyn HostCapabilities>, Option<(Arc<RecordingHost>, PathBuf)>);

/// Who answers the policy.
async fn host(session: &ModuleSession, args: &EvaluationArgs) -> anyhow::Result<Host> {
    if let Some(path) = &args.replay_host_capabilities_interactions {
        let failed = || format!("cannot replay {}", path.display());
        let length = tokio::fs::metadata(path).await.with_context(failed)?.len();
        ensure!(length <= LONGEST_SESSION, "{} has more than {} MiB", path.display(), LONGEST_SESSION >> 20);
        let text = tokio::fs::read_to_string(path).await.with_context(failed)?;
        return Ok((Arc::new(ReplayingHost::read(&text).with_context(failed)?), None));
    }
    let mut composed = ComposedHost::default().with_images(session.store.clone(), Arc::new(UserCredentials));
    if args.allow_context_aware {
        composed = composed.with_cluster(cluster::client(args.kubeconfig.as_deref()).await?);
    }
    let composed: Arc<dyn HostCapabilities> = Arc::new(composed);
    Ok(match &args.record_host_capabilities_interactions {
        Some(path) => {
            let recorder = Arc::new(RecordingHost::new(composed));
            (Arc::<RecordingHost>::clone(&recorder), Some((recorder, path.clone())))
        }
        None => (composed, None),
    })
}
