//! Runs policies: a fresh instance for each call, under bounds.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use kubewasm_host::{
    CpuShare, Guest, GuestLimits, Host, HostError, HostOptions, Input, InputSource, LoadError, Loaded,
    ModuleKind, Output, PrepareError, Setup, Stack,
    exit::{Exit, ExitReason},
};
use tokio::sync::Semaphore;

use crate::{
    answer::{Answer, MOST_OUTPUT},
    asked::Granted,
    capabilities::Capabilities,
    host_call::{CallState, HostCall, HostCapabilities},
    input::Document,
    metadata::{ContextAwareResource, ExecutionMode},
    typed::TypedCall,
    verdict::Ended,
    wapc::{WapcCall, WapcState},
};

/// How long a call may take, where nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
/// Memory of one instance in bytes, 256 MiB, where nothing else is said.
pub const DEFAULT_MEMORY: u64 = 256 << 20;

/// What a policy is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// To judge a request.
    Validate,
    /// To judge settings.
    ValidateSettings,
}

impl Call {
    fn argument(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::ValidateSettings => "validate-settings",
        }
    }
}

/// What bounds every call.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long it may take, whether the policy computes or waits.
    pub timeout: Duration,
    /// Memory of its instance, in bytes.
    pub memory: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { timeout: DEFAULT_TIMEOUT, memory: DEFAULT_MEMORY }
    }
}

/// A policy that is ready to be called.
#[derive(Clone, Debug)]
pub struct Program {
    loaded: Arc<Loaded>,
    kind: ModuleKind,
    granted: Arc<Capabilities>,
    resources: Arc<BTreeSet<ContextAwareResource>>,
    bounds: Bounds,
    /// The place for one call that nobody takes from it, however many others never come to an end.
    own: Arc<Semaphore>,
    /// How many of the evaluator's places it takes beside that.
    share: Arc<Semaphore>,
}

impl Program {
    /// What bounds every call of it.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The same with other bounds.
    #[must_use]
    pub fn bounded(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// The same with what it may ask of its host.
    #[must_use]
    pub fn granted(self, granted: Capabilities) -> Self {
        Self { granted: Arc::new(granted), ..self }
    }

    /// The same with the kinds of objects that it may ask its cluster for: those that are granted to it of those that it says it
    /// needs.
    #[must_use]
    pub fn aware_of(self, resources: impl IntoIterator<Item = ContextAwareResource>) -> Self {
        Self { resources: Arc::new(resources.into_iter().collect()), ..self }
    }
}

/// A module that is not of the kind that it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// Of an engine that there is none of.
    #[error(
        "it is a policy of executionMode {0}, which is not run here; policies are programs of WASI (executionMode wasi), components of kubewasm:policy, or called by waPC (kubewarden-wapc)"
    )]
    Unsupported(&'static str),
    /// It says waPC, and has nothing that waPC calls.
    #[error(
        "its executionMode is kubewarden-wapc, and it exports no `__guest_call`; say executionMode wasi for a program"
    )]
    NoGuestCall,
    /// It says WASI, and is called by waPC.
    #[error(
        "its executionMode is wasi, and it exports the `__guest_call` of waPC; say executionMode kubewarden-wapc"
    )]
    GuestCall,
    /// It does not say, and cannot be told by its exports.
    #[error(
        "it does not say how it is called; write it into the module with `kubewasm policy annotate` (executionMode: wasi), or say `--execution-mode wasi` where it is called by hand"
    )]
    Unsaid,
}

/// Whether policies that say this of how they are called are run here at all. It is known before a module is compiled, which one
/// for another engine may not be.
///
/// # Errors
/// [`ModeError::Unsupported`].
pub fn check_engine(said: Option<ExecutionMode>) -> Result<(), ModeError> {
    match said {
        Some(other @ (ExecutionMode::Opa | ExecutionMode::Gatekeeper)) => {
            Err(ModeError::Unsupported(other.name()))
        }
        Some(ExecutionMode::Wasi | ExecutionMode::KubewardenWapc) | None => Ok(()),
    }
}

