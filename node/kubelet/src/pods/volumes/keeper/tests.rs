use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use async_trait::async_trait;
use k8s_openapi::api::{
    authentication::v1::{TokenRequestSpec, TokenRequestStatus},
    core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::pods::{
    api_error::ApiError,
    objects::{Known, ObjectSource, Subscription, TrustBundle},
    volumes::{AllowedHostPaths, ProtectedPaths, VolumeSettings},
};

/// Objects that a test sets.
#[derive(Debug, Default)]
struct Objects {
    config_maps: Mutex<BTreeMap<String, watch::Sender<Known<ConfigMap>>>>,
    claims: Mutex<BTreeMap<String, Value>>,
    volumes: Mutex<BTreeMap<String, Value>>,
    /// Tokens that were asked for.
    asked: Mutex<Vec<TokenRequestSpec>>,
    /// Seconds that the next token lives.
    life: std::sync::atomic::AtomicI64,
}

impl Objects {
    fn sender(&self, name: &str) -> watch::Sender<Known<ConfigMap>> {
        let mut senders = self.config_maps.lock().unwrap();
        senders.entry(name.to_owned()).or_insert_with(|| watch::channel(Known::Unread).0).clone()
    }

    fn set(&self, name: &str, data: Option<Value>) {
        let known = data.map_or(Known::Absent, |data| {
            Known::Present(Arc::new(serde_json::from_value(json!({"data": data})).unwrap()))
        });
        self.sender(name).send_replace(known);
    }
}

#[async_trait]
impl ObjectSource for Objects {
    fn config_map(&self, _: &str, name: &str) -> Subscription<ConfigMap> {
        Subscription::alone(self.sender(name).subscribe())
    }

    fn secret(&self, _: &str, _: &str) -> Subscription<Secret> {
        Subscription::alone(watch::channel(Known::Absent).1)
    }

    async fn token(
        &self,
        _: &str,
        _: &str,
        request: TokenRequestSpec,
    ) -> Result<TokenRequestStatus, ApiError> {
        let mut asked = self.asked.lock().unwrap();
        asked.push(request);
        let life = self.life.load(std::sync::atomic::Ordering::SeqCst);
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(life);
        Ok(TokenRequestStatus {
            token: Some(format!("token-{}", asked.len())),
            expiration_timestamp: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(expires)),
        })
    }

    async fn claim(&self, _: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, ApiError> {
        let claims = self.claims.lock().unwrap();
        Ok(claims.get(name).map(|claim| serde_json::from_value(claim.clone()).unwrap()))
    }

    async fn volume(&self, name: &str) -> Result<Option<PersistentVolume>, ApiError> {
        let volumes = self.volumes.lock().unwrap();
        Ok(volumes.get(name).map(|volume| serde_json::from_value(volume.clone()).unwrap()))
    }

    async fn trust_bundles(&self) -> Result<Vec<TrustBundle>, ApiError> {
        Err(ApiError::Gone)
    }
}

/// A keeper of a pod with the given volumes, all of which its one container mounts.
struct Bench {
    _root: tempfile::TempDir,
    objects: Arc<Objects>,
    volumes: Arc<Volumes>,
    records: Records,
    keeper: Keeper,
    notes: mpsc::UnboundedReceiver<String>,
    _node: watch::Sender<NodeFacts>,
}

fn pod(volumes: &Value, label: &str) -> Arc<Pod> {
    let mounts: Vec<Value> = volumes
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| json!({"name": volume["name"], "mountPath": format!("/{}", volume["name"])}))
        .collect();
    let pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u-1", "labels": {"app": label}},
        "spec": {"containers": [{"name": "c", "volumeMounts": mounts}], "volumes": volumes},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

impl Bench {
    fn new(volumes: &Value, prepare: impl FnOnce(&Objects, &Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let objects = Arc::new(Objects::default());
        prepare(&objects, root.path());
        let allowed = AllowedHostPaths::new(
            vec![root.path().canonicalize().unwrap().join("allowed")],
            ProtectedPaths::default(),
        )
        .unwrap();
        let settings = VolumeSettings { allowed_host_paths: allowed, ..VolumeSettings::default() };
        let of_node = Arc::new(Volumes::with(Arc::clone(&objects) as Arc<dyn ObjectSource>, settings));
        let records = Records::open(root.path()).unwrap();
        let (node, facts) = watch::channel(NodeFacts::default());
        let (sender, notes) = mpsc::unbounded_channel();
        let parts = KeeperParts {
            volumes: Arc::clone(&of_node),
            records: records.clone(),
            node: facts,
            view: None,
            tell: Box::new(move |note| {
                let _ = sender.send(format!("{}: {}", note.reason, note.message));
            }),
        };
        let keeper = Keeper::start(pod(volumes, "web"), parts);
        Self { _root: root, objects, volumes: of_node, records, keeper, notes, _node: node }
    }

    /// Where a volume is, once all of them are there.
    async fn place(&self, name: &str) -> PathBuf {
        let places = self.keeper.ready().await;
        match places.get(name) {
            Some(VolumePlace::Path { path, .. }) => path.clone(),
            other => panic!("{name}: {other:?}"),
        }
    }

    /// Waits until a file reads like this, or is not there. Nothing tells of a change on disk, so that it is looked at
    /// again and again.
    async fn reads(path: &Path, expected: Option<&str>) {
        let reads = async {
            while fs::read_to_string(path).ok().as_deref() != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(60), reads).await;
        assert!(seen.is_ok(), "{expected:?}, but {}: {:?}", path.display(), fs::read_to_string(path));
    }
}

#[tokio::test]
async fn a_missing_object_is_told_of_and_waited_for() {
    let volumes = json!([{"name": "v", "configMap": {"name": "cm"}}]);
    let mut bench = Bench::new(&volumes, |objects, _| objects.set("cm", None));
    let told = bench.notes.recv().await.unwrap();
    assert_eq!(told, "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found");
    bench.objects.set("cm", Some(json!({"a": "1"})));
    let place = bench.place("v").await;
    assert_eq!(fs::read_to_string(place.join("a")).unwrap(), "1");
    assert!(place.ends_with("pods/u-1/volumes/kubernetes.io~configmap/v"));

    // Whatever becomes of the object: the files follow, and stay when they cannot.
    bench.objects.set("cm", Some(json!({"a": "2", "b": "3"})));
    Bench::reads(&place.join("a"), Some("2")).await;
    assert_eq!(fs::read_to_string(place.join("b")).unwrap(), "3");
    bench.objects.set("cm", None);
    let told = bench.notes.recv().await.unwrap();
    assert!(told.ends_with("configmap \"cm\" not found"), "{told}");
    assert_eq!(fs::read_to_string(place.join("a")).unwrap(), "2");
}

#[tokio::test]
async fn an_optional_object_comes_and_goes() {
    let volumes = json!([{"name": "v", "configMap": {"name": "cm", "optional": true}}]);
    let bench = Bench::new(&volumes, |objects, _| objects.set("cm", None));
    let place = bench.place("v").await;
    assert!(!place.join("a").exists());
    bench.objects.set("cm", Some(json!({"a": "1"})));
    Bench::reads(&place.join("a"), Some("1")).await;
    bench.objects.set("cm", None);
    Bench::reads(&place.join("a"), None).await;
}

#[tokio::test]
async fn labels_follow_the_pod() {
    let volumes = json!([{"name": "v", "downwardAPI": {"items": [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
    ]}}]);
    let bench = Bench::new(&volumes, |_, _| {});
    let place = bench.place("v").await;
    assert_eq!(fs::read_to_string(place.join("labels")).unwrap(), "app=\"web\"");
    bench.keeper.update(&pod(&volumes, "api"));
    Bench::reads(&place.join("labels"), Some("app=\"api\"")).await;
}

#[tokio::test]
async fn a_token_is_renewed_in_time() {
    let volumes = json!([{"name": "v", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
    ]}}]);
    let bench =
        Bench::new(&volumes, |objects, _| objects.life.store(1500, std::sync::atomic::Ordering::SeqCst));
    let place = bench.place("v").await;
    assert_eq!(fs::read_to_string(place.join("token")).unwrap(), "token-1");
    Bench::reads(&place.join("token"), Some("token-2")).await;
    let asked = bench.objects.asked.lock().unwrap();
    let bound = asked[0].bound_object_ref.as_ref().unwrap();
    assert_eq!((asked[0].expiration_seconds, bound.uid.as_deref()), (Some(600), Some("u-1")));
}

