use std::sync::Mutex;

use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::advance};

use super::*;
use crate::modules::ModuleFailure;

/// A registry that loads what it is told to, when it is told to.
#[derive(Debug)]
struct Fake {
    outcomes: Mutex<HashMap<String, LoadFailure>>,
    /// One for each load that may come to an end.
    permits: Semaphore,
    /// What is served, by its module.
    served: Mutex<BTreeMap<String, String>>,
}

#[async_trait]
impl PolicySink for Fake {
    async fn put(&self, id: &str, spec: Spec) -> Result<(), LoadFailure> {
        let Spec::Policy(policy) = spec else { panic!("no policy") };
        self.permits.acquire().await.unwrap().forget();
        let module = policy.program.module;
        match self.outcomes.lock().unwrap().get(&module) {
            Some(failure) => Err(failure.clone()),
            None => {
                self.served.lock().unwrap().insert(id.to_owned(), module);
                Ok(())
            }
        }
    }

    fn remove(&self, id: &str) {
        self.served.lock().unwrap().remove(id);
    }

    fn refuse_unless_served(&self, id: &str, message: &str) {
        self.served.lock().unwrap().entry(id.to_owned()).or_insert_with(|| format!("refusal: {message}"));
    }
}

struct Case {
    sink: Arc<Fake>,
    policies: watch::Sender<ClusterPolicies>,
    progress: watch::Receiver<Progress>,
}

fn start() -> Case {
    let sink =
        Arc::new(Fake { outcomes: Mutex::default(), permits: Semaphore::new(0), served: Mutex::default() });
    let (policies, receiver) = watch::channel(ClusterPolicies::default());
    let (tell, progress) = watch::channel(Progress::default());
    let loader = Loader::new(Arc::<Fake>::clone(&sink), "default");
    tokio::spawn(loader.run(receiver, tell));
    Case { sink, policies, progress }
}

fn policy(generation: i64, module: &str, more: Value) -> ClusterPolicy {
    let mut object = json!({
        "metadata": { "name": "p", "uid": "u", "generation": generation },
        "spec": { "module": module, "rules": [] },
    });
    json_patch::merge(&mut object, &more);
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    ClusterPolicy::read(PolicyKind::ClusterAdmissionPolicy, &object)
}

impl Case {
    fn see(&self, policies: &[ClusterPolicy]) {
        self.policies.send_modify(|followed| {
            for kind in PolicyKind::ALL {
                let of_kind = policies.iter().filter(|policy| policy.name.kind == kind);
                let keyed =
                    of_kind.map(|policy| ((None, policy.name.name.clone()), Arc::new(policy.clone())));
                followed.replace(kind, keyed.collect());
            }
        });
    }

    fn fails(&self, module: &str, is_transient: bool) {
        let failure = ModuleFailure { message: format!("{module}: not found"), is_transient };
        self.sink.outcomes.lock().unwrap().insert(module.to_owned(), failure.into());
    }

    async fn until(&mut self, what: impl Fn(&Progress) -> bool) -> Progress {
        self.progress.wait_for(|progress| what(progress)).await.unwrap().clone()
    }

    async fn until_newest(&mut self, generation: i64, what: impl Fn(&Newest) -> bool) -> PolicyProgress {
        let found = self
            .until(|progress| {
                let mut policies = progress.policies.values();
                policies.any(|policy| policy.version.generation == generation && what(&policy.newest))
            })
            .await;
        found.policies.into_values().next().unwrap()
    }

    fn served(&self) -> Option<String> {
        self.sink.served.lock().unwrap().get("kw.cap.p").cloned()
    }
}

fn is_served(newest: &Newest) -> bool {
    *newest == Newest::Served
}

