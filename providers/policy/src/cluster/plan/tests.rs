use k8s_openapi::api::coordination::v1::Lease;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::{
        address::ServerAddress, identity::PolicyKind, loader::ServedVersion, policy::PolicyVersion,
        report::ReplicaReport,
    },
    spec::Mode,
};

/// A policy in a cluster with two replicas.
struct Case {
    policy: ClusterPolicy,
    progress: Option<PolicyProgress>,
    replicas: Vec<Replica>,
    webhooks: [Option<WebhookConfiguration>; 2],
    bundle: Option<&'static str>,
    target: WebhookTarget,
}

fn version(generation: i64) -> PolicyVersion {
    PolicyVersion { uid: "u".into(), generation }
}

fn policy(generation: i64, more: Value) -> ClusterPolicy {
    let mut object = json!({
        "metadata": { "name": "p", "uid": "u", "generation": generation },
        "spec": { "module": "r.io/p", "rules": [] },
    });
    json_patch::merge(&mut object, &more);
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    ClusterPolicy::read(PolicyKind::ClusterAdmissionPolicy, &object)
}

fn replica(identity: &str, served: Option<i64>) -> Replica {
    let mut report = ReplicaReport { certificate: Some("f".into()), ..ReplicaReport::default() };
    if let Some(generation) = served {
        report.note("kw.cap.p".into(), &version(generation));
    }
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {
            "name": identity, "annotations": { "kubewasm.dev/policy-report": serde_json::to_string(&report).unwrap() },
        },
        "spec": { "holderIdentity": identity },
    }))
    .unwrap();
    Replica::read(&lease).unwrap()
}

fn progress(generation: i64, newest: Newest, served: Option<i64>) -> Option<PolicyProgress> {
    let served = served.map(|generation| ServedVersion { version: version(generation), mode: Mode::Protect });
    Some(PolicyProgress { version: version(generation), newest, served })
}

fn failed() -> Newest {
    Newest::Failed { message: "no".into(), is_transient: false }
}

impl Case {
    /// Generation 1 is served everywhere, and its webhook is there.
    fn settled() -> Self {
        let mut case = Self {
            policy: policy(1, json!({ "metadata": { "finalizers": ["kubewarden.io/finalizer"] } })),
            progress: progress(1, Newest::Served, Some(1)),
            replicas: vec![replica("a", Some(1)), replica("b", Some(1))],
            webhooks: [None, None],
            bundle: Some("CA"),
            target: WebhookTarget {
                server: "default".into(),
                address: ServerAddress::Service { namespace: "ns".into(), name: "policies".into() },
                namespace: "ns".into(),
            },
        };
        case.webhooks[0] = Some(case.wanted());
        case
    }

    /// Generation 2 is there, and nobody serves it yet.
    fn changed(more: Value) -> Self {
        let mut case = Self::settled();
        case.policy = policy(2, more);
        case.policy.finalizers = vec!["kubewarden.io/finalizer".into()];
        case.progress = progress(2, Newest::Loading, Some(1));
        case
    }

    fn wanted(&self) -> WebhookConfiguration {
        let asked = self.policy.asked.as_ref().unwrap();
        WebhookConfiguration::new(&self.policy, asked, &self.target, self.bundle.unwrap())
    }

    fn apply(&self) -> PolicyStep {
        PolicyStep::Apply(Box::new(self.wanted()))
    }

    fn plan(&self) -> Plan {
        let replicas: Vec<&Replica> = self.replicas.iter().collect();
        let view = PolicyView {
            policy: &self.policy,
            progress: self.progress.as_ref(),
            replicas: &replicas,
            webhooks: self.webhooks.each_ref().map(Option::as_ref),
            bundle: self.bundle,
            target: &self.target,
        };
        view.plan()
    }

    fn serve(&mut self, generation: i64) {
        self.progress = progress(generation, Newest::Served, Some(generation));
        self.replicas = vec![replica("a", Some(generation)), replica("b", Some(generation))];
    }
}

#[test]
fn where_all_is_well_nothing_is_done() {
    let plan = Case::settled().plan();
    assert_eq!(plan.steps, []);
    let observed = plan.observed.unwrap();
    assert_eq!((observed.newest, observed.webhook), (Newest::Served, WebhookState::Of(Some(version(1)))));
}

