//! Which of a module's exports a container runs, and what follows from its serving HTTP. Pure.

use std::sync::Arc;

use kubewasm_host::{
    ListenPort, ModuleKind, UnknownKind,
    http::{HttpSettings, ServerCertificate},
};
use kubewasm_kubelet::runtime::StartError;
use kubewasm_modules::Facts;

use super::{
    annotations::{self, Serve},
    tls,
};
use crate::spec::InstanceSpec;

/// Where HTTP is served by a container that names no port.
const PORT: u16 = 8080;
/// The variable that tells it.
const PORT_VARIABLE: &str = "PORT";

/// How a module is run: as it is best run, or as the pod wants it.
pub(super) fn kind(facts: &Facts, wanted: Option<Serve>) -> Result<ModuleKind, StartError> {
    let read = |kind: &String| kind.parse().map_err(|error: UnknownKind| StartError::Run(error.into()));
    let best: ModuleKind = read(&facts.kind)?;
    if best.is_embedded() {
        return Err(config(format!(
            "its module is a {best}, which is called and not run: it is an admission policy, say; see docs/policies.md"
        )));
    }
    let Some(wanted) = wanted else { return Ok(best) };
    let is_wanted = |kind: &ModuleKind| serves(*kind) == (wanted == Serve::Http);
    if is_wanted(&best) {
        return Ok(best);
    }
    let others = facts.other_kinds.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    // Compiled for another engine, it cannot run on that of the best way.
    let fits = |kind: &ModuleKind| is_wanted(kind) && kind.generation() == best.generation();
    others.into_iter().find(fits).ok_or_else(|| {
        let (wanted, key) = (wanted.name(), annotations::SERVE);
        config(format!(
            "the annotation {key}/<container> asks for {wanted:?}, and the module exports nothing of the kind that runs beside its \
             {best}; leave the annotation out"
        ))
    })
}

/// How a container serves HTTP, if its module is run so.
pub(super) fn settings(
    kind: ModuleKind,
    asked: Option<HttpSettings>,
) -> Result<Option<HttpSettings>, StartError> {
    match (serves(kind), asked) {
        (true, Some(asked)) if asked.instance_concurrency > 1 && kind != ModuleKind::HttpComponentP3 => {
            let key = annotations::HTTP;
            Err(config(format!(
                "the annotation {key}/<container> sets instance-concurrency={}, and this one's module is a {kind}, whose instances \
                 answer one request at a time; leave it out, or build the component for wasi:http/handler@0.3",
                asked.instance_concurrency
            )))
        }
        (true, asked) => Ok(Some(asked.unwrap_or_default())),
        (false, None) => Ok(None),
        (false, Some(_)) => {
            let key = annotations::HTTP;
            Err(config(format!(
                "the annotation {key}/<container> is for containers that serve HTTP, and this one's module is a {kind}; leave it out"
            )))
        }
    }
}

/// The certificate of a container, which must be one that serves HTTP.
pub(super) fn certificate(
    container: &str,
    kind: ModuleKind,
    asked: Option<Arc<ServerCertificate>>,
) -> Result<Option<Arc<ServerCertificate>>, StartError> {
    if asked.is_some() && !serves(kind) {
        let key = tls::annotation(container);
        return Err(config(format!(
            "the annotation {key} is for containers that serve HTTP, and this one's module is a {kind}; leave it out"
        )));
    }
    Ok(asked)
}

/// What an instance that serves HTTP is told: its port, and that in its environment, unless that says something else.
pub(super) fn with_port(mut spec: InstanceSpec) -> InstanceSpec {
    if spec.http.is_some() {
        spec.listen_ports.truncate(1);
        let first = spec.listen_ports.first().cloned();
        let first = first.unwrap_or_else(|| ListenPort { port: PORT, name: String::new() });
        if !spec.env.iter().any(|(name, _)| name == PORT_VARIABLE) {
            spec.env.push((PORT_VARIABLE.to_owned(), first.port.to_string()));
        }
        spec.listen_ports = vec![first];
    }
    spec
}

fn serves(kind: ModuleKind) -> bool {
    match kind {
        ModuleKind::HttpComponent | ModuleKind::HttpComponentP3 => true,
        ModuleKind::CoreCommand
        | ModuleKind::CliComponent
        | ModuleKind::CliComponentP3
        | ModuleKind::EmbeddedCore
        | ModuleKind::EmbeddedComponent => false,
    }
}

fn config(message: String) -> StartError {
    StartError::Config(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kinds: &[ModuleKind]) -> Facts {
        let mut kinds = kinds.iter().map(ToString::to_string);
        Facts { kind: kinds.next().unwrap(), other_kinds: kinds.collect(), ..Facts::default() }
    }

    #[test]
    fn the_pod_decides_between_the_exports_of_one_engine() {
        use ModuleKind::{CliComponent, CliComponentP3, CoreCommand, HttpComponent, HttpComponentP3};
        use Serve::{Command, Http};
        for (kinds, wanted, expected) in [
            (&[HttpComponent, CliComponent][..], None, Some(HttpComponent)),
            (&[HttpComponent, CliComponent], Some(Http), Some(HttpComponent)),
            (&[HttpComponent, CliComponent], Some(Command), Some(CliComponent)),
            (
                &[HttpComponentP3, HttpComponent, CliComponentP3, CliComponent],
                Some(Command),
                Some(CliComponentP3),
            ),
            (&[HttpComponent], Some(Command), None),
            (&[HttpComponent, CliComponentP3], Some(Command), None),
            (&[CoreCommand], Some(Http), None),
            (&[CoreCommand], Some(Command), Some(CoreCommand)),
        ] {
            let found = kind(&facts(kinds), wanted);
            assert_eq!(found.as_ref().ok(), expected.as_ref(), "{kinds:?} {wanted:?}");
            assert!(found.err().is_none_or(|error| error.to_string().contains("serve.kubewasm.dev")));
        }
    }

    #[test]
    fn what_is_called_is_no_container() {
        for embedded in [ModuleKind::EmbeddedCore, ModuleKind::EmbeddedComponent] {
            for wanted in [None, Some(Serve::Command)] {
                let error = kind(&facts(&[embedded, ModuleKind::CliComponent]), wanted).unwrap_err();
                assert!(error.to_string().contains("is called and not run"), "{error}");
            }
        }
    }

    #[test]
    fn settings_are_for_those_who_serve() {
        let asked: HttpSettings = "max-requests=7".parse().unwrap();
        assert_eq!(settings(ModuleKind::HttpComponent, None).unwrap(), Some(HttpSettings::default()));
        assert_eq!(settings(ModuleKind::HttpComponentP3, Some(asked.clone())).unwrap(), Some(asked.clone()));
        assert_eq!(settings(ModuleKind::CliComponent, None).unwrap(), None);
        let shared: HttpSettings = "max-requests=7,instance-concurrency=7".parse().unwrap();
        let found = settings(ModuleKind::HttpComponentP3, Some(shared.clone())).unwrap();
        assert_eq!(found, Some(shared.clone()));
        let error = settings(ModuleKind::HttpComponent, Some(shared)).unwrap_err().to_string();
        assert!(error.contains("instance-concurrency=7") && error.contains("leave it out"), "{error}");
        let error = settings(ModuleKind::CliComponent, Some(asked)).unwrap_err().to_string();
        assert!(error.contains("http.kubewasm.dev") && error.contains("cli-component"), "{error}");
    }
}
