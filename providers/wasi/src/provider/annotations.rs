//! What a pod's annotations ask for, container by container. Pure.
//!
//! The name of the container is the part behind the slash, as it was with AppArmor's:
//! `stack.kubewasm.dev/main: 16Mi`.

use kubewasm_host::{
    EgressList, InvalidEgress, Stack,
    http::{HttpSettings, InvalidHttpSettings},
};
use kubewasm_kubelet::{
    quantity,
    runtime::{ContainerSpec, StartError},
};

const STACK: &str = "stack.kubewasm.dev";
const TERMINAL: &str = "terminal.kubewasm.dev";
const EGRESS: &str = "egress.kubewasm.dev";
pub(super) const HTTP: &str = "http.kubewasm.dev";
pub(super) const SERVE: &str = "serve.kubewasm.dev";

/// What a guest is told whose stack was too small.
pub(crate) const STACK_ADVICE: &str =
    "; ask for more with the pod's annotation stack.kubewasm.dev/<container>, such as 16Mi";

/// What is asked for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) stack: Stack,
    /// Output streams say that they are terminals, or that they are none. `None`: as is best for a module of its kind.
    pub(super) terminal: Option<bool>,
    /// All that it may reach, if there is such a list.
    pub(super) egress: Option<EgressList>,
    /// How it serves HTTP.
    pub(super) http: Option<HttpSettings>,
    /// Which of its module's exports is run; nothing for the best one.
    pub(super) serve: Option<Serve>,
}

/// Which of a module's exports is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serve {
    /// The handler of HTTP requests.
    Http,
    /// The command.
    Command,
}

impl Serve {
    /// As it is written.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Command => "command",
        }
    }
}

/// What the annotations of a container's pod ask for.
///
/// # Errors
/// [`StartError::Config`], which names the annotation and what it may be.
pub(super) fn of(spec: &ContainerSpec) -> Result<Wishes, StartError> {
    let value = |prefix: &str| {
        let key = format!("{prefix}/{}", spec.name);
        spec.annotations.get(&key).map(|value| (key, value.as_str()))
    };
    let stack = match value(STACK) {
        None => Stack::DEFAULT,
        Some((key, text)) => quantity::units(text).ok().and_then(Stack::of_bytes).ok_or_else(|| {
            let largest = Stack::LARGEST;
            config(format!(
                "the annotation {key} is {text:?}, and must be an amount of memory up to {largest}"
            ))
        })?,
    };
    let terminal = match value(TERMINAL) {
        None => None,
        Some((_, "true")) => Some(true),
        Some((_, "false")) => Some(false),
        Some((key, text)) => {
            return Err(config(format!(
                "the annotation {key} is {text:?}, and must be \"true\" or \"false\""
            )));
        }
    };
    let egress = value(EGRESS).map(|(key, text)| {
        text.parse().map_err(|error: InvalidEgress| config(format!("the annotation {key}: {error}")))
    });
    let http = value(HTTP).map(|(key, text)| {
        text.parse().map_err(|error: InvalidHttpSettings| config(format!("the annotation {key}: {error}")))
    });
    let serve = match value(SERVE) {
        None => None,
        Some((_, "http")) => Some(Serve::Http),
        Some((_, "command")) => Some(Serve::Command),
        Some((key, text)) => {
            return Err(config(format!(
                "the annotation {key} is {text:?}, and must be \"http\" or \"command\""
            )));
        }
    };
    Ok(Wishes { stack, terminal, egress: egress.transpose()?, http: http.transpose()?, serve })
}

fn config(message: String) -> StartError {
    StartError::Config(message.into())
}
