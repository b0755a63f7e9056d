//! One run of one plugin: a process as root that is told what to do by variables and its standard input, and is held to a
//! time and to a size of what it says.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

use crate::result::{ErrorResult, ResultError};

/// What a plugin may answer, in bytes.
const STDOUT_LIMIT: u64 = 1 << 20;
/// How much is kept of what it says for people, in bytes.
const STDERR_LIMIT: u64 = 16 << 10;
/// How much of a plugin's words is in a message, in characters.
const WORDS: usize = 1000;
/// What plugins look programs up by (iptables, nft, their own helpers), and all that they have of an environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A plugin that is being replaced cannot be run for a moment (ETXTBSY).
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// What a plugin is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Verb {
    /// `CNI_COMMAND`.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// As messages say it: the words of the reference library, which people look for.
impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "add",
            Self::Check => "check",
            Self::Del => "delete",
            Self::Gc => "gc",
            Self::Status => "status",
            Self::Version => "version",
        })
    }
}

/// A plugin has failed.
#[derive(Debug, thiserror::Error)]
#[error("plugin type=\"{plugin}\" failed ({verb}): {failure}")]
pub(crate) struct PluginError {
    pub(crate) plugin: String,
    pub(crate) verb: Verb,
    #[source]
    pub(crate) failure: PluginFailure,
}

/// How.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginFailure {
    #[error("failed to find plugin \"{plugin}\" in path [{}]", dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" "))]
    Missing { plugin: String, dirs: Vec<PathBuf> },
    #[error("it cannot be run: {0}")]
    Spawn(#[source] io::Error),
    #[error("it cannot be spoken to: {0}")]
    Io(#[source] io::Error),
    /// It has said why.
    #[error("{}", told(.0))]
    Told(ErrorResult),
    /// It has not, or not as it should have.
    #[error("{status}; it said: {words:?}")]
    Garbled { status: ExitStatus, words: String },
    #[error("it has answered more than {STDOUT_LIMIT} bytes, and was killed")]
    TooMuch,
    #[error("it has not ended within {} s, and was killed", .0.as_secs())]
    TimedOut(Duration),
    #[error(transparent)]
    Result(#[from] ResultError),
    #[error("it speaks {spoken}, not version {wanted} of the network's configuration")]
    Version { spoken: String, wanted: &'static str },
}

fn told(error: &ErrorResult) -> String {
    let ErrorResult { code, msg, details } = error;
    let msg = if msg.is_empty() { format!("error {code}") } else { words(msg.as_bytes()) };
    if details.is_empty() { msg } else { format!("{msg}; {}", words(details.as_bytes())) }
}

/// What a plugin has said, fit for a message.
fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(WORDS).collect()
}

/// The program of a plugin: the first of its name in these directories. Blocks.
pub(crate) fn find(plugin: &str, dirs: &[PathBuf]) -> Result<PathBuf, PluginFailure> {
    let programs = dirs.iter().map(|dir| dir.join(plugin));
    let missing = || PluginFailure::Missing { plugin: plugin.to_owned(), dirs: dirs.to_vec() };
    programs.into_iter().find(|program| program.is_file()).ok_or_else(missing)
}

/// Runs a program to its end, with these variables and nothing else of an environment. Returns what it answers.
pub(crate) async fn run(
    program: &Path,
    variables: &[(&'static str, String)],
    input: &[u8],
    within: Duration,
) -> Result<Vec<u8>, PluginFailure> {
    let mut child = spawn(program, variables).await.map_err(PluginFailure::Spawn)?;
    // Also where this future is dropped.
    let mut group = KillGroup(child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)));
    let ended = tokio::time::timeout(within, converse(&mut child, input)).await;
    match ended {
        Ok(Ok(Spoken { status, stdout, stderr })) => {
            group.0 = None;
            answer(status, stdout, &stderr)
        }
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(PluginFailure::TimedOut(within)),
    }
}

async fn spawn(program: &Path, variables: &[(&'static str, String)]) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).envs(variables.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // With a group of its own, the plugins that it runs itself end with it.
    command.process_group(0).kill_on_drop(true);
    for _ in 1..BUSY_TRIES {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            spawned => return spawned,
        }
    }
    command.spawn()
}

/// Kills what a plugin has started, and the plugin.
struct KillGroup(Option<Pid>);

impl Drop for KillGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended in between.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

struct Spoken {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

async fn converse(child: &mut Child, input: &[u8]) -> Result<Spoken, PluginFailure> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // One that does not want to know may have ended already.
            let _ = stdin.write_all(input).await;
        }
    };
    let hear = async {
        let (heard, is_all) = read(stdout, STDOUT_LIMIT).await.map_err(PluginFailure::Io)?;
        if is_all { Ok(heard) } else { Err(PluginFailure::TooMuch) }
    };
    let overhear = async {
        let mut stderr = stderr;
        let (heard, is_all) = read(stderr.as_mut(), STDERR_LIMIT).await.map_err(PluginFailure::Io)?;
        if let Some(rest) = stderr.as_mut().filter(|_| !is_all) {
            // It must be able to go on.
            tokio::io::copy(rest, &mut tokio::io::sink()).await.map_err(PluginFailure::Io)?;
        }
        Ok(heard)
    };
    let ((), stdout, stderr) = tokio::try_join!(
        async {
            tell.await;
            Ok(())
        },
        hear,
        overhear
    )?;
    let status = child.wait().await.map_err(PluginFailure::Io)?;
    Ok(Spoken { status, stdout, stderr })
}

/// Reads up to a limit, and says whether that was all.
async fn read(from: Option<impl AsyncRead + Unpin>, limit: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut heard = Vec::new();
    if let Some(from) = from {
        from.take(limit + 1).read_to_end(&mut heard).await?;
    }
    let is_all = heard.len() as u64 <= limit;
    Ok((heard, is_all))
}

fn answer(status: ExitStatus, stdout: Vec<u8>, stderr: &[u8]) -> Result<Vec<u8>, PluginFailure> {
    if status.success() {
        return Ok(stdout);
    }
    let told = serde_json::from_slice::<ErrorResult>(&stdout).ok();
    if let Some(told) = told.filter(|told| told.code != 0 || !told.msg.is_empty()) {
        return Err(PluginFailure::Told(told));
    }
    let said = if stderr.trim_ascii().is_empty() { words(&stdout) } else { words(stderr) };
    Err(PluginFailure::Garbled { status, words: said })
}

#[cfg(test)]
mod tests;
