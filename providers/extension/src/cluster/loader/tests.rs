use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

use super::*;
use crate::cluster::references::{ObjectKind, ObjectName};

/// Answers fetches one after the other with what it was given, then with a module of the URI.
#[derive(Debug, Default)]
struct Supply {
    answers: Mutex<VecDeque<Result<&'static [u8], FetchReason>>>,
    kept: Mutex<Option<&'static [u8]>>,
    fetched: Mutex<Vec<(String, bool)>>,
}

impl Supply {
    fn next(&self, answer: Result<&'static [u8], FetchReason>) {
        self.answers.lock().unwrap().push_back(answer);
    }

    fn fetches(&self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.fetched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl ModuleSupply for Supply {
    fn request(&self, spec: &WasmExtensionSpec) -> Result<ModuleRequest, FetchFailure> {
        ModuleRequest::new(&spec.image, &[])
            .map_err(|error| FetchFailure::new(FetchReason::InvalidImage, error.to_string()))
    }

    async fn fetch(
        &self,
        _namespace: &str,
        request: &ModuleRequest,
        secret: Option<Arc<Secret>>,
    ) -> Result<FetchedModule, FetchFailure> {
        self.fetched.lock().unwrap().push((request.name.to_string(), secret.is_some()));
        match self.answers.lock().unwrap().pop_front() {
            Some(Ok(bytes)) => Ok(FetchedModule::in_memory(bytes)),
            Some(Err(reason)) => Err(FetchFailure::new(reason, "why")),
            None => Ok(FetchedModule::in_memory(request.name.to_string().as_bytes())),
        }
    }

    async fn kept(&self, _namespace: &str, _request: &ModuleRequest) -> Option<FetchedModule> {
        self.kept.lock().unwrap().map(FetchedModule::in_memory)
    }
}

/// A loader that runs.
struct Case {
    supply: Arc<Supply>,
    table: ExtensionTable,
    extensions: watch::Sender<ClusterExtensions>,
    objects: watch::Sender<ReferencedObjects>,
    progress: watch::Receiver<LoadProgress>,
    _grants: watch::Sender<GrantState>,
}

impl Case {
    fn start(refresh: Duration) -> Self {
        let (supply, table) = (Arc::<Supply>::default(), ExtensionTable::default());
        let (extensions, extensions_receiver) = watch::channel(ClusterExtensions::default());
        let (objects, objects_receiver) = watch::channel(ReferencedObjects::default());
        let (grants, grants_receiver) = watch::channel(GrantState::NotInstalled);
        let (tell, progress) = watch::channel(LoadProgress::default());
        let inputs = LoaderInputs {
            extensions: extensions_receiver,
            watches: vec![0],
            objects: objects_receiver,
            grants: grants_receiver,
        };
        let loader =
            Loader::new(table.clone(), Arc::<Supply>::clone(&supply) as Arc<dyn ModuleSupply>, refresh);
        tokio::spawn(loader.run(inputs, tell));
        Self { supply, table, extensions, objects, progress, _grants: grants }
    }

    fn set(&self, all: &[&WasmExtension]) {
        let objects = all.iter().map(|extension| {
            let key = (Some(extension.name.namespace().to_owned()), extension.name.name().to_owned());
            (key, Arc::new((*extension).clone()))
        });
        let objects = objects.collect();
        self.extensions.send_modify(|extensions| extensions.replace(0, objects));
    }

    async fn until(&mut self, is_so: impl Fn(&ExtensionProgress) -> bool) -> ExtensionProgress {
        let found = self.progress.wait_for(|progress| progress.extensions.get("team/a").is_some_and(&is_so));
        let progress = tokio::time::timeout(Duration::from_secs(3600), found).await.unwrap().unwrap();
        progress.extensions["team/a"].clone()
    }

    fn published(&self) -> Option<String> {
        let extension = self.table.get(&name())?;
        Some(String::from_utf8(extension.resource().parts()[1].to_vec()).unwrap())
    }
}

fn name() -> ExtensionName {
    ExtensionName::parse("team/a").unwrap()
}

fn extension(generation: i64, image: Value, more: Value) -> WasmExtension {
    let mut whole = json!({ "protocol": "https" });
    whole.as_object_mut().unwrap().extend(image.as_object().unwrap().clone());
    let mut spec = json!({ "runtime": "v8", "vm_id": "", "root_id": "", "image": whole });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    WasmExtension {
        name: name(),
        uid: "u".into(),
        generation,
        spec: serde_json::from_value(spec).map_err(|error| error.to_string()),
        status: None,
    }
}

fn secret(name: &str, version: &str) -> (ObjectName, ObjectState) {
    let secret = json!({ "metadata": { "resourceVersion": version }, "data": { "k": "dg==" } });
    let name = ObjectName { kind: ObjectKind::Secret, namespace: "team".into(), name: name.into() };
    (name, ObjectState::Secret(Arc::new(serde_json::from_value(secret).unwrap())))
}

fn is_published(generation: i64) -> impl Fn(&ExtensionProgress) -> bool {
    move |progress| progress.published.as_ref().is_some_and(|published| published.generation == generation)
}

fn is_failed(progress: &ExtensionProgress) -> bool {
    matches!(progress.module, ModuleProgress::Failed(_))
}

#[tokio::test(start_paused = true)]
async fn a_version_that_fails_leaves_the_one_before() {
    let mut case = Case::start(Duration::ZERO);
    case.set(&[&extension(1, json!({ "uri": "h/1" }), json!({}))]);
    case.until(is_published(1)).await;
    assert_eq!(case.published().as_deref(), Some("https://h/1"));
    for reason in [FetchReason::NotFound, FetchReason::DigestMismatch] {
        case.supply.next(Err(reason));
    }
    case.set(&[&extension(2, json!({ "uri": "h/2" }), json!({}))]);
    let failed = case.until(is_failed).await;
    assert_eq!(failed.published.unwrap().generation, 1);
    assert_eq!(case.published().as_deref(), Some("https://h/1"));
    // It is tried again until it is there.
    case.until(is_published(2)).await;
    assert_eq!(case.published().as_deref(), Some("https://h/2"));
    let asked: Vec<String> = case.supply.fetches().into_iter().map(|(name, _)| name).collect();
    assert_eq!(asked, ["https://h/1", "https://h/2", "https://h/2", "https://h/2"]);
    // A spec that cannot be used, too.
    let mut broken = extension(3, json!({ "uri": "h/3" }), json!({}));
    broken.spec = Err("the spec has no image".into());
    case.set(&[&broken]);
    let invalid =
        case.until(|progress| matches!(progress.configuration, ConfigurationProgress::Invalid(_))).await;
    assert_eq!(invalid.published.unwrap().generation, 2);
    case.set(&[]);
    case.progress.wait_for(|progress| progress.extensions.is_empty()).await.unwrap();
    assert_eq!(case.published(), None);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_configuration_fetches_nothing() {
    let mut case = Case::start(Duration::ZERO);
    let reference = json!({ "namespace": "team", "name": "s", "key": "k" });
    let configured = json!({ "plugin_configuration": { "valueFrom": { "secretKeyRef": reference } } });
    case.set(&[&extension(1, json!({ "uri": "h/1" }), configured.clone())]);
    let waiting = case.until(|progress| matches!(progress.module, ModuleProgress::Fetched(None))).await;
    assert!(matches!(waiting.configuration, ConfigurationProgress::Failed(failure) if failure.is_pending()));
    assert_eq!(case.published(), None);
    case.objects.send_modify(|objects| objects.extend([secret("s", "1")]));
    let first = case.until(is_published(1)).await.published.unwrap().version;
    let missing = secret("s", "1").0;
    case.objects.send_modify(|objects| drop(objects.insert(missing, ObjectState::Missing)));
    let failed = case
        .until(|progress| matches!(&progress.configuration, ConfigurationProgress::Failed(failure) if !failure.is_pending()))
        .await;
    assert_eq!(failed.published.unwrap().version, first);
    case.set(&[&extension(2, json!({ "uri": "h/1" }), json!({ "vm_configuration": { "value": "v" } }))]);
    assert_ne!(case.until(is_published(2)).await.published.unwrap().version, first);
    assert_eq!(case.supply.fetches().len(), 1);
    // What does not change anything for Envoys keeps its version.
    let same = extension(3, json!({ "uri": "h/1" }), json!({ "vm_configuration": { "value": "v" } }));
    let before = case.table.get(&name()).unwrap().version().clone();
    case.set(&[&same]);
    assert_eq!(case.until(is_published(3)).await.published.unwrap().version, before);
}

#[tokio::test(start_paused = true)]
async fn what_goes_on_while_a_newer_version_fails_follows_its_secret() {
    let mut case = Case::start(Duration::ZERO);
    let reference = json!({ "namespace": "team", "name": "s", "key": "k" });
    let configured = json!({ "plugin_configuration": { "valueFrom": { "secretKeyRef": reference } } });
    case.objects.send_modify(|objects| objects.extend([secret("s", "1")]));
    case.set(&[&extension(1, json!({ "uri": "h/1" }), configured.clone())]);
    let first = case.until(is_published(1)).await.published.unwrap().version;
    // It is not tried again, as things are.
    case.supply.next(Err(FetchReason::PullSecretUnusable));
    case.set(&[&extension(2, json!({ "uri": "h/2" }), configured)]);
    let failed = case.until(is_failed).await;
    assert_eq!(failed.published.unwrap().version, first);
    let (name, _) = secret("s", "2");
    let changed = json!({ "metadata": { "resourceVersion": "2" }, "data": { "k": "dnY=" } });
    let changed = ObjectState::Secret(Arc::new(serde_json::from_value(changed).unwrap()));
    case.objects.send_modify(|objects| drop(objects.insert(name, changed)));
    let is_another = |published: &PublishedFacts| published.version != first;
    let followed = case.until(|progress| progress.published.as_ref().is_some_and(is_another)).await;
    assert_eq!(followed.published.unwrap().generation, 1);
    assert!(matches!(followed.module, ModuleProgress::Failed(_)));
    assert_eq!(case.published().as_deref(), Some("https://h/1"));
}

#[tokio::test(start_paused = true)]
async fn a_source_is_asked_again_where_it_is_to_be_asked_each_time() {
    let mut case = Case::start(Duration::from_secs(60));
    for answer in [Ok(&b"1"[..]), Err(FetchReason::Unavailable), Ok(b"2")] {
        case.supply.next(answer);
    }
    case.set(&[&extension(1, json!({ "uri": "h/1" }), json!({}))]);
    case.until(is_published(1)).await;
    assert_eq!(case.published().as_deref(), Some("1"));
    let stale = case.until(|progress| matches!(progress.module, ModuleProgress::Fetched(Some(_)))).await;
    assert!(stale.published.is_some());
    case.until(|progress| progress.module == ModuleProgress::Fetched(None)).await;
    assert_eq!(case.published().as_deref(), Some("2"));
    // One that is pinned is not.
    case.supply.fetches();
    let sha256 = "0".repeat(64);
    case.set(&[&extension(2, json!({ "uri": "h/1", "sha256": sha256 }), json!({}))]);
    case.until(is_published(2)).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(case.supply.fetches().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_before_is_used_while_nobody_answers() {
    let mut case = Case::start(Duration::ZERO);
    *case.supply.kept.lock().unwrap() = Some(b"kept");
    case.supply.next(Err(FetchReason::Unavailable));
    case.set(&[&extension(1, json!({ "uri": "h/1" }), json!({}))]);
    let stale = case.until(is_published(1)).await;
    assert!(matches!(stale.module, ModuleProgress::Fetched(Some(_))));
    assert_eq!(case.published().as_deref(), Some("kept"));
    case.until(|progress| progress.module == ModuleProgress::Fetched(None)).await;
    // What the source refuses is not used.
    case.supply.next(Err(FetchReason::Denied));
    case.set(&[&extension(2, json!({ "uri": "h/2" }), json!({}))]);
    case.until(is_failed).await;
    assert_eq!(case.published().as_deref(), Some("https://h/1"));
}

#[tokio::test(start_paused = true)]
async fn a_pull_secret_is_shown_and_a_new_one_at_once() {
    let mut case = Case::start(Duration::ZERO);
    let image = json!({ "protocol": "oci", "uri": "r.example/a:v1", "pull_secret": "pull" });
    case.set(&[&extension(1, image, json!({}))]);
    case.progress.wait_for(|progress| progress.extensions.contains_key("team/a")).await.unwrap();
    assert!(case.supply.fetches().is_empty(), "the Secret is being read");
    let missing = secret("pull", "1").0;
    case.objects.send_modify(|objects| drop(objects.insert(missing, ObjectState::Missing)));
    let failed = case.until(is_failed).await;
    assert!(
        matches!(failed.module, ModuleProgress::Failed(failure) if failure.reason == FetchReason::PullSecretUnusable)
    );
    case.supply.next(Err(FetchReason::PullSecretUnusable));
    case.objects.send_modify(|objects| objects.extend([secret("pull", "1")]));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(
        case.supply.fetches(),
        [("r.example/a:v1".to_owned(), true)],
        "it is in vain as long as it is the same"
    );
    case.objects.send_modify(|objects| objects.extend([secret("pull", "2")]));
    case.until(is_published(1)).await;
    assert_eq!(case.supply.fetches().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_when_all_was_tried_and_tells_nobody_before_that_something_is_gone() {
    let mut case = Case::start(Duration::ZERO);
    let begun = case.table.subscribe();
    assert!(!begun.borrow().is_complete() && !begun.borrow().is_settled());
    drop(begun);
    case.supply.next(Err(FetchReason::NotFound));
    case.set(&[&extension(1, json!({ "uri": "h/1" }), json!({}))]);
    case.until(is_failed).await;
    assert!(case.progress.borrow().is_ready);
    let published = case.table.subscribe();
    assert!(published.borrow().is_settled());
    assert!(published.borrow().is_complete() && !published.borrow().is_gone("team/a"));
    assert!(published.borrow().is_gone("team/b"));
}