/// Holds what is said of how a policy is called against what its module is.
///
/// # Errors
/// [`ModeError`].
pub fn check_mode(said: Option<ExecutionMode>, kind: ModuleKind) -> Result<(), ModeError> {
    check_engine(said)?;
    match (said, kind) {
        (Some(ExecutionMode::KubewardenWapc) | None, ModuleKind::EmbeddedCore) => Ok(()),
        (Some(ExecutionMode::KubewardenWapc), _) => Err(ModeError::NoGuestCall),
        (Some(ExecutionMode::Wasi), ModuleKind::EmbeddedCore) => Err(ModeError::GuestCall),
        (Some(_), _) | (None, ModuleKind::EmbeddedComponent) => Ok(()),
        (None, _) => Err(ModeError::Unsaid),
    }
}

/// Runs policies: a few at once for each processor, since some of them wait for something.
#[derive(Debug)]
pub struct Evaluator {
    host: Arc<Host>,
    host_call: Arc<HostCall>,
    capabilities: Arc<dyn HostCapabilities>,
    places: Semaphore,
    /// Most places that one program takes.
    share: usize,
}

/// Calls at once for each processor: some of them wait for what they have asked their host for.
const CALLS_PER_PROCESSOR: usize = 4;

impl Evaluator {
    /// An evaluator whose policies ask `capabilities`. `empty` is a directory of nothing, which is made.
    ///
    /// # Errors
    /// [`HostError`] where this machine cannot run wasmtime.
    pub fn new(empty: &Path, capabilities: Arc<dyn HostCapabilities>) -> Result<Self, HostError> {
        let mut options = HostOptions::new(empty);
        let host_call = Arc::new(HostCall::default());
        options.plugins.push(Arc::<HostCall>::clone(&host_call));
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let places = processors.saturating_mul(CALLS_PER_PROCESSOR);
        Ok(Self {
            host: Arc::new(Host::new(options)?),
            host_call,
            capabilities,
            places: Semaphore::new(places),
            // A policy that never comes to an end leaves the others room.
            share: (places / 2).max(1),
        })
    }

    /// The same program, with places of its own: calls of it wait for each other, and not for those of others that share its
    /// module.
    #[must_use]
    pub fn apart(&self, program: Program) -> Program {
        Program { own: own_place(), share: Arc::new(Semaphore::new(self.share)), ..program }
    }

    /// Makes a policy ready whose machine code is in this file.
    ///
    /// # Errors
    /// [`LoadError`], for instance where it imports what nobody provides.
    pub async fn load(&self, code: &Path, kind: ModuleKind) -> Result<Program, LoadError> {
        let loaded = self.host.load(code, kind, Stack::DEFAULT).await?;
        let share = Arc::new(Semaphore::new(self.share));
        let bounds = Bounds::default();
        let (granted, resources) = (Arc::default(), Arc::default());
        Ok(Program { loaded, kind, granted, resources, bounds, own: own_place(), share })
    }

    /// Calls a policy with a document on its standard input.
    pub async fn call(&self, program: &Program, call: Call, document: &[u8]) -> Ended {
        let timeout = program.bounds.timeout;
        let called = async {
            let _place = self.place(program).await;
            self.call_now(program, call, document).await
        };
        match tokio::time::timeout(timeout, called).await {
            Ok(ended) => ended,
            Err(_) => {
                Ended::Failed { reason: format!("the policy came to no answer within {}", seconds(timeout)) }
            }
        }
    }

    /// Waits for the place that the program has for itself, or for one of those that all share, whichever is free first.
    async fn place<'a>(&'a self, program: &'a Program) -> impl Send + use<'a> {
        let shared = async {
            // They are never closed.
            let share = program.share.acquire().await;
            (share, self.places.acquire().await)
        };
        tokio::select! {
            biased;
            own = program.own.acquire() => (Some(own), None),
            shared = shared => (None, Some(shared)),
        }
    }

