//! Which kernel parameters a pod may ask for, after upstream's `pkg/kubelet/sysctl`.
//!
//! A guest has no kernel, so that none can be given either; a pod that asks for one that is allowed is taken and
//! then held with that reason. What is not allowed is rejected here, as on every node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

/// Those that upstream calls safe. It leaves some out on old kernels, which makes no difference to a guest.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Longest name, in bytes.
const LONGEST: usize = 253;

/// The kernel namespace that a parameter belongs to, as refusals name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SysctlNamespace {
    Ipc,
    Net,
}

impl SysctlNamespace {
    /// That of a parameter, or of the beginning of a pattern; `None`: the kernel has but one of it.
    fn of(name: &str) -> Option<Self> {
        const IPC: [&str; 10] = [
            "kernel.sem",
            "kernel.shmall",
            "kernel.shmmax",
            "kernel.shmmni",
            "kernel.shm_rmid_forced",
            "kernel.shm",
            "kernel.msgmax",
            "kernel.msgmnb",
            "kernel.msgmni",
            "kernel.msg",
        ];
        if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
            Some(Self::Ipc)
        } else if name.starts_with("net.") {
            Some(Self::Net)
        } else {
            None
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ipc => "IPC",
            Self::Net => "Net",
        }
    }
}

/// The safe parameters, and those of `allowedUnsafeSysctls`.
#[derive(Clone, Debug, PartialEq)]
pub struct SysctlAllowlist {
    names: BTreeMap<String, SysctlNamespace>,
    /// Beginnings of names, of patterns that end in `*`.
    prefixes: Vec<(String, SysctlNamespace)>,
}

impl Default for SysctlAllowlist {
    fn default() -> Self {
        let safe = SAFE.iter().filter_map(|name| Some(((*name).to_owned(), SysctlNamespace::of(name)?)));
        Self { names: safe.collect(), prefixes: Vec::new() }
    }
}

impl SysctlAllowlist {
    /// The safe ones, and those that `unsafe_patterns` name: a whole name, or its beginning and a `*`.
    ///
    /// # Errors
    /// A sentence that names the pattern: it is none, or of parameters that the kernel has but one of.
    pub fn new(unsafe_patterns: &[String]) -> Result<Self, String> {
        let mut list = Self::default();
        for pattern in unsafe_patterns {
            if !is_pattern(pattern) {
                return Err(format!(
                    "sysctl {pattern:?} must have at most {LONGEST} characters: a name such as \"net.core.somaxconn\", or \
                     the beginning of names and \"*\""
                ));
            }
            let name = normalize(pattern);
            let (name, is_prefix) = match name.split_once('*') {
                Some((prefix, _)) => (prefix.to_owned(), true),
                None => (name, false),
            };
            let namespace = SysctlNamespace::of(&name)
                .ok_or_else(|| format!("the sysctls {name:?} are not known to be namespaced"))?;
            if is_prefix {
                list.prefixes.push((name, namespace));
            } else {
                list.names.insert(name, namespace);
            }
        }
        Ok(list)
    }

    /// Why the pod is not taken, in upstream's words: the first of its parameters that it may not have.
    pub(super) fn forbids(&self, pod: &Pod) -> Option<String> {
        let spec = pod.spec.as_ref()?;
        let sysctls = spec.security_context.as_ref()?.sysctls.as_ref()?;
        let (net, ipc) = (spec.host_network == Some(true), spec.host_ipc == Some(true));
        sysctls.iter().find_map(|sysctl| {
            let name = normalize(&sysctl.name);
            let by_prefix =
                || self.prefixes.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, of)| of);
            let Some(namespace) = self.names.get(&name).or_else(by_prefix) else {
                return Some(format!("forbidden sysctl: {name:?} not allowlisted"));
            };
            let is_host = match namespace {
                SysctlNamespace::Ipc => ipc,
                SysctlNamespace::Net => net,
            };
            is_host.then(|| {
                format!("forbidden sysctl: {name:?} not allowed with host {} enabled", namespace.as_str())
            })
        })
    }
}

/// With dots between the parts. Where the first separator is a slash, slashes and dots change places.
fn normalize(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name[first..].starts_with('/') => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Parts of small letters, digits, `-` and `_` between dots or slashes; the last may end in, or be, a `*`.
fn is_pattern(text: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_inner = |c: char| is_edge(c) || matches!(c, '-' | '_');
    let is_segment =
        |part: &str| part.starts_with(is_edge) && part.ends_with(is_edge) && part.chars().all(is_inner);
    let (parents, last) = match text.rfind(['.', '/']) {
        Some(at) => (Some(&text[..at]), &text[at + 1..]),
        None => (None, text),
    };
    let is_last = match last.strip_suffix('*') {
        Some(rest) => rest.is_empty() || (rest.starts_with(is_edge) && rest.chars().all(is_inner)),
        None => is_segment(last),
    };
    text.len() <= LONGEST
        && is_last
        && parents.is_none_or(|parents| parents.split(['.', '/']).all(is_segment))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(patterns: &[&str]) -> Result<SysctlAllowlist, String> {
        SysctlAllowlist::new(&patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_may_be_allowed() {
        for (pattern, refusal) in [
            ("net.core.somaxconn", None),
            ("net/core/somaxconn", None),
            ("net.*", None),
            ("kernel.msg*", None),
            ("fs.mqueue.msg_max", None),
            ("kernel.panic", Some("the sysctls \"kernel.panic\" are not known to be namespaced")),
            ("kernel.*", Some("the sysctls \"kernel.\" are not known to be namespaced")),
            ("*", Some("the sysctls \"\" are not known to be namespaced")),
            ("net.*.x", Some("sysctl \"net.*.x\" must have at most 253 characters")),
            ("Net.core", Some("sysctl \"Net.core\" must have")),
            ("net..core", Some("must have")),
            ("net.core.", Some("must have")),
            ("", Some("must have")),
        ] {
            let found = list(&[pattern]).err();
            assert_eq!(found.is_some(), refusal.is_some(), "{pattern}: {found:?}");
            assert!(found.unwrap_or_default().contains(refusal.unwrap_or_default()), "{pattern}");
        }
    }

    #[test]
    fn what_pods_may_ask_for() {
        let list = list(&["kernel.msg*", "net.core.somaxconn"]).unwrap();
        for (name, more, refusal) in [
            ("kernel.shm_rmid_forced", json!({}), None),
            ("net/ipv4/tcp_rmem", json!({}), None),
            ("kernel.msgmax", json!({}), None),
            ("net.core.somaxconn", json!({"hostIPC": true}), None),
            ("kernel.sem", json!({}), Some("forbidden sysctl: \"kernel.sem\" not allowlisted")),
            ("net.core.rmem_max", json!({}), Some("forbidden sysctl: \"net.core.rmem_max\" not allowlisted")),
            (
                "net.core.somaxconn",
                json!({"hostNetwork": true}),
                Some("forbidden sysctl: \"net.core.somaxconn\" not allowed with host Net enabled"),
            ),
            (
                "kernel.msgmax",
                json!({"hostIPC": true}),
                Some("forbidden sysctl: \"kernel.msgmax\" not allowed with host IPC enabled"),
            ),
        ] {
            let mut spec = more;
            spec["containers"] = json!([]);
            spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
            let pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(list.forbids(&pod).as_deref(), refusal, "{name}");
        }
    }
}
