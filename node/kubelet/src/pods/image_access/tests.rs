use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    super::credentials::SecretCoordinates, verification::ImagePullCredentialsVerificationPolicy as Policy, *,
};
use crate::runtime::{
    ContainerList, ContainerSpec, Credential, ExecEnd, ExecError, ExecIo, ImageError, Presence, PulledImage,
    RuntimeError, StartError,
};

const ID: &str = "r.io/app@sha256:0";

/// A provider that has these images and can do nothing with them.
#[derive(Debug, Default)]
struct Here(Vec<Image>);

#[async_trait]
impl Runtime for Here {
    fn version(&self) -> String {
        "here://1".to_owned()
    }
    async fn image(&self, name: &str) -> Result<Option<Image>, ImageError> {
        Ok(self.0.iter().find(|image| image.reference == name).cloned())
    }
    async fn pull(&self, image: &str, _: &[Credential]) -> Result<PulledImage, ImageError> {
        Err(ImageError::Pull(image.into()))
    }
    async fn images(&self) -> Vec<Image> {
        self.0.clone()
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
        ContainerList { containers: Vec::new(), is_complete: true }
    }
    fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        None
    }
}

fn image() -> Image {
    Image {
        id: ID.to_owned(),
        reference: "r.io/app:v1".to_owned(),
        names: vec![ID.to_owned()],
        ..Image::default()
    }
}

fn access(root: &Path) -> ImageAccess {
    let verification = ImageVerification::new(Policy::NeverVerifyPreloadedImages, &[]).unwrap();
    ImageAccess::open(root, verification).unwrap()
}

fn of_secret(name: &str, password: &str) -> PullCredential {
    let (uid, namespace) = (format!("uid-{name}"), "ns".to_owned());
    PullCredential {
        credential: Credential { username: "alice".to_owned(), password: password.to_owned() },
        secret: Some(SecretCoordinates { uid, namespace, name: name.to_owned() }),
    }
}

async fn permits(access: &ImageAccess, credentials: &[PullCredential]) -> bool {
    access.permits("r.io/app:v1", &image(), credentials).await
}

/// Every file below, as text.
fn all_text(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        text += &if path.is_dir() { all_text(&path) } else { std::fs::read_to_string(&path).unwrap() };
    }
    text
}

#[tokio::test]
async fn what_a_secret_has_pulled_is_its_own() {
    let root = tempfile::tempdir().unwrap();
    let nobody = &[];
    let (right, other) = (of_secret("a", "wonderland"), of_secret("b", "looking-glass"));
    let of_access = access(root.path());
    assert!(permits(&of_access, nobody).await, "nobody has pulled it: it was put here");
    of_access.begin("r.io/app:v1").await.unwrap().succeeded(ID, Some(&right)).await;
    for access in [of_access, access(root.path())] {
        assert!(!permits(&access, nobody).await);
        assert!(!permits(&access, std::slice::from_ref(&other)).await);
        assert!(permits(&access, &[other.clone(), right.clone()]).await);
        assert!(
            permits(&access, &[of_secret("c", "wonderland")]).await,
            "another Secret of the same content"
        );
    }
    assert!(!all_text(root.path()).contains("wonderland"));

    // What everybody may pull is everybody's.
    let access = access(root.path());
    access.begin("r.io/app:v1").await.unwrap().succeeded(ID, None).await;
    assert!(permits(&access, nobody).await);
}

#[tokio::test]
async fn the_nodes_own_credentials_are_all_pods() {
    let root = tempfile::tempdir().unwrap();
    let access = access(root.path());
    let own = PullCredential { secret: None, ..of_secret("a", "wonderland") };
    access.begin("r.io/app:v1").await.unwrap().succeeded(ID, Some(&own)).await;
    assert!(permits(&access, &[]).await);
}

#[tokio::test]
async fn while_an_image_is_pulled_it_is_not_taken_for_one_that_was_here() {
    let root = tempfile::tempdir().unwrap();
    let access = access(root.path());
    let first = access.begin("r.io/app:v1").await.unwrap();
    let second = access.begin("r.io/app:v1").await.unwrap();
    assert!(!permits(&access, &[]).await);
    assert!(!access.permits(ID, &image(), &[]).await, "under another name neither");
    drop(first);
    access.blocking(|_| Ok(())).await.unwrap();
    assert!(!permits(&access, &[]).await, "the second goes on");
    drop(second);
    while access.inner.pulling().contains_key("r.io/app") {
        tokio::task::yield_now().await;
    }
    assert!(permits(&access, &[]).await, "both have failed");
    assert_eq!(access.inner.files.intents().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pull_that_was_not_recorded_is_with_nobody_knows_what() {
    let root = tempfile::tempdir().unwrap();
    // The agent is killed between the pull and its record.
    std::mem::forget(access(root.path()).begin("r.io/app:v1").await.unwrap());
    std::mem::forget(access(root.path()).begin("r.io/gone:v1").await.unwrap());
    let here = Here(vec![image()]);
    let next = access(root.path());
    assert!(!permits(&next, &[]).await, "before it is settled");
    next.settle(&here).await;
    for access in [next, access(root.path())] {
        assert!(!permits(&access, &[]).await, "and afterwards");
        assert_eq!(access.inner.files.intents().unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn records_go_with_their_images() {
    let root = tempfile::tempdir().unwrap();
    let access = access(root.path());
    let secret = of_secret("a", "wonderland");
    access.begin("r.io/app:v1").await.unwrap().succeeded(ID, Some(&secret)).await;
    access.begin("r.io/old:v1").await.unwrap().succeeded("r.io/old@sha256:1", Some(&secret)).await;
    access.settle(&Here(vec![image()])).await;
    assert_eq!(access.inner.files.recorded().unwrap(), [ID]);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_permits_nobody_until_it_is_written_anew() {
    let root = tempfile::tempdir().unwrap();
    let access = access(root.path());
    let secret = of_secret("a", "wonderland");
    access.begin("r.io/app:v1").await.unwrap().succeeded(ID, Some(&secret)).await;
    let folder = root.path().join("image_manager/pulled");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, "{\"kind\":").unwrap();
    assert!(!permits(&access, std::slice::from_ref(&secret)).await);
    access.begin("r.io/app:v1").await.unwrap().succeeded(ID, Some(&secret)).await;
    assert!(permits(&access, &[secret]).await);
}