fn is_failed(newest: &Newest) -> bool {
    matches!(newest, Newest::Failed { .. })
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_ready_when_all_that_there_was_is_tried() {
    let mut case = start();
    case.see(&[policy(1, "a", json!({}))]);
    let loading = case.until_newest(1, |newest| *newest == Newest::Loading).await;
    assert_eq!(loading.served, None);
    assert!(!case.progress.borrow().is_ready);
    case.sink.permits.add_permits(1);
    case.until_newest(1, is_served).await;
    case.until(|progress| progress.is_ready).await;
    assert_eq!(case.served().as_deref(), Some("a"));

    // A policy that comes later does not change that.
    case.see(&[policy(2, "b", json!({}))]);
    case.until_newest(2, |newest| *newest == Newest::Loading).await;
    assert!(case.progress.borrow().is_ready);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_cannot_be_loaded_changes_nothing() {
    let mut case = start();
    case.sink.permits.add_permits(9);
    case.see(&[policy(1, "a", json!({}))]);
    case.until_newest(1, is_served).await;
    case.fails("b", false);
    for (generation, newer) in
        [(2, policy(2, "b", json!({}))), (3, policy(3, "c", json!({ "spec": { "settings": [] } })))]
    {
        case.see(&[newer]);
        let failed = case.until_newest(generation, is_failed).await;
        assert_eq!(failed.served_of_this().unwrap().version.generation, 1);
        assert_eq!(case.served().as_deref(), Some("a"));
    }
    case.see(&[policy(4, "d", json!({}))]);
    case.until_newest(4, is_served).await;
    assert_eq!(case.served().as_deref(), Some("d"));
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again() {
    let mut case = start();
    case.sink.permits.add_permits(9);
    case.fails("a", true);
    case.see(&[policy(1, "a", json!({}))]);
    case.until_newest(1, is_failed).await;
    assert_eq!(case.served().as_deref(), Some("refusal: a: not found"));
    assert!(case.progress.borrow().is_ready, "one that fails keeps nobody from the others");
    case.sink.outcomes.lock().unwrap().clear();
    case.until_newest(1, is_served).await;
    assert_eq!(case.progress.borrow().policies.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_load_is_given_up_for_a_newer_version() {
    let mut case = start();
    case.see(&[policy(1, "a", json!({}))]);
    case.until_newest(1, |newest| *newest == Newest::Loading).await;
    case.see(&[policy(2, "b", json!({}))]);
    case.until_newest(2, |newest| *newest == Newest::Loading).await;
    // One load may end: it is that of the newer version.
    case.sink.permits.add_permits(1);
    case.until_newest(2, is_served).await;
    assert_eq!(case.served().as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_gone_is_served_a_while_longer() {
    let mut case = start();
    case.sink.permits.add_permits(9);
    case.see(&[policy(1, "a", json!({}))]);
    case.until_newest(1, is_served).await;
    // Being deleted is a generation of its own.
    let deletion = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
    case.see(&[policy(2, "a", deletion)]);
    case.see(&[]);
    // It is seen before time goes on.
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    advance(LINGER - Duration::from_secs(1)).await;
    tokio::task::yield_now().await;
    assert_eq!(case.served().as_deref(), Some("a"));
    case.until(|progress| progress.policies.is_empty()).await;
    assert_eq!(case.served(), None);
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_the_same_name_is_another_one() {
    let mut case = start();
    case.sink.permits.add_permits(9);
    case.see(&[policy(1, "a", json!({}))]);
    case.until_newest(1, is_served).await;
    case.see(&[]);
    case.fails("b", false);
    case.see(&[policy(1, "b", json!({ "metadata": { "uid": "v" } }))]);
    let failed = case.until_newest(1, is_failed).await;
    assert_eq!(failed.served_of_this(), None, "what is served is of another one");
}

#[tokio::test(start_paused = true)]
async fn policies_of_other_servers_are_left_alone() {
    let mut case = start();
    case.sink.permits.add_permits(9);
    case.see(&[policy(1, "a", json!({ "spec": { "policyServer": "other" } }))]);
    case.until(|progress| progress.is_ready).await;
    assert!(case.progress.borrow().policies.is_empty());
    assert_eq!(case.served(), None);
}
