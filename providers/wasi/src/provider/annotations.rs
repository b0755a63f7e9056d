//! What a pod's annotations ask for, container by container. Pure.
//!
//! The name of the container is the part behind the slash, as it was with AppArmor's:
//! `stack.kubewasm.dev/main: 16Mi`.

use kubewasm_host::{EgressList, InvalidEgress, Stack};
use kubewasm_kubelet::{
    quantity,
    runtime::{ContainerSpec, StartError},
};

const STACK: &str = "stack.kubewasm.dev";
const TERMINAL: &str = "terminal.kubewasm.dev";
const EGRESS: &str = "egress.kubewasm.dev";

/// What a guest is told whose stack was too small.
pub(crate) const STACK_ADVICE: &str =
    "; ask for more with the pod's annotation stack.kubewasm.dev/<container>, such as 16Mi";

/// What is asked for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) stack: Stack,
    /// Output streams say that they are terminals.
    pub(super) terminal: bool,
    /// All that it may reach, if there is such a list.
    pub(super) egress: Option<EgressList>,
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
        None | Some((_, "true")) => true,
        Some((_, "false")) => false,
        Some((key, text)) => {
            return Err(config(format!(
                "the annotation {key} is {text:?}, and must be \"true\" or \"false\""
            )));
        }
    };
    let egress = value(EGRESS).map(|(key, text)| {
        text.parse().map_err(|error: InvalidEgress| config(format!("the annotation {key}: {error}")))
    });
    Ok(Wishes { stack, terminal, egress: egress.transpose()? })
}

fn config(message: String) -> StartError {
    StartError::Config(message.into())
}
