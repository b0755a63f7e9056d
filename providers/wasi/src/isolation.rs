//! Who shares a worker. Pure.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

/// Handler of the RuntimeClass whose pods are run as the node is configured.
pub const HANDLER: &str = "wasm";
/// Handler of the RuntimeClass whose pods have a worker each, however the node is configured.
pub const HANDLER_ISOLATED: &str = "wasm-isolated";

/// Longest name of a group, in bytes. Groups are directories, below which there is a socket, and the paths of
/// those are short ([`crate::worker::WorkerError::SocketPath`]).
pub const NAME_LIMIT: usize = 32;
/// Longest name without the age of its worker.
const BASE_LIMIT: usize = NAME_LIMIT - 1 - AGE_DIGITS;
/// Hexadecimal digits of an age.
const AGE_DIGITS: usize = 5;
/// How the names of groups begin whose workers have a network namespace of their own.
const OWN_NETWORK: &str = "net-";
/// What is left of a name that is too long, in front of its digest.
const KEPT: usize = 5;
/// Hexadecimal digits of a digest: so many that nobody can find a name for which another one's is the same.
const DIGITS: usize = 20;

/// What workers of one build have in common: the code that they can load, and what they know of a container's
/// specification. Containers do not share a worker of another age than their agent's, so that an upgrade leaves
/// alone what runs, and does not place what is new where it could not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Age(String);

impl Age {
    /// The age of workers that load code for these compiler keys, one for each generation of engines
    /// ([`kubewasm_host::engine::key`]), and whose newest version of the protocol is this.
    #[must_use]
    pub fn new<'a>(compiler_keys: impl IntoIterator<Item = &'a str>, protocol: u32) -> Self {
        let mut text = String::new();
        for key in compiler_keys {
            text.push_str(key);
            text.push(' ');
        }
        Self(digest(format!("{text}{protocol}"), AGE_DIGITS))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who shares a worker process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Pods of one namespace.
    #[default]
    Namespace,
    /// All pods of the node: the densest.
    Node,
    /// The containers of one pod: the strongest.
    Pod,
}

impl Isolation {
    /// All of them, as they are written.
    pub const NAMES: [&str; 3] = ["namespace", "node", "pod"];

    /// How a pod of this RuntimeClass handler is isolated on a node that is configured so.
    #[must_use]
    pub fn of_handler(self, handler: &str) -> Self {
        if handler == HANDLER_ISOLATED { Self::Pod } else { self }
    }

    /// Name of the group of a pod whose containers start in workers of this age: fit for a directory, at most
    /// [`NAME_LIMIT`] bytes, and different for pods that do not share a worker.
    #[must_use]
    pub fn group(self, namespace: &str, uid: &str, age: &Age) -> String {
        let base = match self {
            Self::Namespace => name("ns", namespace),
            Self::Node => "node".to_owned(),
            Self::Pod => name("pod", uid),
        };
        format!("{base}.{age}")
    }

    /// The same for a pod that has addresses of its own: the workers of such a group have a network namespace of their
    /// own ([`domain_of`]), and no pods of the node's.
    #[must_use]
    pub fn network_group(self, namespace: &str, uid: &str, age: &Age) -> String {
        let base = match self {
            Self::Namespace => name("net-ns", namespace),
            Self::Node => "net-node".to_owned(),
            Self::Pod => name("net-pod", uid),
        };
        format!("{base}.{age}")
    }
}

/// How the names of groups begin whose pod has a network namespace to itself, made for it by others.
const SANDBOX: &str = "cni";

/// Name of the group of a pod that has a network namespace to itself, without the age of its worker.
#[must_use]
pub fn sandbox_base(uid: &str) -> String {
    name(SANDBOX, uid)
}

/// Name of the group of a pod that has a network namespace to itself, which no other pod can share.
#[must_use]
pub fn sandbox_group(uid: &str, age: &Age) -> String {
    format!("{}.{age}", sandbox_base(uid))
}

/// The network namespace of the workers of a group, if they have one of their own: those of all ages share it.
#[must_use]
pub fn domain_of(group: &str) -> Option<&str> {
    let base = group.rsplit_once('.').map_or(group, |(base, _)| base);
    base.starts_with(OWN_NETWORK).then_some(base)
}

/// The worker of this group hosts one pod alone, whatever its name was cut to.
#[must_use]
pub fn is_of_one_pod(group: &str) -> bool {
    ["pod-", "net-p", "cni-"].iter().any(|kind| group.starts_with(kind))
}

/// `kind-text`; a text that is too long, or that is no plain name, is cut and followed by its digest. No
/// plain name has a `~`, so the two never meet.
fn name(kind: &str, text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let whole = format!("{kind}-{text}");
    if whole.len() <= BASE_LIMIT && text.bytes().all(is_plain) {
        return whole;
    }
    let kept: String = whole.chars().filter(|c| u8::try_from(*c).is_ok_and(is_plain)).take(KEPT).collect();
    format!("{kept}~{}", digest(text, DIGITS))
}

/// So many hexadecimal digits of the SHA-256 of a text, at most 64.
pub(crate) fn digest(text: impl AsRef<[u8]>, digits: usize) -> String {
    let mut all: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    all.truncate(digits);
    all
}

/// A text that names no isolation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no isolation {0:?}: it is one of namespace, node and pod")]
pub struct UnknownIsolation(String);

impl FromStr for Isolation {
    type Err = UnknownIsolation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "namespace" => Ok(Self::Namespace),
            "node" => Ok(Self::Node),
            "pod" => Ok(Self::Pod),
            other => Err(UnknownIsolation(other.to_owned())),
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "namespace",
            Self::Node => "node",
            Self::Pod => "pod",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const UID: &str = "0b7f4b53-6a0c-4c53-9e7e-7d3d9f4b0a11";

