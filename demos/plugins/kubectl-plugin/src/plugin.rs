//! From the start of a plugin's process to its exit code.

use std::{
    env,
    io::{self, IsTerminal as _, Write},
    process::ExitCode,
    rc::Rc,
};

use jiff::Timestamp;

use crate::{
    client::Client,
    error::{Error, Result},
    flags::CommonFlags,
    transport::Transport,
};

/// The namespace that counts without `-n`: the host knows that of the context.
const NAMESPACE: &str = "KUBECTL_PLUGIN_NAMESPACE";
/// How kubectl names what it asks for completions.
const COMPLETER: &str = "kubectl_complete-";
/// How Cobra's programs are asked for completions.
const COMPLETE: &str = "__complete";
/// Cobra's `ShellCompDirectiveNoFileComp`: names of files are not among what is meant.
const NO_FILES: &str = ":4";

/// What makes a program of this crate a plugin.
pub trait Plugin {
    /// What `--help` prints.
    const HELP: &'static str;

    /// Does what the arguments say.
    ///
    /// # Errors
    /// Whatever ends it: it is printed as kubectl would print it, and the plugin's exit code is 1.
    fn run(&self, call: &mut Call<'_>) -> Result<()>;

    /// What the last of the words may become, which may be empty as yet. Those that do not begin with it are left out for you.
    ///
    /// # Errors
    /// Then there are no completions. Nobody is told: a shell waits for the user to type on.
    fn complete(&self, call: &mut Call<'_>) -> Result<Vec<String>> {
        let _ = call;
        Ok(Vec::new())
    }
}

/// What a plugin has for one call of it.
#[allow(missing_debug_implementations)]
pub struct Call<'a> {
    /// The words behind the plugin's name.
    pub words: Vec<String>,
    /// The API server of the user's context.
    pub client: Client,
    /// The namespace of `-n`, or of the context, or `default`.
    pub namespace: String,
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error, for what is no result.
    pub err: &'a mut dyn Write,
    /// Whether the output is for eyes that like colours.
    pub colours: bool,
    /// What time it is.
    pub now: fn() -> Timestamp,
}

impl Call<'_> {
    /// The namespace that these flags mean; `None` for all of them.
    #[must_use]
    pub fn namespace<'a>(&'a self, flags: &'a CommonFlags) -> Option<&'a str> {
        match (flags.all_namespaces, &flags.namespace) {
            (true, _) => None,
            (false, Some(namespace)) => Some(namespace),
            (false, None) => Some(&self.namespace),
        }
    }
}

/// How a plugin was called.
pub(crate) struct Invocation {
    /// As its user calls it: `kubectl decoder`
    pub(crate) command: String,
    pub(crate) words: Vec<String>,
    pub(crate) wants_completions: bool,
}

impl Invocation {
    /// Reads the arguments of a process, its name among them.
    pub(crate) fn of(arguments: impl IntoIterator<Item = String>) -> Self {
        let mut arguments = arguments.into_iter();
        let file = arguments.next().unwrap_or_default();
        let file = file.rsplit('/').next().unwrap_or_default();
        let mut words: Vec<_> = arguments.collect();
        let by_name = file.strip_prefix(COMPLETER);
        let by_word = by_name.is_none() && words.first().is_some_and(|word| word == COMPLETE);
        if by_word {
            words.remove(0);
        }
        let name = by_name.or_else(|| file.strip_prefix("kubectl-")).unwrap_or(file);
        // A dash of the name is an underscore in the name of its file.
        let command = format!("kubectl {}", name.replace('_', "-"));
        Self { command, words, wants_completions: by_name.is_some() || by_word }
    }
}

/// Runs a plugin: its `main` is nothing else.
pub fn main(plugin: &impl Plugin) -> ExitCode {
    let invocation = Invocation::of(env::args_os().map(|word| word.to_string_lossy().into_owned()));
    let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let is_dumb = set("TERM").is_some_and(|terminal| terminal == "dumb");
    let mut call = Call {
        words: invocation.words.clone(),
        client: Client::new(transport(), invocation.command.replace(' ', "-")),
        namespace: set(NAMESPACE).unwrap_or_else(|| "default".to_owned()),
        out: &mut io::stdout().lock(),
        err: &mut io::stderr().lock(),
        colours: io::stdout().is_terminal() && set("NO_COLOR").is_none() && !is_dumb,
        now: Timestamp::now,
    };
    ExitCode::from(answer(plugin, &invocation, &mut call))
}

