//! Watches certificate signing requests, and says what becomes of each.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::{
    api::{
        certificates::v1::{
            CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
        },
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    runtime::{Controller, controller::Action, watcher},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    NODE_LABEL,
    request::{self, NODE_USER, NodeRequest, Purpose, RequestError},
    rules::{self, Asker, Verdict},
};

/// How soon a request is looked at again that cannot be judged yet.
const AGAIN: Duration = Duration::from_secs(5);
/// The same where the API server did not answer.
const RETRY: Duration = Duration::from_secs(10);
/// What this approver says of what it approves.
const APPROVED: &str = "AutoApproved";
/// And of what it denies.
const DENIED: &str = "NotThisPod";
/// The requester's pod, in the extras of its user; see
/// [Service account tokens](https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#schema-for-service-account-private-claims).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Whose requests are answered.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Namespace of the pods that become nodes.
    pub namespace: String,
    /// Their service account.
    pub service_account: String,
    /// What the names of their nodes begin with. A pod cannot become a node of another name.
    pub node_prefix: String,
}

#[derive(Debug, thiserror::Error)]
enum ApproveError {
    #[error("{0}")]
    Api(#[from] kube::Error),
}

struct Context {
    client: Client,
    scope: Scope,
}

/// Answers requests until it is told to stop. What the API server refuses is said in the log and tried again.
pub async fn run(client: Client, scope: Scope, cancel: CancellationToken) {
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    tracing::info!(
        "answering the certificate requests of pods of service account {} in namespace {}, for nodes whose names begin with \
         \"{}\"",
        scope.service_account,
        scope.namespace,
        scope.node_prefix
    );
    let context = Arc::new(Context { client, scope });
    Controller::new(requests, watcher::Config::default())
        .graceful_shutdown_on(async move { cancel.cancelled().await })
        .run(answer, retry, context)
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                tracing::debug!("{error}");
            }
        })
        .await;
}

fn retry(request: Arc<CertificateSigningRequest>, error: &ApproveError, _: Arc<Context>) -> Action {
    tracing::warn!("cannot answer certificate request {}: {error}; trying again", request.name_any());
    Action::requeue(RETRY)
}

async fn answer(
    request: Arc<CertificateSigningRequest>,
    context: Arc<Context>,
) -> Result<Action, ApproveError> {
    let Some(purpose) = Purpose::of_signer(&request.spec.signer_name) else {
        return Ok(Action::await_change());
    };
    let asker = asker(&request.spec, &context.scope);
    if is_answered(&request) || !rules::concerns(&asker) {
        return Ok(Action::await_change());
    }
    let verdict = match read(purpose, &request.spec) {
        Ok(read) => judge(&context, purpose, &asker, &read).await?,
        // What another node asks for is not ours to deny.
        Err(_) if matches!(asker, Asker::Node(_)) => Verdict::Leave,
        Err(error) => Verdict::Deny(error.to_string()),
    };
    let name = request.name_any();
    match verdict {
        Verdict::Leave => Ok(Action::await_change()),
        Verdict::Later(why) => {
            tracing::info!("certificate request {name} has to wait: {why}");
            Ok(Action::requeue(AGAIN))
        }
        Verdict::Approve => {
            let message = "the request fits the pod that is the node";
            say(&context.client, &request, "Approved", APPROVED, message).await?;
            tracing::info!("approved certificate request {name} of {}", asker_name(&request.spec));
            Ok(Action::await_change())
        }
        Verdict::Deny(why) => {
            say(&context.client, &request, "Denied", DENIED, &why).await?;
            tracing::warn!("denied certificate request {name} of {}: {why}", asker_name(&request.spec));
            Ok(Action::await_change())
        }
    }
}

fn is_answered(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| ["Approved", "Denied", "Failed"].contains(&condition.type_.as_str()))
}

fn asker_name(spec: &CertificateSigningRequestSpec) -> &str {
    spec.username.as_deref().unwrap_or("nobody")
}

fn read(purpose: Purpose, spec: &CertificateSigningRequestSpec) -> Result<NodeRequest, RequestError> {
    request::read(purpose, &spec.request.0, spec.usages.as_deref().unwrap_or_default())
}