#[tokio::test]
async fn folders_of_the_pod_and_of_the_node() {
    let volumes = json!([
        {"name": "scratch", "emptyDir": {}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}},
        {"name": "refused", "hostPath": {"path": "/etc"}},
        {"name": "unsupported", "nfs": {"server": "s", "path": "/"}},
    ]);
    let bench = Bench::new(&volumes, |objects, root| {
        let disk = root.join("disk");
        fs::create_dir(&disk).unwrap();
        let claim =
            json!({"metadata": {"uid": "c-1"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"uid": "c-1"}, "local": {"path": disk}}});
        objects.claims.lock().unwrap().insert("c".to_owned(), claim);
        objects.volumes.lock().unwrap().insert("pv".to_owned(), volume);
    });
    let places = bench.keeper.ready().await;
    let names: Vec<_> = places.keys().collect();
    // What cannot be had holds up the containers that mount it, and not the pod.
    assert_eq!(names, ["claim", "scratch"]);
    assert!(
        matches!(&places["claim"], VolumePlace::Path { path, read_only: true } if path.ends_with("disk"))
    );
    let scratch = bench.place("scratch").await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&scratch).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o777);

    // What is removed is what is the pod's own.
    let disk = match &places["claim"] {
        VolumePlace::Path { path, .. } => path.clone(),
        VolumePlace::Image(_) => panic!("not a path"),
    };
    fs::write(disk.join("data"), "kept").unwrap();
    std::os::unix::fs::symlink(&disk, scratch.join("link")).unwrap();
    bench.keeper.stop().await;
    bench.volumes.remove(&bench.records, "u-1").unwrap();
    assert!(!scratch.exists() && !bench.records.dir("u-1").join("volumes").exists());
    assert_eq!(fs::read_to_string(disk.join("data")).unwrap(), "kept");
}

