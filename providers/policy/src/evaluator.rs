//! Runs policies: a fresh instance for each call, under bounds.

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use kubewasm_host::{
    CpuShare, GuestLimits, Host, HostError, HostOptions, Input, InputSource, LoadError, Loaded, ModuleKind,
    Output, PrepareError, Setup, Stack, exit::ExitReason,
};
use tokio::sync::Semaphore;

use crate::{
    answer::{Answer, MOST_OUTPUT},
    capabilities::Capabilities,
    host_call::{CallContext, HostCall, HostCapabilities},
    input::Document,
    verdict::Ended,
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
    granted: Arc<Capabilities>,
    bounds: Bounds,
    /// Places of its own, of which it takes one with each of the evaluator's.
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
        Program { share: Arc::new(Semaphore::new(self.share)), ..program }
    }

    /// Makes a policy ready whose machine code is in this file.
    ///
    /// # Errors
    /// [`LoadError`], for instance where it imports what nobody provides.
    pub async fn load(&self, code: &Path, kind: ModuleKind) -> Result<Program, LoadError> {
        let loaded = self.host.load(code, kind, Stack::DEFAULT).await?;
        let share = Arc::new(Semaphore::new(self.share));
        Ok(Program { loaded, granted: Arc::default(), bounds: Bounds::default(), share })
    }

    /// Calls a policy with a document on its standard input.
    pub async fn call(&self, program: &Program, call: Call, document: &[u8]) -> Ended {
        let timeout = program.bounds.timeout;
        let called = async {
            // They are never closed.
            let _share = program.share.acquire().await;
            let _place = self.places.acquire().await;
            self.call_now(program, call, document).await
        };
        match tokio::time::timeout(timeout, called).await {
            Ok(ended) => ended,
            Err(_) => {
                Ended::Failed { reason: format!("the policy came to no answer within {}", seconds(timeout)) }
            }
        }
    }

    async fn call_now(&self, program: &Program, call: Call, document: &[u8]) -> Ended {
        let answer = Answer::new();
        let guest = match self.guest(program, call, Document::new(document), &answer) {
            Ok(guest) => guest,
            Err(error) => return Ended::Failed { reason: error.to_string() },
        };
        let exit = tokio::select! {
            exit = guest.run() => exit,
            () = answer.too_long() => return too_long(),
        };
        // It may have ended in the same moment.
        if answer.is_too_long() {
            return too_long();
        }
        let said = answer.stderr();
        match (exit.code, exit.reason) {
            (0, ExitReason::Exited) => {
                if !said.is_empty() {
                    tracing::warn!(%said, "the policy wrote to its standard error");
                }
                Ended::Done { stdout: answer.stdout() }
            }
            (code, ExitReason::Exited) if said.is_empty() && exit.message.is_empty() => {
                Ended::Failed { reason: format!("the policy exited with {code} and said nothing") }
            }
            _ if said.is_empty() => Ended::Failed { reason: exit.message },
            _ => Ended::Failed { reason: said },
        }
    }

    fn guest(
        &self,
        program: &Program,
        call: Call,
        input: Document,
        answer: &Answer,
    ) -> Result<kubewasm_host::Guest, PrepareError> {
        let limits = GuestLimits { memory_bytes: program.bounds.memory, cpu: CpuShare::default() };
        let account = self.host.account(limits);
        let output: Arc<dyn Output> = Arc::new(answer.clone());
        let source: Arc<dyn InputSource> = Arc::new(input.clone());
        let context = CallContext {
            input,
            granted: Arc::clone(&program.granted),
            host: Arc::clone(&self.capabilities),
        };
        let argv = ["policy.wasm".to_owned(), call.argument().to_owned()];
        let setup = Setup { argv: &argv, input: Input::From(&source), ..Setup::isolated(&output, &account) };
        let mut guest = self.host.prepare(Arc::clone(&program.loaded), setup)?;
        self.host_call.give(guest.state_mut(), context);
        Ok(guest)
    }
}

fn too_long() -> Ended {
    Ended::Failed { reason: format!("the policy's answer has more than {} MiB", MOST_OUTPUT >> 20) }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