/// Who asks, as the API server has found out: nothing of that can be written by whoever asks.
fn asker(spec: &CertificateSigningRequestSpec, scope: &Scope) -> Asker {
    let user = asker_name(spec);
    if let Some(node) = user.strip_prefix(NODE_USER) {
        return Asker::Node(node.to_owned());
    }
    if user != format!("system:serviceaccount:{}:{}", scope.namespace, scope.service_account) {
        return Asker::Stranger;
    }
    let only = |extra: &BTreeMap<String, Vec<String>>, key: &str| match extra.get(key)?.as_slice() {
        [value] => Some(value.clone()),
        _ => None,
    };
    let bound = spec.extra.as_ref().and_then(|extra| Some((only(extra, POD_NAME)?, only(extra, POD_UID)?)));
    bound.map_or(Asker::Unbound, |(name, uid)| Asker::Pod { name, uid })
}

async fn judge(
    context: &Context,
    purpose: Purpose,
    asker: &Asker,
    request: &NodeRequest,
) -> Result<Verdict, ApproveError> {
    let scope = &context.scope;
    let nodes: Api<Node> = Api::all(context.client.clone());
    let pods = pods(context, &request.node).await?;
    // A node needs no name that the API server would not take.
    let node = match asker {
        Asker::Pod { .. } if !pods.is_empty() => nodes.get_opt(&request.node).await?,
        _ => None,
    };
    Ok(rules::judge(purpose, asker, request, &scope.node_prefix, &pods, node.as_ref()))
}

/// The pods of the service account that say that they are this node, and have not ended.
async fn pods(context: &Context, node: &str) -> Result<Vec<Pod>, ApproveError> {
    let scope = &context.scope;
    // What is no value of a label is no node's name either, and none of a pod's.
    let is_name = |sign: char| sign.is_ascii_alphanumeric() || ['-', '.', '_'].contains(&sign);
    if node.len() > 63 || !node.chars().all(is_name) {
        return Ok(Vec::new());
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &scope.namespace);
    let mut pods = api.list(&ListParams::default().labels(&format!("{NODE_LABEL}={node}"))).await?.items;
    pods.retain(|pod| {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        account == Some(scope.service_account.as_str()) && !matches!(phase, Some("Succeeded" | "Failed"))
    });
    Ok(pods)
}

async fn say(
    client: &Client,
    request: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
) -> Result<(), ApproveError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let now = Time(Timestamp::now());
    let status = request.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.unwrap_or_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now),
    });
    // With the version that was judged: a request that has changed meanwhile is judged anew.
    let answer = json!({
        "metadata": { "resourceVersion": request.resource_version() },
        "status": { "conditions": conditions },
    });
    api.patch_approval(&request.name_any(), &PatchParams::default(), &Patch::Merge(answer)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope { namespace: "ns".into(), service_account: "node".into(), node_prefix: String::new() }
    }

    fn of(user: &str, extra: &[(&str, &[&str])]) -> Asker {
        let extra = extra
            .iter()
            .map(|(key, values)| ((*key).to_owned(), values.iter().map(|&value| value.to_owned()).collect()))
            .collect();
        let spec = CertificateSigningRequestSpec {
            username: Some(user.to_owned()),
            extra: Some(extra),
            ..CertificateSigningRequestSpec::default()
        };
        asker(&spec, &scope())
    }

    #[test]
    fn who_asks_is_who_the_api_server_says() {
        let bound: &[(&str, &[&str])] = &[(POD_NAME, &["a"]), (POD_UID, &["1"])];
        assert_eq!(
            of("system:serviceaccount:ns:node", bound),
            Asker::Pod { name: "a".into(), uid: "1".into() }
        );
        assert_eq!(of("system:serviceaccount:ns:node", &bound[..1]), Asker::Unbound);
        let twice: &[(&str, &[&str])] = &[(POD_NAME, &["a", "b"]), (POD_UID, &["1"])];
        assert_eq!(of("system:serviceaccount:ns:node", twice), Asker::Unbound);
        assert_eq!(of("system:serviceaccount:other:node", bound), Asker::Stranger);
        assert_eq!(of("system:serviceaccount:ns:node2", bound), Asker::Stranger);
        assert_eq!(of("system:node:b", bound), Asker::Node("b".into()));
        assert_eq!(of("admin", bound), Asker::Stranger);
    }

    #[test]
    fn what_has_an_answer_is_left_alone() {
        let mut request = CertificateSigningRequest::default();
        assert!(!is_answered(&request));
        request.status.get_or_insert_default().conditions = Some(vec![CertificateSigningRequestCondition {
            type_: "Denied".into(),
            ..CertificateSigningRequestCondition::default()
        }]);
        assert!(is_answered(&request));
    }
}
