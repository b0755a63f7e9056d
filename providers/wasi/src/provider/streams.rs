//! What is executed in containers: another guest of their own module, or another program of their image; and callers that are
//! connected to what runs.

use std::sync::Arc;

use kubewasm_kubelet::runtime::{CallerStreams, ContainerSpec, Duplex, ExecEnd, ExecError, PortForwardError};
use kubewasm_modules::{ImageKind, ModuleError, PrecompileError, Precompiled};
use tokio::io::AsyncWriteExt as _;

use super::{
    ModuleQuestion, WasiRuntime, annotations::Serve, convert, digests, metrics::MeasuredCompiler, serving,
};
use crate::supervisor::{ImageProgram, SupervisorError};

/// A shell's exit code for a program that is not there.
const NOT_FOUND: i32 = 127;
/// A shell's exit code for a file that cannot be run.
const NOT_RUNNABLE: i32 = 126;

/// Why no program was run.
pub(super) enum NoProgram {
    /// There is none that can be run: what a shell answers, and why.
    Answered(i32, String),
    /// It could not be found out.
    Failed(ExecError),
}

impl From<ModuleError> for NoProgram {
    fn from(error: ModuleError) -> Self {
        match error {
            ModuleError::NotFound { .. } | ModuleError::NoFile { .. } => {
                Self::Answered(NOT_FOUND, error.to_string())
            }
            ModuleError::NotWasm { .. } | ModuleError::Empty { .. } => {
                Self::Answered(NOT_RUNNABLE, error.to_string())
            }
            ModuleError::Store { .. } => Self::Failed(ExecError::Failed(error.into())),
        }
    }
}

impl WasiRuntime {
    /// Finds the program of a container's image that a command starts, as at the container's start. `None`: the container's own,
    /// whose image nobody knows any more.
    pub(super) async fn program(&self, id: &str, command: &str) -> Result<Option<ImageProgram>, NoProgram> {
        let not_running = || NoProgram::Failed(ExecError::NotRunning(id.to_owned()));
        let claim = self.supervisor.claim(id).ok_or_else(not_running)?;
        let failed = |error: kubewasm_modules::StoreError| NoProgram::Failed(ExecError::Failed(error.into()));
        let Some(digest) = digests(&claim.label).next() else { return Ok(None) };
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || store.by_digest(&digest)).await;
        let found = found.map_err(|error| NoProgram::Failed(ExecError::Failed(error.into())))?;
        let Some(image) = found.map_err(failed)? else { return Ok(None) };
        let module = self.store.module(&image, command).await?;
        let compiler = MeasuredCompiler::new(&self.compiler, &self.metrics);
        let compiled =
            self.store.precompiled(Some(&image.reference), &module, &compiler, &claim.pod_uid).await;
        self.metrics.looked_up(compiler.was_asked());
        let refused = |why: String| NoProgram::Answered(NOT_RUNNABLE, format!("exec: {command:?}: {why}"));
        let Precompiled { path, facts } = compiled.map_err(|error| match error {
            PrecompileError::Invalid(why) => refused(why),
            error => NoProgram::Failed(ExecError::Failed(error.into())),
        })?;
        if matches!(image.kind, ImageKind::Filesystem)
            && let Some(judge) = &self.judge
        {
            // One that was started by an earlier agent has been judged, but not for this.
            let Some(container) = self.judged(id) else {
                return Err(refused(
                    "permission denied: this node's policies have a say in it, and the container was started before this agent; \
                     restart the pod"
                        .to_owned(),
                ));
            };
            let question = ModuleQuestion {
                container: &container,
                image: &image.digest,
                module: &module.digest,
                facts: &facts,
            };
            let verdict = judge.judge(question).await.into_result();
            verdict.map_err(|error| refused(format!("permission denied: {error}")))?;
        }
        let kind = serving::kind(&facts, Some(Serve::Command))
            .or_else(|_| serving::kind(&facts, None))
            .map_err(|error| refused(error.to_string()))?;
        Ok(Some(ImageProgram { module: path, kind }))
    }

    /// A container that this agent has started, for who judges what runs in it.
    fn judged(&self, id: &str) -> Option<Arc<ContainerSpec>> {
        self.started.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(id).cloned()
    }

    pub(super) async fn exec_collected(
        &self,
        id: &str,
        argv: &[String],
        limit: usize,
    ) -> Result<ExecEnd, ExecError> {
        let program = match self.program(id, argv.first().map_or("", String::as_str)).await {
            Ok(program) => program,
            Err(NoProgram::Answered(exit_code, why)) => {
                let mut output = format!("{why}\n").into_bytes();
                output.truncate(limit);
                return Ok(ExecEnd { exit_code, output });
            }
            Err(NoProgram::Failed(error)) => return Err(error),
        };
        let output = self.supervisor.exec(id, argv, program.as_ref(), limit).await;
        output.map(convert::exec_end).map_err(|error| convert::exec_error(id, error))
    }

    pub(super) async fn exec_connected(
        &self,
        id: &str,
        argv: &[String],
        streams: CallerStreams,
    ) -> Result<i32, ExecError> {
        match self.program(id, argv.first().map_or("", String::as_str)).await {
            Ok(program) => {
                let ended = self.supervisor.exec_stream(id, argv, program.as_ref(), streams).await;
                ended.map_err(|error| convert::exec_error(id, error))
            }
            Err(NoProgram::Answered(exit_code, why)) => {
                say(streams, &why).await;
                Ok(exit_code)
            }
            Err(NoProgram::Failed(error)) => Err(error),
        }
    }
}

/// Tells a caller why nothing runs.
async fn say(streams: CallerStreams, why: &str) {
    let end = if streams.tty { "\r\n" } else { "\n" };
    let CallerStreams { stdout, stderr, .. } = streams;
    if let Some(mut to) = stderr.or(stdout) {
        // Whoever is gone hears nothing.
        let _ = to.write_all(format!("{why}{end}").as_bytes()).await;
        let _ = to.shutdown().await;
    }
}

pub(super) fn forwarded(
    result: Result<crate::supervisor::ForwardedConnection, SupervisorError>,
) -> Result<Box<dyn Duplex>, PortForwardError> {
    match result {
        Ok(connection) => Ok(Box::new(connection)),
        Err(SupervisorError::NotRunning(_)) => Err(PortForwardError::NotRunning),
        Err(error) => Err(PortForwardError::Failed(error.into())),
    }
}
