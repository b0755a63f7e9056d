//! What the API server says: whether it is there, what time it has, and what it allows.

use std::time::Duration;

use http::{HeaderMap, Request, header::DATE};
use jiff::{Timestamp, fmt::rfc2822};
use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    authorization::v1::{
        FieldSelectorAttributes, ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
    },
};
use kube::{Api, Client, api::PostParams, client::Body};
use kubewasm_kubelet::{config::Config, identity::read_kubeconfig};

use super::finding::Finding;

/// Time that the API server has for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clocks that differ by more make certificates and tokens invalid that are good.
const MOST_SKEW: Duration = Duration::from_mins(1);

/// A right that a node needs, or has use for.
struct Right {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    namespace: &'static str,
    /// The object, or those that a field selects, where a node may have no more.
    of: Scope,
    /// What a node without it does not do; `None` where it does nothing without.
    without: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq)]
enum Scope {
    All,
    /// The object that has the node's name.
    Own,
    /// Pods that are bound to the node.
    Bound,
}

const fn right(verb: &'static str, group: &'static str, resource: &'static str) -> Right {
    Right { verb, group, resource, subresource: "", namespace: "", of: Scope::All, without: None }
}

const RIGHTS: [Right; 14] = [
    Right { without: Some("registers no Node: one has to be there"), ..right("create", "", "nodes") },
    Right { of: Scope::Own, ..right("get", "", "nodes") },
    Right { of: Scope::Own, subresource: "status", ..right("patch", "", "nodes") },
    Right {
        of: Scope::Own,
        namespace: "kube-node-lease",
        ..right("update", "coordination.k8s.io", "leases")
    },
    Right { of: Scope::Bound, ..right("list", "", "pods") },
    Right { of: Scope::Bound, ..right("watch", "", "pods") },
    Right { subresource: "status", namespace: "default", ..right("patch", "", "pods") },
    Right { namespace: "default", ..right("delete", "", "pods") },
    Right {
        namespace: "default",
        without: Some("tells of nothing by Events"),
        ..right("create", "", "events")
    },
    Right {
        without: Some("takes no bearer tokens on its HTTPS API"),
        ..right("create", "authentication.k8s.io", "tokenreviews")
    },
    Right {
        without: Some("lets nobody use its HTTPS API: no kubectl logs"),
        ..right("create", "authorization.k8s.io", "subjectaccessreviews")
    },
    Right { without: Some("gives pods no variables of Services"), ..right("list", "", "services") },
    Right {
        without: Some("takes no pod to Services (manifests/services.yaml)"),
        ..right("list", "discovery.k8s.io", "endpointslices")
    },
    Right {
        without: Some("holds no NetworkPolicies (manifests/network-policies.yaml)"),
        ..right("list", "networking.k8s.io", "networkpolicies")
    },
];

/// Looks at everything that can be looked at.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let (client, url, is_bootstrap) = match credentials(config).await {
        Ok(found) => found,
        Err(finding) => return vec![finding],
    };
    let headers = match reach(&client, &url).await {
        Ok(headers) => headers,
        Err(finding) => return vec![finding],
    };
    let mut findings =
        vec![Finding::ok("API server", format!("{url} answers")), clock(&headers, Timestamp::now())];
    findings.extend(match is_bootstrap {
        true => vec![bootstrap_right(&client).await],
        false => rights(&client, &config.node_name).await,
    });
    findings
}

/// The client that a node would have, the URL of its API server, and whether a certificate has yet to be asked for.
async fn credentials(config: &Config) -> Result<(Client, String, bool), Finding> {
    const CHECK: &str = "credentials";
    let failed = |message: String| {
        Finding::failed(
            CHECK,
            message,
            "correct it, or give another with --kubeconfig or --bootstrap-kubeconfig",
        )
    };
    let is_there = |path: &Option<std::path::PathBuf>| path.clone().filter(|path| path.exists());
    let (file, is_bootstrap) = match (is_there(&config.kubeconfig), is_there(&config.bootstrap_kubeconfig)) {
        (Some(file), _) => (Some(file), false),
        (None, Some(file)) => (Some(file), true),
        (None, None) => (None, false),
    };
    let mut access = match &file {
        Some(file) => read_kubeconfig(file).await.map_err(|error| failed(error.to_string()))?,
        None => match (&config.kubeconfig, kube::Config::incluster()) {
            (None, Ok(access)) => access,
            (Some(file), _) => return Err(failed(format!("{} is not there", file.display()))),
            (None, Err(_)) => {
                return Err(Finding::failed(
                    CHECK,
                    "there are none for an API server",
                    "give them with --kubeconfig, or have them made with --bootstrap-kubeconfig besides",
                ));
            }
        },
    };
    access.connect_timeout = Some(PATIENCE);
    access.read_timeout = Some(PATIENCE);
    access.default_retry = false;
    let url = access.cluster_url.to_string();
    let client = Client::try_from(access).map_err(|error| failed(format!("they cannot be used: {error}")))?;
    Ok((client, url, is_bootstrap))
}

/// Asks for something that everybody may ask for.
async fn reach(client: &Client, url: &str) -> Result<HeaderMap, Finding> {
    const CHECK: &str = "API server";
    const WAY_OUT: &str = "compare the server and the certificate authority of the kubeconfig with the cluster's, and look \
                           for firewalls and proxies on the way";
    let unreached = |why: String| Finding::failed(CHECK, format!("{url} cannot be used: {why}"), WAY_OUT);
    let request =
        Request::get("/version").body(Body::empty()).map_err(|error| unreached(error.to_string()))?;
    match tokio::time::timeout(PATIENCE, client.send(request)).await {
        Err(_) => Err(unreached("no answer within 10 s".to_owned())),
        Ok(Err(error)) => Err(unreached(causes(&error))),
        Ok(Ok(response)) if response.status() == http::StatusCode::UNAUTHORIZED => Err(Finding::failed(
            CHECK,
            format!("{url} does not know these credentials"),
            "get new ones: a token or a certificate may have expired",
        )),
        Ok(Ok(response)) => Ok(response.headers().clone()),
    }
}

