//! Reasons, as statuses and Events give them. Each is spelled once, here, and has its line in
//! `docs/troubleshooting.md`.
//!
//! They are the kubelet's own, word for word: tools and people look for them. What carries a reason of its own
//! making, such as `OutOf` followed by the name of a resource, is not here.

use serde::{Deserialize, Serialize};

use crate::runtime::{Exit, ExitReason, ImageError, StartError};

/// An enumeration whose variants are spelled as the API shows them.
macro_rules! reasons {
    ($(#[$about:meta])* $name:ident { $($(#[$variant_about:meta])* $variant:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_about])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As the API shows it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// `state.waiting.reason`: why a container does not run yet.
    WaitingReason {
        /// It is its turn, or will be.
        ContainerCreating,
        /// Init containers come first.
        PodInitializing,
        /// A rule has asked for the whole pod to be started again, and it is not its turn yet.
        RestartingAllContainers,
        /// `image` is no image reference.
        InvalidImageName,
        /// The registry said no, or what it sent was wrong.
        ErrImagePull,
        /// The registry did not answer.
        RegistryUnavailable,
        /// The policy for signatures asks for one that is not there, or rejects the image.
        SignatureValidationFailed,
        /// The next pull is due later.
        ImagePullBackOff,
        /// It is not here, and may not be pulled.
        ErrImageNeverPull,
        /// The node's own module store failed.
        ImageInspectError,
        /// Something that the container refers to is missing, or a field cannot be honoured.
        CreateContainerConfigError,
        /// The module cannot be run.
        CreateContainerError,
        /// The node failed to start it.
        RunContainerError,
        /// Its postStart hook failed.
        PostStartHookError,
        /// It has ended too often.
        CrashLoopBackOff,
        /// A policy of the node's operator has refused its module.
        PolicyViolation,
    }
}

reasons! {
    /// `state.terminated.reason`: how a container ended.
    TerminatedReason {
        /// Well.
        Completed,
        /// With an exit code of its own, by a trap, or because it was stopped.
        Error,
        /// It met its memory limit and died of it.
        OOMKilled,
        /// It could not be instantiated.
        StartError,
        /// What ran it is gone, or it never came to be before its pod ended.
        ContainerStatusUnknown,
        /// It was stopped so that the whole pod could be started again.
        RestartingAllContainers,
    }
}

reasons! {
    /// `status.reason`: why the node ended a pod, or did not take it.
    PodReason {
        /// `activeDeadlineSeconds` is over.
        DeadlineExceeded,
        /// It took more of the node's disk than it may.
        Evicted,
        /// It had to make room for a critical pod.
        Preempting,
        /// It is critical, and no room could be made for it.
        UnexpectedAdmissionError,
        /// The machine was shut down.
        Terminated,
        /// The machine was being shut down when it came.
        NodeShutdown,
        /// Its selector or affinity is for other nodes.
        NodeAffinity,
        /// It names another node.
        NodeName,
        /// Another pod has its host port.
        NodePorts,
        /// It does not tolerate a taint of the node.
        TaintToleration,
        /// It asks for a kernel parameter that pods may not have.
        SysctlForbidden,
        /// It selects another operating system.
        PodOSSelectorNodeLabelDoesNotMatch,
        /// It is for another operating system.
        PodOSNotSupported,
        /// A policy of the node's operator has refused it, or a module of it.
        PolicyViolation,
    }
}

reasons! {
    /// `reason` of a condition: why it is not true, or what it is about.
    ConditionReason {
        /// Init containers have not done their part.
        ContainersNotInitialized,
        /// A container does not run, or its readiness probe does not succeed.
        ContainersNotReady,
        /// A readiness gate is not open.
        ReadinessGatesNotReady,
        /// The pod has ended well.
        PodCompleted,
        /// The pod has failed.
        PodFailed,
        /// The whole pod is on its way to be started again.
        RestartAllContainersStarted,
        /// The node ends the pod for its own sake.
        TerminationByKubelet,
        /// A resize waits for room on the node.
        Deferred,
        /// A resize cannot be done on this node.
        Infeasible,
        /// Containers could not be given what a resize has brought their pod.
        Error,
        /// A policy of the node's operator has refused the pod, or a module of it.
        PolicyViolation,
        /// Not all policies of the node's operator are there yet: the pod waits.
        PoliciesNotReady,
    }
}

reasons! {
    /// `reason` of an Event about a pod. Those that tell of a pod's end by a [`PodReason`], or of its rejection,
    /// carry that.
    EventReason {
        /// The registry is asked for an image.
        Pulling,
        /// An image is here.
        Pulled,
        /// An attempt of a container has been made.
        Created,
        /// It runs.
        Started,
        /// A container is being stopped, and why.
        Killing,
        /// The next start, or the next pull, is due later.
        BackOff,
        /// A container, or what it takes to run it, is not to be had.
        Failed,
        /// A policy of the node's operator has refused the module of a container.
        PolicyViolation,
        /// `image` is no image reference.
        InspectFailed,
        /// It is not here, and may not be pulled.
        ErrImageNeverPull,
        /// A Secret that `imagePullSecrets` names is missing.
        FailedToRetrieveImagePullSecret,
        /// A volume is not there yet.
        FailedMount,
        /// The RuntimeClass of the pod is missing, or none of this node's; or the pod's network could not be made.
        FailedCreatePodSandBox,
        /// The pod's network was lost, and it has another one.
        SandboxChanged,
        /// The pod has no address yet.
        NetworkNotReady,
        /// NetworkPolicies, or what they are about, cannot be read.
        NetworkPolicyUnreadable,
        /// Something of the pod's traffic was refused.
        NetworkRefused,
        /// What a container was given of a ConfigMap or Secret cannot be renewed from it.
        FailedUpdate,
        /// Requests to a container that serves HTTP have failed.
        RequestFailed,
        /// The node has agreed to a resize of the pod.
        ResizeStarted,
        /// All containers have what the pod was resized to.
        ResizeCompleted,
        /// A resize waits for room on the node.
        ResizeDeferred,
        /// A resize cannot be done on this node.
        ResizeInfeasible,
        /// Containers could not be given what a resize has brought their pod.
        ResizeError,
        /// A probe has failed, or could not be carried out.
        Unhealthy,
        /// A probe has succeeded in a way that is worth a look.
        ProbeWarning,
        /// A postStart hook has failed.
        FailedPostStartHook,
        /// A preStop hook has failed.
        FailedPreStopHook,
        /// A hook was to be asked by https and answers http.
        LifecycleHTTPFallback,
        /// What runs a container could not be asked to stop it, or the network of the pod could not be taken away.
        FailedKillPod,
        /// The pod could not be looked after for a moment, and why.
        FailedSync,
        /// A pod runs although its grace has long been over.
        ExceededGracePeriod,
        /// `activeDeadlineSeconds` is over.
        DeadlineExceeded,
        /// The pod wants the cluster's DNS, and the node was not told where it is.
        MissingClusterDNS,
        /// Not all of the pod's DNS settings fit into a `resolv.conf`.
        DNSConfigForming,
    }
}

impl WaitingReason {
    /// The one of that spelling.
    #[cfg(test)]
    pub(super) fn named(text: &str) -> Self {
        *Self::ALL.iter().find(|reason| reason.as_str() == text).unwrap()
    }

    /// Why an image is not there.
    #[must_use]
    pub fn of_image(error: &ImageError) -> Self {
        match error {
            ImageError::InvalidName(_) => Self::InvalidImageName,
            ImageError::Pull(_) => Self::ErrImagePull,
            ImageError::RegistryUnavailable(_) => Self::RegistryUnavailable,
            ImageError::SignatureInvalid(_) => Self::SignatureValidationFailed,
            ImageError::Store(_) => Self::ImageInspectError,
        }
    }

    /// Why a container was not started.
    #[must_use]
    pub fn of_start(error: &StartError) -> Self {
        match error {
            StartError::Config(_) => Self::CreateContainerConfigError,
            StartError::Create(_) => Self::CreateContainerError,
            StartError::Refused(_) => Self::PolicyViolation,
            StartError::Run(_) => Self::RunContainerError,
        }
    }
}

impl TerminatedReason {
    /// How an attempt ended, as container runtimes word it.
    #[must_use]
    pub fn of(exit: &Exit) -> Self {
        match exit.reason {
            ExitReason::OutOfMemory => Self::OOMKilled,
            ExitReason::StartFailed => Self::StartError,
            ExitReason::Lost => Self::ContainerStatusUnknown,
            ExitReason::Exited | ExitReason::Trapped | ExitReason::Stopped if exit.exit_code == 0 => {
                Self::Completed
            }
            ExitReason::Exited | ExitReason::Trapped | ExitReason::Stopped => Self::Error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reasons that a table of `docs/troubleshooting.md` explains: what is in backquotes in the first cell
    /// of its rows, below the heading.
    fn explained(heading: &str) -> Vec<String> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/troubleshooting.md");
        let text = std::fs::read_to_string(path).unwrap();
        let section = text.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
        let first_cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        first_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
    }

    /// The spellings of all reasons, by the section of `docs/troubleshooting.md` that they belong to.
    fn all() -> [(&'static str, Vec<&'static str>); 5] {
        [
            ("A container waits", WaitingReason::ALL.iter().map(|reason| reason.as_str()).collect()),
            ("A container has ended", TerminatedReason::ALL.iter().map(|reason| reason.as_str()).collect()),
            ("A pod is not ready", ConditionReason::ALL.iter().map(|reason| reason.as_str()).collect()),
            ("A pod has failed", PodReason::ALL.iter().map(|reason| reason.as_str()).collect()),
            ("What Events say", EventReason::ALL.iter().map(|reason| reason.as_str()).collect()),
        ]
    }

    #[test]
    fn every_reason_is_explained_to_users() {
        for (heading, reasons) in all() {
            let explained = explained(heading);
            let missing: Vec<_> =
                reasons.iter().filter(|name| !explained.iter().any(|e| e == **name)).collect();
            assert!(
                missing.is_empty(),
                "docs/troubleshooting.md, \"{heading}\", has no line for {missing:?}"
            );
        }
    }

    #[test]
    fn every_reason_is_asserted_by_an_end_to_end_test() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/tests/e2e");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let text: String =
            files.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap()).collect();
        // No source tells of pods that are bound to another node: that reason guards what cannot come.
        let unseen = PodReason::NodeName.as_str();
        let reasons = all().into_iter().flat_map(|(_, reasons)| reasons).filter(|name| *name != unseen);
        let missing: Vec<_> = reasons.filter(|name| !text.contains(&format!("\"{name}\""))).collect();
        assert!(missing.is_empty(), "no end-to-end test asserts {missing:?}");
    }

    #[test]
    fn records_spell_them_as_statuses_do() {
        for reason in WaitingReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