#[tokio::test]
async fn a_claim_that_is_not_bound_is_told_of_and_tried_again() {
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    let mut bench = Bench::new(&volumes, |_, _| {});
    let prefix = "FailedMount: MountVolume.SetUp failed for volume \"v\" : error processing PVC ns/c: ";
    let told = bench.notes.recv().await.unwrap();
    assert_eq!(
        told,
        format!("{prefix}failed to fetch PVC from API server: persistentvolumeclaims \"c\" not found")
    );
    bench.objects.claims.lock().unwrap().insert("c".to_owned(), json!({"status": {"phase": "Pending"}}));
    while bench.notes.recv().await.unwrap() != format!("{prefix}PVC is not bound") {}
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_told_as_such() {
    let volumes = json!([{"name": "v", "configMap": {"name": "cm"}}, {"name": "w", "emptyDir": {}}]);
    // The API server does not answer at all.
    let mut bench = Bench::new(&volumes, |_, _| {});
    let told = bench.notes.recv().await.unwrap();
    assert_eq!(
        told,
        "FailedMount: Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to \
         process volumes=[]: timed out waiting for the condition"
    );
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_outgrows_its_limit_is_told_of() {
    let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "64Ki"}}]);
    let mut bench = Bench::new(&volumes, |_, _| {});
    let place = bench.place("v").await;
    fs::write(place.join("small"), [1; 100]).unwrap();
    let quiet = tokio::time::timeout(MEASURE * 3, bench.keeper.excess()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    fs::write(place.join("large"), vec![1; 128 << 10]).unwrap();
    assert_eq!(bench.keeper.excess().await, "Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\". ");
}