/// The whole chain of what went wrong: the last link says what the first only hints at.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

fn clock(headers: &HeaderMap, now: Timestamp) -> Finding {
    const CHECK: &str = "clock";
    let theirs =
        headers.get(DATE).and_then(|date| date.to_str().ok()).and_then(|date| rfc2822::parse(date).ok());
    let Some(theirs) = theirs.map(|date| date.timestamp()) else {
        return Finding::skipped(CHECK, "the API server does not say what time it is");
    };
    let skew = now.duration_since(theirs);
    let message = format!("{} s from that of the API server", skew.as_secs());
    if skew.unsigned_abs() > MOST_SKEW {
        let remedy = "set it (`timedatectl set-ntp true`): certificates and tokens are good at other times here than there";
        return Finding::failed(CHECK, message, remedy);
    }
    Finding::ok(CHECK, message)
}

async fn bootstrap_right(client: &Client) -> Finding {
    const CHECK: &str = "right to ask for a certificate";
    match allowed(client, &right("create", "certificates.k8s.io", "certificatesigningrequests"), "").await {
        Ok(true) => Finding::ok(CHECK, "the bootstrap credentials may ask"),
        Ok(false) => Finding::failed(
            CHECK,
            "the bootstrap credentials may not ask",
            "bind the ClusterRole system:node-bootstrapper to their group, system:bootstrappers",
        ),
        Err(error) => {
            Finding::failed(CHECK, format!("it cannot be told: {error}"), "get new bootstrap credentials")
        }
    }
}

async fn rights(client: &Client, node: &str) -> Vec<Finding> {
    const CHECK: &str = "rights";
    let mut findings = vec![identity(client, node).await];
    let (mut missing, mut useful) = (Vec::new(), Vec::new());
    for right in &RIGHTS {
        match (allowed(client, right, node).await, right.without) {
            (Ok(true), _) => {}
            (Ok(false), None) => missing.push(right.to_string()),
            (Ok(false), Some(without)) => {
                useful.push(format!("{right}, and without that the node {without}"))
            }
            (Err(error), _) => {
                findings.push(Finding::failed(
                    CHECK,
                    format!("they cannot be told: {error}"),
                    "get other credentials",
                ));
                return findings;
            }
        }
    }
    if !missing.is_empty() {
        findings.push(Finding::failed(
            CHECK,
            format!("this identity may not {}", missing.join("; not ")),
            format!(
                "use a certificate of system:node:{node} in the group system:nodes (--bootstrap-kubeconfig gets one), or \
                 a ClusterRole that allows it"
            ),
        ));
    }
    findings.extend(useful.into_iter().map(|what| {
        Finding::warning(
            CHECK,
            format!("this identity may not {what}"),
            "bind a ClusterRole that allows it, if you want that",
        )
    }));
    if findings.len() == 1 {
        findings.push(Finding::ok(CHECK, "all that a node has use for"));
    }
    findings
}

async fn identity(client: &Client, node: &str) -> Finding {
    const CHECK: &str = "identity";
    let api: Api<SelfSubjectReview> = Api::all(client.clone());
    match api.create(&PostParams::default(), &SelfSubjectReview::default()).await {
        Ok(review) => {
            let name = review.status.and_then(|status| status.user_info?.username).unwrap_or_default();
            if name.starts_with("system:node:") && name != format!("system:node:{node}") {
                return Finding::failed(
                    CHECK,
                    format!("{name}, and the node is called {node}"),
                    "give the name that the certificate is for with --hostname-override, or get another certificate",
                );
            }
            Finding::ok(CHECK, name)
        }
        Err(error) => Finding::skipped(CHECK, format!("it cannot be told: {error}")),
    }
}

async fn allowed(client: &Client, right: &Right, node: &str) -> Result<bool, kube::Error> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let selector =
        FieldSelectorAttributes { raw_selector: Some(format!("spec.nodeName={node}")), requirements: None };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: text(right.verb),
                group: text(right.group),
                resource: text(right.resource),
                subresource: text(right.subresource),
                namespace: text(right.namespace),
                name: (right.of == Scope::Own).then(|| node.to_owned()),
                field_selector: (right.of == Scope::Bound).then_some(selector),
                ..ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        match self.of {
            Scope::All => Ok(()),
            Scope::Own => f.write_str(" of its own name"),
            Scope::Bound => f.write_str(" that are bound to it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::State;

    #[test]
    fn a_clock_that_is_minutes_off_is_a_failure() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let at = |date: &str| {
            let headers = HeaderMap::from_iter([(DATE, date.parse().unwrap())]);
            clock(&headers, now).state
        };
        assert_eq!(at("Sun, 01 Mar 2026 12:00:20 GMT"), State::Ok);
        assert_eq!(at("Sun, 01 Mar 2026 11:50:00 GMT"), State::Failed);
        assert_eq!(at("Sun, 01 Mar 2026 12:10:00 GMT"), State::Failed);
        assert_eq!(at("soon"), State::Skipped);
        assert_eq!(clock(&HeaderMap::new(), now).state, State::Skipped);
    }
}
