//! Static pods as a source of pods: looks at the files again and again, and tells what has changed.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};

use super::{files::ManifestFiles, folder, told::Told};
use crate::pods::manager::{PodSource, Update};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How soon they are looked at again while something is changing.
const SETTLE: Duration = Duration::from_millis(250);

/// The static pods of a node.
#[derive(Clone, Debug)]
pub struct FileSource {
    path: PathBuf,
    node: String,
    reread: Duration,
    look: Duration,
    settle: Duration,
}

impl FileSource {
    /// The files at `path`, a directory or a file, of the node of that name; nothing at all when the path is
    /// empty. A change is noticed within a second or two; every `reread` all files are read anew, for a file
    /// system that shows changes late.
    #[must_use]
    pub fn new(path: PathBuf, node: &str, reread: Duration) -> Self {
        Self { path, node: node.to_owned(), reread, look: LOOK, settle: SETTLE }
    }

    /// Tells `updates` of the pods, until nobody listens.
    pub async fn run(self, updates: mpsc::Sender<Update>) {
        if self.path.as_os_str().is_empty() {
            // The one update there is; a closed channel means that the agent is ending.
            let _ = updates.send(Update::Synced(PodSource::File, HashSet::new())).await;
            return;
        }
        let mut files = ManifestFiles::new(&self.node);
        let (mut told, mut trouble) = (Told::of(PodSource::File), None);
        let mut reread_at = Instant::now();
        loop {
            let all = Instant::now() >= reread_at;
            if all {
                reread_at = Instant::now() + self.reread;
            }
            let mut unsettled = false;
            match self.look(&mut files, all).await {
                Ok(changing) => {
                    (trouble, unsettled) = (None, changing);
                    let (pods, conflicts) = files.pods();
                    if told.tell(pods, conflicts, &updates).await.is_err() {
                        return;
                    }
                }
                Err(message) => {
                    if trouble.as_ref() != Some(&message) {
                        tracing::error!(
                            "staticPodPath {}: {message}; static pods stay as they are",
                            self.path.display()
                        );
                    }
                    trouble = Some(message);
                }
            }
            let pause = if unsettled { self.settle } else { self.look };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = updates.closed() => return,
            }
        }
    }

    /// Looks once, and reads what is to be read. True while something is changing.
    async fn look(&self, files: &mut ManifestFiles, all: bool) -> Result<bool, String> {
        let path = self.path.clone();
        let shown = blocking(move || folder::look(&path).map_err(|error| error.to_string())).await?;
        let wanted = files.look(&shown, all);
        for path in wanted.read {
            let file = path.clone();
            let text = blocking(move || folder::read(&file)).await;
            if let Some(message) = files.take(&path, text, Timestamp::now()) {
                tracing::error!("static pod: {message}");
            }
        }
        Ok(wanted.unsettled)
    }
}

/// Runs blocking file operations on a thread of the blocking pool.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn source(path: &Path) -> FileSource {
        FileSource::new(path.to_owned(), "edge", PATIENCE)
    }

    fn watch(path: &Path) -> mpsc::Receiver<Update> {
        let (updates, receiver) = mpsc::channel(10);
        let quick = Duration::from_millis(5);
        let source = FileSource { look: quick, settle: quick, ..source(path) };
        tokio::spawn(source.run(updates));
        receiver
    }

    fn write(path: &Path, name: &str, image: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: '{image}'}}]}}\n"
        );
        // As careful tools do it, so that no half of it is ever seen.
        let new = path.with_file_name(".new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// The next round: `name=image` of the pods that were set, and how many there are in all.
    async fn round(updates: &mut mpsc::Receiver<Update>) -> (Vec<String>, usize) {
        let mut set = Vec::new();
        loop {
            let update = tokio::time::timeout(PATIENCE, updates.recv()).await.expect("no update").unwrap();
            match update {
                Update::Set(pod) => {
                    let image = pod.spec.unwrap().containers[0].image.clone().unwrap();
                    set.push(format!("{}={image}", pod.metadata.name.unwrap()));
                }
                Update::Synced(PodSource::File, uids) => {
                    set.sort();
                    return (set, uids.len());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn files_come_change_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        write(&file("a.yaml"), "a", "one");
        let mut updates = watch(folder.path());
        assert_eq!(round(&mut updates).await, (vec!["a-edge=one".to_owned()], 1));
        write(&file("b.json"), "b", "one");
        assert_eq!(round(&mut updates).await, (vec!["b-edge=one".to_owned()], 2));
        write(&file("a.yaml"), "a", "two");
        assert_eq!(round(&mut updates).await, (vec!["a-edge=two".to_owned()], 2));
        // The broken file says nothing, and the next change is still seen.
        fs::write(file("a.yaml"), "kind: [").unwrap();
        fs::write(file(".hidden.yaml"), "kind: Pod").unwrap();
        fs::remove_file(file("b.json")).unwrap();
        assert_eq!(round(&mut updates).await, (vec![], 1));
    }

    #[tokio::test]
    async fn a_path_that_is_not_there_yet_is_no_pods() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod.yaml");
        let mut updates = watch(&path);
        assert_eq!(round(&mut updates).await, (vec![], 0));
        write(&path, "a", "one");
        assert_eq!(round(&mut updates).await, (vec!["a-edge=one".to_owned()], 1));
    }

    #[tokio::test]
    async fn without_a_path_all_is_told_at_once() {
        let mut updates = watch(Path::new(""));
        assert_eq!(round(&mut updates).await, (vec![], 0));
        assert!(updates.recv().await.is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_looked_at_is_not_taken_for_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod.yaml");
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let mut files = ManifestFiles::new("edge");
        source(&path).look(&mut files, true).await.unwrap_err();
        let mut updates = watch(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(round(&mut updates).await, (vec![], 0));
    }
}