    fn age() -> Age {
        Age::new(["wasmtime-48.0.8-0123456789abcdef"], 2)
    }

    /// A name without its age.
    fn base(isolation: Isolation, namespace: &str, uid: &str) -> String {
        let name = isolation.group(namespace, uid, &age());
        name.strip_suffix(&format!(".{}", age())).unwrap().to_owned()
    }

    #[test]
    fn names_are_readable_where_they_are_short() {
        for (isolation, namespace, expected) in [
            (Isolation::Node, "default", "node"),
            (Isolation::Namespace, "default", "ns-default"),
            (Isolation::Namespace, "kube-system", "ns-kube-system"),
            (Isolation::Namespace, &"x".repeat(23), &format!("ns-{}", "x".repeat(23))),
            (Isolation::Namespace, &"x".repeat(24), "ns-xx~de9a59a6229452478dc9"),
            (Isolation::Pod, "default", "pod-0~ad7b5a1c2b8e4d8f0a11"),
        ] {
            let name = base(isolation, namespace, UID);
            let digest =
                |name: &str| name.split_once('~').map(|(kept, digits)| (kept.to_owned(), digits.len()));
            assert_eq!(digest(&name), digest(expected), "{name}");
            if !expected.contains('~') {
                assert_eq!(name, expected);
            }
        }
    }

    #[test]
    fn a_group_tells_whether_it_is_of_one_pod() {
        for namespace in ["default", "pod", "p", "net-pod-a", &"p".repeat(60)] {
            for (isolation, expected) in
                [(Isolation::Namespace, false), (Isolation::Node, false), (Isolation::Pod, true)]
            {
                assert_eq!(is_of_one_pod(&isolation.group(namespace, UID, &age())), expected, "{namespace}");
                let group = isolation.network_group(namespace, UID, &age());
                assert_eq!(is_of_one_pod(&group), expected, "{group}");
            }
        }
        assert!(is_of_one_pod(&sandbox_group(UID, &age())));
    }

    #[test]
    fn names_are_short_and_are_single_parts_of_paths() {
        for text in
            ["", "..", "a/b", "../../etc", "Ünïcode", "node", &"n".repeat(63), &"/".repeat(300), UID, "~"]
        {
            for isolation in [Isolation::Namespace, Isolation::Pod] {
                let name = isolation.group(text, text, &age());
                assert!(name.len() <= NAME_LIMIT, "{name}");
                assert!(!name.contains(['/', '\0']) && !name.starts_with('.'), "{name}");
                assert!(!base(isolation, text, text).contains('.'), "{name}");
            }
        }
    }

    #[test]
    fn those_who_do_not_share_a_worker_have_different_names() {
        let long = "n".repeat(62);
        let texts =
            ["node", "default", "ns-default", "default~", &long, &format!("{long}n"), "..", "a/b", "a-b", ""];
        let names: HashSet<_> = texts
            .iter()
            .flat_map(|text| [base(Isolation::Namespace, text, ""), base(Isolation::Pod, "", text)])
            .chain([base(Isolation::Node, "", "")])
            .collect();
        assert_eq!(names.len(), 2 * texts.len() + 1, "{names:?}");
        let with_network: HashSet<_> = texts
            .iter()
            .flat_map(|text| {
                [
                    Isolation::Namespace.network_group(text, "", &age()),
                    Isolation::Pod.network_group("", text, &age()),
                ]
            })
            .chain([Isolation::Node.network_group("", "", &age())])
            .collect();
        assert_eq!(with_network.len(), names.len(), "{with_network:?}");
        for name in &with_network {
            let domain = domain_of(name).unwrap();
            assert!(name.len() <= NAME_LIMIT && !names.contains(domain), "{name}");
            assert_eq!(format!("{domain}.{}", age()), *name);
        }
        assert!(names.iter().all(|name| domain_of(&format!("{name}.{}", age())).is_none()));
        let sandboxes: HashSet<_> = texts.iter().map(|text| sandbox_base(text)).collect();
        assert_eq!(sandboxes.len(), texts.len(), "{sandboxes:?}");
        for base in &sandboxes {
            let group = format!("{base}.{}", age());
            assert!(
                group.len() <= NAME_LIMIT && domain_of(&group).is_none() && !names.contains(base),
                "{base}"
            );
        }
        assert_eq!(sandbox_group("u", &age()), format!("cni-u.{}", age()));
    }

    #[test]
    fn what_code_needs_or_a_specification_says_makes_another_age() {
        let other_code = Age::new(["wasmtime-49.0.0-0123456789abcdef"], 2);
        let other_protocol = Age::new(["wasmtime-48.0.8-0123456789abcdef"], 3);
        let names = [age(), other_code, other_protocol].map(|age| Isolation::Node.group("", "", &age));
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), 3, "{names:?}");
        assert_eq!(age(), age());
    }

    #[test]
    fn a_pod_can_ask_for_a_worker_of_its_own_and_for_no_less() {
        for isolation in [Isolation::Namespace, Isolation::Node, Isolation::Pod] {
            assert_eq!(isolation.of_handler(HANDLER_ISOLATED), Isolation::Pod);
            for handler in ["", HANDLER] {
                assert_eq!(isolation.of_handler(handler), isolation);
            }
        }
    }

    #[test]
    fn isolations_are_read_as_they_are_written() {
        for name in Isolation::NAMES {
            assert_eq!(name.parse::<Isolation>().unwrap().to_string(), name);
        }
        let error = "Pod".parse::<Isolation>().unwrap_err().to_string();
        assert!(error.contains("\"Pod\"") && error.contains("namespace, node and pod"), "{error}");
    }
}
