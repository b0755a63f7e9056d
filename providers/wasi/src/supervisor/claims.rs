//! Which group an instance was started in, kept on disk by the agent and out of its workers' reach.
//!
//! ```text
//! <workers>/.claims/<group>/<id>     UID of the pod, and the label of the specification: a line each
//! ```
//!
//! A claim is there before a worker hears of the instance, and until nothing of it can run any more. So an agent that
//! comes back knows all that may run without asking anybody, also of a worker that does not answer, and believes no
//! worker that speaks of anything else. A group's folder is there before its first worker; one that is missing beside a
//! living worker was left by a version that kept none.
//!
//! Claims are not synced to the device: what they tell of does not outlive the machine.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::Mutex;

use super::view::{Taken, View};

/// Name of their folder, which no group can have.
const FOLDER: &str = ".claims";
/// Longest id, in bytes: it is the name of a file.
const ID_LIMIT: usize = 128;

/// What is kept of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The group that it was started in.
    pub group: String,
    /// UID of the pod it belongs to.
    pub pod_uid: String,
    /// That of its specification.
    pub label: String,
}

/// Why an id was not claimed. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// No name for a file.
    #[error("{0:?} is no id of a container: those are plain names of at most {ID_LIMIT} bytes")]
    Id(String),
    /// It may run already.
    #[error("container {id} was started in group {group} before")]
    Elsewhere {
        /// The id.
        id: String,
        /// Where it may run.
        group: String,
    },
    /// It may run already.
    #[error("it cannot be told yet whether container {0} runs: its worker does not answer")]
    Untold(String),
    /// The claim cannot be written.
    #[error("cannot note down the claim on a container in {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The claims on disk, in step with those of the view.
#[derive(Debug)]
pub(super) struct Claims {
    dir: PathBuf,
    view: Arc<View>,
    /// Held while a file and its entry in the view are changed, so that no other change comes in between.
    order: Mutex<()>,
}

impl Claims {
    /// The claims below the directory of workers.
    pub(super) fn new(workers: &Path, view: Arc<View>) -> Self {
        Self { dir: workers.join(FOLDER), view, order: Mutex::default() }
    }

    /// Claims an id: on disk, then in the view.
    pub(super) async fn take(&self, id: &str, claim: Claim) -> Result<(), ClaimError> {
        let is_plain = !id.is_empty() && id.len() <= ID_LIMIT && !id.starts_with('.');
        if !is_plain || id.contains(['/', '\0']) {
            return Err(ClaimError::Id(id.to_owned()));
        }
        let _order = self.order.lock().await;
        let is_new = self.view.claim_on(id).is_none();
        if is_new {
            self.write(vec![(id.to_owned(), claim.clone())]).await?;
        }
        self.view.claim(id, claim).map_err(|taken| match taken {
            Taken::Elsewhere(group) => ClaimError::Elsewhere { id: id.to_owned(), group },
            Taken::Untold => ClaimError::Untold(id.to_owned()),
        })
    }

    /// Removes claims of a group on ids that the view has forgotten. One that does not go is looked at again by the
    /// next agent.
    pub(super) async fn release(&self, group: &str, ids: Vec<String>) {
        if ids.is_empty() {
            return;
        }
        let _order = self.order.lock().await;
        let folder = self.dir.join(group);
        let is_forgotten = |id: &String| self.view.claim_on(id).is_none_or(|claim| claim.group != group);
        let files: Vec<_> = ids.into_iter().filter(is_forgotten).map(|id| folder.join(id)).collect();
        let remove = move || {
            for file in files {
                match fs::remove_file(&file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(claim = %file.display(), %error, "the claim on a container that is gone stays");
                    }
                    _ => {}
                }
            }
        };
        // A panic in there has been told of.
        let _ = tokio::task::spawn_blocking(remove).await;
    }

    /// Writes the claims of a group for which none were kept, as its worker has told of them.
    pub(super) async fn catch_up(&self, group: &str) {
        let _order = self.order.lock().await;
        let claims = self.view.claims_of(group);
        let folder = self.dir.join(group);
        let made = tokio::task::spawn_blocking(move || make_folder(&folder)).await;
        let made = made.unwrap_or_else(|error| Err(io::Error::other(error)));
        let written = self.write(claims).await;
        if let Some(error) =
            made.err().map(|error| error.to_string()).or(written.err().map(|error| error.to_string()))
        {
            tracing::warn!(group, error, "the claims on what a worker hosts are not on disk");
        }
    }

    /// Removes the folder of a group that nothing is claimed for.
    pub(super) async fn end(&self, group: &str) {
        let _order = self.order.lock().await;
        let folder = self.dir.join(group);
        // It stays where something has been claimed in the meantime.
        let _ = tokio::task::spawn_blocking(move || fs::remove_dir(folder)).await;
    }

    async fn write(&self, claims: Vec<(String, Claim)>) -> Result<(), ClaimError> {
        let dir = self.dir.clone();
        let path = dir.display().to_string();
        let write = move || {
            claims.iter().try_for_each(|(id, claim)| {
                let path = dir.join(&claim.group).join(id);
                write_claim(&path, claim)
                    .map_err(|source| ClaimError::Write { path: path.display().to_string(), source })
            })
        };
        let written = tokio::task::spawn_blocking(write).await;
        written.unwrap_or_else(|error| Err(ClaimError::Write { path, source: io::Error::other(error) }))
    }
}