/// An API server is told of a policy when there is a certificate to show and each replica serves it.
#[test]
fn a_webhook_waits_for_all_replicas() {
    let mut case = Case::settled();
    case.policy.finalizers.clear();
    case.webhooks = [None, None];
    assert_eq!(case.plan().steps, [PolicyStep::AddFinalizer, case.apply()]);

    case.replicas[1] = replica("b", None);
    let plan = case.plan();
    assert_eq!((plan.steps, plan.observed.unwrap().behind), (vec![], vec!["b".to_owned()]));
    case.replicas.clear();
    let plan = case.plan();
    assert_eq!((plan.steps, plan.observed.unwrap().newest), (vec![], Newest::Loading));

    let mut case = Case::settled();
    case.webhooks = [None, None];
    case.progress = progress(1, Newest::Loading, None);
    assert_eq!(case.plan().steps, []);
    let mut case = Case::settled();
    case.webhooks = [None, None];
    case.replicas[0].report.certificate = None;
    assert_eq!(case.plan().steps, []);
    let mut case = Case::settled();
    case.webhooks = [None, None];
    case.bundle = None;
    assert_eq!(case.plan().steps, []);
}

#[test]
fn what_works_goes_on_until_the_new_version_is_served_everywhere() {
    let mut case = Case::changed(json!({ "spec": { "failurePolicy": "Ignore" } }));
    for newest in [Newest::Loading, failed()] {
        case.progress = progress(2, newest, Some(1));
        let plan = case.plan();
        assert_eq!(plan.steps, []);
        let observed = plan.observed.unwrap();
        assert_eq!((observed.served, observed.webhook), (Some(1), WebhookState::Of(Some(version(1)))));
        assert!(observed.behind.is_empty(), "it is served nowhere: there is nobody to name");
    }
    case.progress = progress(2, Newest::Served, Some(2));
    case.replicas = vec![replica("a", Some(2)), replica("b", Some(1))];
    assert_eq!(case.plan().steps, []);
    case.serve(2);
    assert_eq!(case.plan().steps, [case.apply()]);
}

#[test]
fn what_works_goes_on_by_new_certificates() {
    let mut case = Case::changed(json!({ "spec": { "rules": 7 } }));
    assert!(case.policy.asked.is_err());
    case.progress = progress(2, failed(), Some(1));
    case.bundle = Some("CA and CB");
    let renewed = case.webhooks[0].as_ref().unwrap().with_bundle("CA and CB").unwrap();
    assert_eq!(case.plan().steps, [PolicyStep::Apply(Box::new(renewed.clone()))]);
    case.webhooks[0] = Some(renewed);
    assert_eq!(case.plan().steps, []);
}

#[test]
fn a_policy_that_begins_to_change_objects_is_never_without_a_webhook() {
    let mut case = Case::changed(json!({ "spec": { "mutating": true } }));
    case.serve(2);
    assert_eq!(case.plan().steps, [case.apply()]);
    case.webhooks[1] = Some(case.wanted());
    assert_eq!(case.plan().steps, [PolicyStep::Delete(WebhookKind::Validating)]);
    case.webhooks[0] = None;
    assert_eq!(case.plan().steps, []);
}

#[test]
fn a_policy_goes_after_its_webhooks() {
    let mut case = Case::settled();
    case.policy.is_deleted = true;
    case.webhooks[1] = case.webhooks[0].clone();
    case.webhooks[1].as_mut().unwrap().kind = WebhookKind::Mutating;
    let both = [PolicyStep::Delete(WebhookKind::Validating), PolicyStep::Delete(WebhookKind::Mutating)];
    assert_eq!(case.plan(), Plan { steps: both.to_vec(), observed: None });
    case.webhooks = [None, None];
    assert_eq!(case.plan().steps, [PolicyStep::RemoveFinalizer]);
    case.policy.finalizers = vec!["other".into()];
    assert_eq!(case.plan().steps, []);
}

#[test]
fn a_webhook_of_a_policy_before_is_not_taken_for_its_own() {
    let mut case = Case::settled();
    case.policy.version.uid = "v".into();
    case.progress = None;
    let plan = case.plan();
    assert_eq!(plan.steps, [PolicyStep::Delete(WebhookKind::Validating)]);
    assert_eq!(plan.observed.unwrap().webhook, WebhookState::Absent);
}

#[test]
fn what_others_have_changed_is_put_right() {
    let mut case = Case::settled();
    let mut manifest = case.wanted().manifest();
    manifest["webhooks"][0]["failurePolicy"] = json!("Ignore");
    let object: DynamicObject = serde_json::from_value(manifest).unwrap();
    case.webhooks[0] = WebhookConfiguration::read(WebhookKind::Validating, &object);
    assert_eq!(case.plan().steps, [case.apply()]);
}
