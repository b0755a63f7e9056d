//! What a pod's annotations ask for, container by container. Pure.
//!
//! The name of the container is the part behind the slash, as it was with AppArmor's:
//! `stack.kubewasm.dev/main: 16Mi`.

use std::{collections::BTreeMap, sync::Arc};

use kubewasm_host::{
    EgressList, InvalidEgress, PrivateAuthorities, Stack,
    http::{HttpSettings, InvalidHttpSettings, ServerCertificate},
};
use kubewasm_kubelet::{
    quantity,
    runtime::{ContainerSpec, StartError},
};

use super::tls;

const STACK: &str = "stack.kubewasm.dev";
const TERMINAL: &str = "terminal.kubewasm.dev";
const EGRESS: &str = "egress.kubewasm.dev";
pub(super) const HTTP: &str = "http.kubewasm.dev";
pub(super) const SERVE: &str = "serve.kubewasm.dev";
const AUTHORITIES: &str = "ca.kubewasm.dev";
/// Where in its ConfigMap a bundle of certificates is, as in those that Kubernetes makes (`kube-root-ca.crt`).
const AUTHORITIES_KEY: &str = "ca.crt";

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
    /// Whom it trusts besides those that the machine trusts.
    pub(super) authorities: Option<Arc<PrivateAuthorities>>,
    /// The certificate that it serves HTTP with.
    pub(super) tls: Option<Arc<ServerCertificate>>,
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

/// The ConfigMap that a container's authorities are in, if there is one.
pub(super) fn config_map<'a>(
    container: &str,
    annotations: &'a BTreeMap<String, String>,
) -> Option<&'a String> {
    annotations.get(&format!("{AUTHORITIES}/{container}"))
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
    let (egress, http, authorities) = (egress.transpose()?, http.transpose()?, authorities(spec)?);
    tls::check(&spec.annotations, &spec.pod_containers).map_err(config)?;
    let tls = tls::certificate(&spec.name, &spec.annotations, &spec.objects).map_err(config)?;
    Ok(Wishes { stack, terminal, egress, http, serve, authorities, tls })
}

/// The authorities that a container's ConfigMap holds.
fn authorities(spec: &ContainerSpec) -> Result<Option<Arc<PrivateAuthorities>>, StartError> {
    let Some(name) = config_map(&spec.name, &spec.annotations) else { return Ok(None) };
    let key = format!("{AUTHORITIES}/{}", spec.name);
    let bundle = spec.objects.config_maps.get(name).and_then(|data| data.get(AUTHORITIES_KEY));
    let bundle = bundle.ok_or_else(|| {
        config(format!(
            "the annotation {key} names the configmap {name:?}, which has no key {AUTHORITIES_KEY} with certificates in it"
        ))
    })?;
    let authorities = PrivateAuthorities::from_pem(bundle).map_err(|error| {
        config(format!(
            "the key {AUTHORITIES_KEY} of the configmap {name:?}, which the annotation {key} names: {error}"
        ))
    })?;
    Ok(Some(Arc::new(authorities)))
}

fn config(message: String) -> StartError {
    StartError::Config(message.into())
}