/// Does what a plugin was called for, tells what failed, and returns the exit code.
pub(crate) fn answer<P: Plugin>(plugin: &P, invocation: &Invocation, call: &mut Call<'_>) -> u8 {
    if invocation.wants_completions {
        return complete(plugin, call);
    }
    let result = plugin.run(call).and_then(|()| Ok(call.out.flush()?));
    let (code, told) = match result {
        Ok(()) => return 0,
        Err(Error::Help) => (0, call.out.write_all(P::HELP.as_bytes()).and_then(|()| call.out.flush())),
        Err(Error::OutputClosed) => return 1,
        Err(error) => {
            let mut text = error.to_string();
            if matches!(error, Error::Usage(_)) {
                text = format!("{text}\nSee '{} --help' for usage.", invocation.command);
            }
            // What was printed before is above it.
            (1, call.out.flush().and_then(|()| writeln!(call.err, "{}", text.trim_end())))
        }
    };
    match told {
        Ok(()) => code,
        Err(_) => 1,
    }
}

/// Prints what Cobra's completion scripts read: a candidate on each line, and then what to do with them.
fn complete<P: Plugin>(plugin: &P, call: &mut Call<'_>) -> u8 {
    let begun = call.words.last().cloned().unwrap_or_default();
    let mut candidates = plugin.complete(call).unwrap_or_default();
    candidates.retain(|candidate| candidate.starts_with(&begun) && !candidate.contains('\n'));
    let lines: String = candidates.iter().map(|candidate| format!("{candidate}\n")).collect();
    match writeln!(call.out, "{lines}{NO_FILES}").and_then(|()| call.out.flush()) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

#[cfg(target_os = "wasi")]
fn transport() -> Rc<dyn Transport> {
    Rc::new(crate::wasi::WasiHttp)
}

/// A plugin on a machine of its own: it can be compiled there, and its tests run there, and that is all.
#[cfg(not(target_os = "wasi"))]
fn transport() -> Rc<dyn Transport> {
    use std::time::Duration;

    use crate::transport::{Request, Response, TransportError};

    struct Nothing;

    impl Transport for Nothing {
        fn send(&self, _: &Request) -> Result<Response, TransportError> {
            let text = "this is a program for WASI: build it with --target wasm32-wasip2, and run it with `kubewasm plugin run`";
            Err(TransportError::Other(text.to_owned()))
        }

        fn pause(&self, _: Duration) {}
    }
    Rc::new(Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Server};

    struct Echo;

    impl Plugin for Echo {
        const HELP: &'static str = "Says what it hears.\n";

        fn run(&self, call: &mut Call<'_>) -> Result<()> {
            match call.words.first().map(String::as_str) {
                Some("--help") => Err(Error::Help),
                Some("-x") => Err(Error::usage("unknown shorthand flag: 'x' in -x")),
                Some("fail") => {
                    writeln!(call.out, "half")?;
                    Err(Error::failed("no more"))
                }
                _ => Ok(writeln!(call.out, "{} in {}", call.words.join(" "), call.namespace)?),
            }
        }

        fn complete(&self, call: &mut Call<'_>) -> Result<Vec<String>> {
            if call.words.len() > 1 {
                return Err(Error::failed("no such thing"));
            }
            Ok(["apple", "apricot", "banana"].map(str::to_owned).to_vec())
        }
    }

    #[test]
    fn results_and_failures_have_their_streams_and_codes() {
        let run = |words: &[&str]| {
            let outcome = testing::run(&Echo, "kubectl-my_echo", words, &Server::default());
            (outcome.code, outcome.out, outcome.err)
        };
        assert_eq!(run(&["a", "b"]), (0, "a b in default\n".to_owned(), String::new()));
        assert_eq!(run(&["--help"]), (0, Echo::HELP.to_owned(), String::new()));
        assert_eq!(run(&["fail"]), (1, "half\n".to_owned(), "error: no more\n".to_owned()));
        let usage = "error: unknown shorthand flag: 'x' in -x\nSee 'kubectl my-echo --help' for usage.\n";
        assert_eq!(run(&["-x"]), (1, String::new(), usage.to_owned()));
    }

    #[test]
    fn completions_are_asked_for_by_name_or_by_word() {
        let run = |file: &str, words: &[&str]| testing::run(&Echo, file, words, &Server::default()).out;
        assert_eq!(run("kubectl_complete-echo", &["ap"]), "apple\napricot\n:4\n");
        assert_eq!(run("kubectl-echo", &["__complete", ""]), "apple\napricot\nbanana\n:4\n");
        assert_eq!(run("kubectl_complete-echo", &["a", "b"]), ":4\n");
        assert_eq!(run("kubectl_complete-echo", &["__complete"]), ":4\n", "a word that is typed");
    }

    #[test]
    fn a_command_is_called_by_what_its_user_types() {
        for (file, expected) in [
            ("kubectl-decoder", "kubectl decoder"),
            ("/bin/kubectl-pod-watch", "kubectl pod-watch"),
            ("kubectl-pod_watch", "kubectl pod-watch"),
            ("kubectl_complete-decoder", "kubectl decoder"),
            ("decoder.wasm", "kubectl decoder.wasm"),
        ] {
            assert_eq!(Invocation::of([file.to_owned()]).command, expected);
        }
    }
}
