//! The keeper against an API server that tells what it is asked.

use std::{convert::Infallible, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use jiff::Timestamp;
use kube::client::Body;
use kubewasm_rules::Protocol;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::{
    events::Occurrence,
    runtime::{
        ContainerList, ContainerSpec, Credential, ExecEnd, ExecError, ExecIo, Image, ImageError,
        NetworkRules, Presence, PulledImage, StartError,
    },
};

/// Takes rules, and nothing else.
#[derive(Debug, Default)]
struct RulesTaker(Mutex<NetworkRules>);

#[async_trait]
impl Runtime for RulesTaker {
    async fn set_network_rules(&self, rules: &NetworkRules) -> Result<(), RuntimeError> {
        self.0.lock().unwrap().clone_from(rules);
        Ok(())
    }

    fn version(&self) -> String {
        "test://0".to_owned()
    }

    async fn image(&self, _: &str) -> Result<Option<Image>, ImageError> {
        Ok(None)
    }

    async fn pull(&self, image: &str, _: &[Credential]) -> Result<PulledImage, ImageError> {
        Err(ImageError::Pull(image.into()))
    }

    async fn images(&self) -> Vec<Image> {
        Vec::new()
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        Err(StartError::Run(spec.id.clone().into()))
    }

    async fn stop(&self, _: &str, _: Duration) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn remove(&self, _: &str) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn exec(&self, id: &str, _: &[String], _: ExecIo) -> Result<ExecEnd, ExecError> {
        Err(ExecError::NotRunning(id.to_owned()))
    }

    fn observe(&self, _: &str) -> Presence {
        Presence::Absent
    }

    fn containers(&self) -> ContainerList {
        ContainerList::default()
    }

    fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        None
    }
}

/// An API server with objects by path, and without streaming lists. What is not there is forbidden; a watch is silent.
#[derive(Clone, Debug, Default)]
struct ApiServer {
    objects: BTreeMap<&'static str, Value>,
    lists: Arc<Mutex<Vec<String>>>,
}

impl ApiServer {
    fn answer(&self, request: &Request<Body>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let query = request.uri().query().unwrap_or_default();
        if query.contains("sendInitialEvents=true") {
            let body = json!({"status": "Failure", "message": "no", "reason": "Invalid", "code": 422});
            let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
            return Response::builder().status(422).body(body).unwrap();
        }
        if query.contains("watch=true") {
            let silence = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
            return Response::new(StreamBody::new(silence).boxed_unsync());
        }
        let path = request.uri().path();
        let selector = query.split('&').find(|part| part.starts_with("labelSelector=")).unwrap_or_default();
        self.lists.lock().unwrap().push(format!("{path} {selector}"));
        let (code, body) = match self.objects.get(path) {
            Some(items) => (200, json!({"metadata": {"resourceVersion": "1"}, "items": items})),
            None => {
                let message = format!("{path} is forbidden");
                (403, json!({"status": "Failure", "message": message, "reason": "Forbidden", "code": 403}))
            }
        };
        let body = Full::new(Bytes::from(serde_json::to_vec(&body).unwrap())).boxed_unsync();
        Response::builder().status(code).body(body).unwrap()
    }
}

/// A keeper that runs, with one pod that was noted.
struct Bench {
    policies: Policies,
    api: ApiServer,
    runtime: Arc<RulesTaker>,
    events: mpsc::Receiver<Occurrence>,
}

impl Bench {
    fn new(objects: &[(&'static str, Value)]) -> Self {
        let api = ApiServer { objects: objects.iter().cloned().collect(), lists: Arc::default() };
        let server = api.clone();
        let answer = move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(&request)) }
        };
        let client = Client::new(tower::service_fn(answer), "default");
        let (sink, events) = mpsc::channel(8);
        let (policies, runtime) = (Policies::on(), Arc::new(RulesTaker::default()));
        let taker = Arc::clone(&runtime) as Arc<dyn Runtime>;
        let keeper = Keeper::new(&policies, client, taker, Recorder::local(sink)).unwrap();
        tokio::spawn(keeper.run());
        let pod =
            json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": {"containers": []}});
        let pod = LocalPod::of(&serde_json::from_value(pod).unwrap(), &Default::default());
        policies.note("u", Some(pod));
        Self { policies, api, runtime, events }
    }

    fn lets_in(&self, ip: &str) -> bool {
        let rules = self.runtime.0.lock().unwrap();
        rules["u"].may_come(ip.parse().unwrap(), Protocol::Tcp, 80)
    }
}

const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
const PODS: &str = "/api/v1/namespaces/ns/pods";

fn from_web() -> Value {
    json!([{
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]},
    }])
}

/// When a pod may begin, the provider has its rules, and nothing was asked for that they are not made of.
#[tokio::test]
async fn a_pod_is_settled_when_the_provider_has_its_rules() {
    let web = json!([{
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.9"}]},
    }]);
    let bench = Bench::new(&[(POLICIES, from_web()), (PODS, web)]);
    assert_eq!(bench.policies.settled("u").await, Ok(()));
    assert!(bench.lets_in("10.0.0.9") && !bench.lets_in("10.0.0.8"));
    let asked = [format!("{POLICIES} "), format!("{PODS} labelSelector=app%3Dweb")];
    assert_eq!(*bench.api.lists.lock().unwrap(), asked);
}

#[tokio::test]
async fn a_right_that_is_missing_is_told_in_an_event_of_the_pod() {
    let mut bench = Bench::new(&[]);
    assert_eq!(bench.policies.settled("u").await, Ok(()));
    assert!(bench.lets_in("10.0.0.8"), "nothing is enforced");
    let event = bench.events.recv().await.unwrap();
    assert_eq!(event.reason, "NetworkPolicyUnreadable");
    assert!(event.message.contains(&format!("{POLICIES} is forbidden")), "{}", event.message);

    let mut bench = Bench::new(&[(POLICIES, from_web())]);
    assert_eq!(bench.policies.settled("u").await, Ok(()));
    assert!(!bench.lets_in("10.0.0.9"), "somebody has asked for a restriction");
    let event = bench.events.recv().await.unwrap();
    assert!(event.message.contains("ns/web") && event.message.contains(PODS), "{}", event.message);
}