fn write_claim(path: &Path, claim: &Claim) -> io::Result<()> {
    let text = format!("{}\n{}\n", claim.pod_uid, claim.label);
    let write = || {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
        io::Write::write_all(&mut file?, text.as_bytes())
    };
    match (write(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(folder)?;
            write()
        }
        (written, _) => written,
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Reads the claims of a group. `None` when none were kept. A claim that was torn off in the writing was never acted
/// on.
pub(super) fn read(workers: &Path, group: &str) -> io::Result<Option<Vec<(String, Claim)>>> {
    let entries = match fs::read_dir(workers.join(FOLDER).join(group)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut claims = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(id) = entry.file_name().into_string() else { continue };
        let text = fs::read_to_string(entry.path())?;
        if let Some((pod_uid, rest)) = text.split_once('\n')
            && let Some((label, _)) = rest.split_once('\n')
        {
            let (pod_uid, label) = (pod_uid.to_owned(), label.to_owned());
            claims.push((id, Claim { group: group.to_owned(), pod_uid, label }));
        }
    }
    Ok(Some(claims))
}

/// Removes the claims of all groups but these, whose workers live.
pub(super) fn retain(workers: &Path, alive: &[String]) -> io::Result<()> {
    let entries = match fs::read_dir(workers.join(FOLDER)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if !alive.iter().any(|group| entry.file_name() == group.as_str()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(group: &str) -> Claim {
        Claim { group: group.into(), pod_uid: "uid".into(), label: "sha256:1".into() }
    }

    #[tokio::test]
    async fn claims_are_found_again_until_they_are_released() {
        let dir = tempfile::tempdir().unwrap();
        let view = Arc::<View>::default();
        let claims = Claims::new(dir.path(), Arc::clone(&view));
        assert_eq!(read(dir.path(), "g").unwrap(), None);
        for id in ["a", "b"] {
            claims.take(id, claim("g")).await.unwrap();
        }
        claims.take("c", claim("dead")).await.unwrap();
        let mut found = read(dir.path(), "g").unwrap().unwrap();
        found.sort_by(|x, y| x.0.cmp(&y.0));
        assert_eq!(found, [("a".to_owned(), claim("g")), ("b".to_owned(), claim("g"))]);
        let error = claims.take("a", claim("h")).await.unwrap_err().to_string();
        assert!(error.contains("started in group g before"), "{error}");
        // What has been claimed again in the meantime stays.
        view.forget("b");
        claims.release("g", vec!["a".into(), "b".into()]).await;
        assert_eq!(read(dir.path(), "g").unwrap().unwrap(), [("a".to_owned(), claim("g"))]);
        claims.end("g").await;
        assert!(read(dir.path(), "g").unwrap().is_some(), "something is claimed");
        retain(dir.path(), &["g".to_owned()]).unwrap();
        assert_eq!(read(dir.path(), "dead").unwrap(), None);
        view.forget("a");
        claims.release("g", vec!["a".into()]).await;
        claims.end("g").await;
        assert_eq!(read(dir.path(), "g").unwrap(), None);
        retain(&dir.path().join("nowhere"), &[]).unwrap();
    }

    #[tokio::test]
    async fn ids_are_plain_names() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::new(dir.path(), Arc::default());
        for id in ["", ".", "../g", "a/b", &"x".repeat(ID_LIMIT + 1)] {
            assert!(matches!(claims.take(id, claim("g")).await, Err(ClaimError::Id(_))), "{id}");
        }
        assert!(!dir.path().join(FOLDER).exists());
    }

    /// What cannot be noted down is not started.
    #[tokio::test]
    async fn a_claim_that_cannot_be_written_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FOLDER), "in the way").unwrap();
        let view = Arc::<View>::default();
        let claims = Claims::new(dir.path(), Arc::clone(&view));
        assert!(matches!(claims.take("a", claim("g")).await, Err(ClaimError::Write { .. })));
        assert_eq!(view.claim_on("a"), None);
        fs::remove_file(dir.path().join(FOLDER)).unwrap();
        claims.take("a", claim("g")).await.unwrap();
        fs::write(dir.path().join(FOLDER).join("g/torn"), "uid").unwrap();
        assert_eq!(read(dir.path(), "g").unwrap().unwrap().len(), 1);
    }
}
