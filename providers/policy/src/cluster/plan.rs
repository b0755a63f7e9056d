//! What is next for a policy: from what it asks for, how far replicas are, and which webhooks there are.

#[cfg(test)]
mod tests;

use super::{
    loader::PolicyProgress,
    policy::ClusterPolicy,
    report::{Replica, ReplicaReport},
    resource::PolicyMode,
    status::{Newest, Observed, WebhookState},
    webhook::{WebhookConfiguration, WebhookKind, WebhookTarget},
};

/// What is known of a policy and of what is around it.
#[derive(Clone, Copy, Debug)]
pub struct PolicyView<'a> {
    /// The policy.
    pub policy: &'a ClusterPolicy,
    /// How far it is here.
    pub progress: Option<&'a PolicyProgress>,
    /// The replicas that are there, this one among them.
    pub replicas: &'a [&'a Replica],
    /// The webhook configurations of its name: the validating one and the mutating one.
    pub webhooks: [Option<&'a WebhookConfiguration>; 2],
    /// The authorities of the server's certificates, in PEM; none while there is no certificate to show.
    pub bundle: Option<&'a str>,
    /// What holds for all webhooks.
    pub target: &'a WebhookTarget,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyStep {
    /// From now on, the policy is not gone before we have let it go.
    AddFinalizer,
    /// To apply this webhook configuration.
    Apply(Box<WebhookConfiguration>),
    /// To delete the webhook configuration of this kind.
    Delete(WebhookKind),
    /// To let the policy go.
    RemoveFinalizer,
}

/// What is next for a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is to be done.
    pub steps: Vec<PolicyStep>,
    /// What there is to say of it; nothing any more when it is being deleted.
    pub observed: Option<Observed>,
}

impl PolicyView<'_> {
    /// What is next.
    #[must_use]
    pub fn plan(&self) -> Plan {
        if self.policy.is_deleted {
            return Plan { steps: self.deletion(), observed: None };
        }
        Plan { steps: self.steps(), observed: Some(self.observed()) }
    }

    /// First nobody is sent here any more, then the policy goes. Replicas serve it for a while after that.
    fn deletion(&self) -> Vec<PolicyStep> {
        let there: Vec<PolicyStep> = self.there().map(|webhook| PolicyStep::Delete(webhook.kind)).collect();
        match there.is_empty() && self.policy.has_finalizer() {
            true => vec![PolicyStep::RemoveFinalizer],
            false => there,
        }
    }

    fn steps(&self) -> Vec<PolicyStep> {
        let mut steps = Vec::new();
        let Some(bundle) = self.bundle else { return steps };
        match &self.policy.asked {
            Ok(asked) if self.is_served_everywhere() => {
                let wanted = WebhookConfiguration::new(self.policy, asked, self.target, bundle);
                let other = self.of(wanted.kind.other());
                if self.of(wanted.kind) != Some(&wanted) {
                    if !self.policy.has_finalizer() {
                        steps.push(PolicyStep::AddFinalizer);
                    }
                    steps.push(PolicyStep::Apply(Box::new(wanted)));
                } else if let Some(other) = other {
                    // Only when the right one is there: the policy is never without.
                    steps.push(PolicyStep::Delete(other.kind));
                }
            }
            // What works goes on, by certificates that may be new.
            _ => {
                for webhook in self.there() {
                    if !self.is_of_this(webhook) {
                        steps.push(PolicyStep::Delete(webhook.kind));
                    } else if let Some(renewed) = webhook.with_bundle(bundle)
                        && renewed != *webhook
                    {
                        steps.push(PolicyStep::Apply(Box::new(renewed)));
                    }
                }
            }
        }
        steps
    }

    fn there(&self) -> impl Iterator<Item = &WebhookConfiguration> {
        self.webhooks.into_iter().flatten()
    }

    fn of(&self, kind: WebhookKind) -> Option<&WebhookConfiguration> {
        self.there().find(|webhook| webhook.kind == kind)
    }

    /// Whether a configuration was made of this object, and not of one of the same name before it.
    fn is_of_this(&self, webhook: &WebhookConfiguration) -> bool {
        // Who has lost its annotations is taken for the policy's own: it is put right as soon as there is something to apply.
        webhook.version().is_none_or(|version| version.uid == self.policy.version.uid)
    }

    fn is_served_here(&self) -> bool {
        self.progress.is_some_and(|progress| {
            progress.version == self.policy.version && progress.newest == Newest::Served
        })
    }

    fn behind(&self) -> impl Iterator<Item = &str> {
        let unique = self.policy.name.unique();
        // Whom API servers cannot trust yet they do not reach either.
        let is_reached = move |report: &ReplicaReport| {
            report.certificate.is_some() && report.serves(&unique, &self.policy.version)
        };
        let behind = self.replicas.iter().filter(move |replica| !is_reached(&replica.report));
        behind.map(|replica| replica.identity.as_str())
    }

    fn is_served_everywhere(&self) -> bool {
        self.is_served_here() && !self.replicas.is_empty() && self.behind().next().is_none()
    }

    fn observed(&self) -> Observed {
        let progress = self.progress.filter(|progress| progress.version == self.policy.version);
        let newest = progress.map_or(Newest::Unseen, |progress| progress.newest.clone());
        // What no replica has said yet is not known.
        let newest = match newest {
            Newest::Served if self.replicas.is_empty() => Newest::Loading,
            newest => newest,
        };
        let served = self.progress.and_then(PolicyProgress::served_of_this);
        let behind: Vec<String> = self.behind().map(str::to_owned).collect();
        let is_nowhere = newest != Newest::Served && behind.len() == self.replicas.len();
        let own = self.there().filter(|webhook| self.is_of_this(webhook));
        let webhook = own.max_by_key(|webhook| webhook.version());
        Observed {
            newest,
            served: served.map(|served| served.version.generation),
            mode: served.map(|served| PolicyMode::from(served.mode)),
            behind: if is_nowhere { Vec::new() } else { behind },
            webhook: webhook.map_or(WebhookState::Absent, |webhook| WebhookState::Of(webhook.version())),
            refusal: None,
        }
    }
}