    async fn call_now(&self, program: &Program, call: Call, document: &[u8]) -> Ended {
        let answer = Answer::new();
        let guest = match self.guest(program, call, document, &answer) {
            Ok(guest) => guest,
            Err(error) => return Ended::Failed { reason: error.to_string() },
        };
        let ended = tokio::select! {
            ended = self.outcome(guest, program.kind, call, document, &answer) => ended,
            () = answer.too_long() => return too_long(),
        };
        // It may have ended in the same moment.
        if answer.is_too_long() { too_long() } else { ended }
    }

    /// Calls a policy as it is called.
    async fn outcome(
        &self,
        guest: Guest,
        kind: ModuleKind,
        call: Call,
        document: &[u8],
        answer: &Answer,
    ) -> Ended {
        let called = match (kind, self.host_call.place()) {
            (ModuleKind::EmbeddedCore, Some(place)) => guest.call(WapcCall(place)).await,
            (ModuleKind::EmbeddedComponent, _) => match TypedCall::new(call, document) {
                Ok(typed) => guest.call(typed).await,
                Err(reason) => return Ended::Failed { reason },
            },
            _ => {
                let exit = guest.run().await;
                return match (exit.code, exit.reason) {
                    (0, ExitReason::Exited) => done(answer, answer.stdout()),
                    _ => failed(answer, exit),
                };
            }
        };
        match called {
            Ok(Ok(said)) if said.len() > MOST_OUTPUT => too_long(),
            Ok(Ok(said)) => done(answer, said),
            Ok(Err(reason)) => Ended::Failed { reason },
            Err(exit) => failed(answer, exit),
        }
    }

    fn guest(
        &self,
        program: &Program,
        call: Call,
        document: &[u8],
        answer: &Answer,
    ) -> Result<Guest, PrepareError> {
        let limits = GuestLimits { memory_bytes: program.bounds.memory, cpu: CpuShare::default() };
        let account = self.host.account(limits);
        let output: Arc<dyn Output> = Arc::new(answer.clone());
        // What is called has its document handed over, and nothing to read.
        let (input, wapc) = match program.kind {
            ModuleKind::EmbeddedCore => (Document::default(), WapcState::new(call, document)),
            ModuleKind::EmbeddedComponent => (Document::default(), WapcState::default()),
            _ => (Document::new(document), WapcState::default()),
        };
        let source: Arc<dyn InputSource> = Arc::new(input.clone());
        let granted = Granted {
            capabilities: Arc::clone(&program.granted),
            resources: Arc::clone(&program.resources),
            host: Arc::clone(&self.capabilities),
        };
        let argv = ["policy.wasm".to_owned(), call.argument().to_owned()];
        let setup = Setup { argv: &argv, input: Input::From(&source), ..Setup::isolated(&output, &account) };
        let mut guest = self.host.prepare(Arc::clone(&program.loaded), setup)?;
        self.host_call.give(guest.state_mut(), CallState { granted, input, wapc });
        Ok(guest)
    }
}

/// It has answered, and whatever it wrote to its standard error is no failure.
fn done(answer: &Answer, stdout: Vec<u8>) -> Ended {
    let said = answer.stderr();
    if !said.is_empty() {
        tracing::warn!(%said, "the policy wrote to its standard error");
    }
    Ended::Done { stdout }
}

fn failed(answer: &Answer, exit: Exit) -> Ended {
    let said = answer.stderr();
    let reason = match exit {
        _ if !said.is_empty() => said,
        Exit { code, reason: ExitReason::Exited, message } if message.is_empty() => {
            format!("the policy exited with {code} and said nothing")
        }
        Exit { message, .. } => message,
    };
    Ended::Failed { reason }
}

fn own_place() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

fn too_long() -> Ended {
    Ended::Failed { reason: format!("the policy's answer has more than {} MiB", MOST_OUTPUT >> 20) }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
