//! What is known of the files of static pods, and the pods that come of them. No I/O happens here.
//!
//! A file counts when two looks have shown it unchanged, so that one that is just being written is left
//! alone; it is gone when two looks have missed it, so that an editor may replace it. A file that cannot be
//! understood leaves the pod that it described before.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{
    SEEN_ANNOTATION,
    folder::Stamp,
    manifest,
    normalize::{Origin, normalize},
};
use crate::pods::board::FullName;

/// The files that were seen.
#[derive(Debug)]
pub(super) struct ManifestFiles {
    node: String,
    files: BTreeMap<PathBuf, ManifestFile>,
    looked: bool,
}

#[derive(Debug, Default)]
struct ManifestFile {
    /// As the last look showed it; `None` when the last look missed it.
    seen: Option<Stamp>,
    /// As it was when it was last read.
    read: Option<Stamp>,
    pod: Option<Arc<Pod>>,
    /// What is wrong with it, as it was said.
    complaint: Option<String>,
}

/// What is to be done after a look at the files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Files to be read.
    pub(super) read: Vec<PathBuf>,
    /// Something is changing: look again soon.
    pub(super) unsettled: bool,
}

impl ManifestFiles {
    /// None yet, on the node of that name.
    pub(super) fn new(node: &str) -> Self {
        Self { node: node.to_owned(), files: BTreeMap::new(), looked: false }
    }

    /// Takes in what a look has shown. With `all`, every settled file is to be read, changed or not. The
    /// first look has nothing to be compared with, and everything in it counts as settled.
    pub(super) fn look(&mut self, shown: &BTreeMap<PathBuf, Stamp>, all: bool) -> Wanted {
        let mut wanted = Wanted { read: Vec::new(), unsettled: false };
        for (path, stamp) in shown {
            let file = self.files.entry(path.clone()).or_default();
            if self.looked && file.seen != Some(*stamp) {
                wanted.unsettled = true;
            } else if all || file.read != Some(*stamp) {
                wanted.read.push(path.clone());
            }
            file.seen = Some(*stamp);
        }
        self.files.retain(|path, file| {
            if shown.contains_key(path) {
                return true;
            }
            wanted.unsettled |= file.seen.is_some();
            file.seen.take().is_some()
        });
        self.looked = true;
        wanted
    }

    /// Takes in the text of a file, or why it could not be read. Returns what is wrong with it, when that is
    /// news.
    pub(super) fn take(
        &mut self,
        path: &Path,
        text: Result<String, String>,
        now: Timestamp,
    ) -> Option<String> {
        let file = self.files.get_mut(path)?;
        let read = text
            .and_then(|text| manifest::parse(&text))
            .and_then(|pod| normalize(pod, &self.node, Origin::File(path), now));
        file.read = file.seen;
        match read {
            Ok(mut pod) => {
                if let Some(before) = &file.pod
                    && before.metadata.uid == pod.metadata.uid
                {
                    keep_first_sight(before, &mut pod);
                }
                if file.pod.as_deref() != Some(&pod) {
                    file.pod = Some(Arc::new(pod));
                }
                file.complaint = None;
                None
            }
            Err(message) if file.complaint.as_ref() == Some(&message) => None,
            Err(message) => {
                file.complaint = Some(message.clone());
                let meaning = if file.pod.is_some() { "; the pod it described before goes on" } else { "" };
                Some(format!("{}: {message}{meaning}", path.display()))
            }
        }
    }

    /// The pods, each UID and each name once: of two files that claim the same, the first in the order of
    /// their names has it. Also the conflicts, in words.
    pub(super) fn pods(&self) -> (Vec<Arc<Pod>>, Vec<String>) {
        let (mut names, mut uids) = (HashSet::new(), HashSet::new());
        let (mut pods, mut conflicts) = (Vec::new(), Vec::new());
        for (path, pod) in self.files.iter().filter_map(|(path, file)| Some((path, file.pod.as_ref()?))) {
            let name = FullName::of(pod);
            if uids.contains(&pod.metadata.uid) || names.contains(&name) {
                conflicts.push(format!(
                    "{}: another file describes the pod {name}, or one of the same UID; this one is left out",
                    path.display()
                ));
                continue;
            }
            uids.insert(pod.metadata.uid.clone());
            names.insert(name);
            pods.push(Arc::clone(pod));
        }
        (pods, conflicts)
    }
}

/// A pod that is read again was not first seen just now.
pub(super) fn keep_first_sight(before: &Pod, pod: &mut Pod) {
    let seen = before.metadata.annotations.as_ref().and_then(|a| a.get(SEEN_ANNOTATION)).cloned();
    if let (Some(seen), Some(annotations)) = (seen, &mut pod.metadata.annotations) {
        annotations.insert(SEEN_ANNOTATION.to_owned(), seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stamp that stands for one content.
    fn stamp(content: u64) -> Stamp {
        Stamp { length: content, ..Stamp::default() }
    }

    fn shown(files: &[(&str, u64)]) -> BTreeMap<PathBuf, Stamp> {
        files.iter().map(|(path, content)| (PathBuf::from(path), stamp(*content))).collect()
    }

    fn wanted(read: &[&str], unsettled: bool) -> Wanted {
        Wanted { read: read.iter().map(PathBuf::from).collect(), unsettled }
    }

    fn text(name: &str, image: &str) -> Result<String, String> {
        Ok(format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: '{image}'}}]}}\n"
        ))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn names(files: &ManifestFiles) -> Vec<String> {
        files.pods().0.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
    }

    #[test]
    fn a_file_is_read_when_it_has_settled_and_gone_when_missed_twice() {
        let mut files = ManifestFiles::new("edge");
        let table = [
            // what a look shows, what is to be read, whether something is changing
            (vec![("a", 1)], wanted(&["a"], false)),
            (vec![("a", 1), ("b", 1)], wanted(&[], true)),
            (vec![("a", 2), ("b", 1)], wanted(&["b"], true)),
            (vec![("a", 3), ("b", 1)], wanted(&[], true)),
            (vec![("a", 3), ("b", 1)], wanted(&["a"], false)),
            (vec![("b", 1)], wanted(&[], true)),
            // It was being replaced.
            (vec![("a", 4), ("b", 1)], wanted(&[], true)),
            (vec![("a", 4), ("b", 1)], wanted(&["a"], false)),
            (vec![], wanted(&[], true)),
            (vec![], wanted(&[], false)),
        ];
        for (step, (look, expected)) in table.into_iter().enumerate() {
            let answer = files.look(&shown(&look), false);
            assert_eq!(answer, expected, "step {step}");
            for path in answer.read {
                let name = path.to_str().unwrap().to_owned();
                assert_eq!(files.take(&path, text(&name, "i"), at(0)), None);
            }
            let there = ["a-edge", "b-edge"];
            let expected = match step {
                0 | 1 => &there[..1],
                9 => &[],
                _ => &there[..],
            };
            assert_eq!(names(&files), expected, "step {step}");
        }
    }

    #[test]
    fn a_bad_file_is_told_of_once_and_hurts_no_other() {
        let mut files = ManifestFiles::new("edge");
        files.look(&shown(&[("a", 1), ("b", 1), ("c", 1)]), false);
        files.take(Path::new("a"), text("a", "i"), at(0));
        let said = files.take(Path::new("b"), Ok("kind: [".to_owned()), at(0)).unwrap();
        assert!(said.starts_with("b: line "), "{said}");
        assert_eq!(files.take(Path::new("b"), Ok("kind: [".to_owned()), at(0)), None);
        assert_eq!(files.take(Path::new("c"), text("c", "i"), at(0)), None);
        assert_eq!(names(&files), ["a-edge", "c-edge"]);
        assert_eq!(files.take(Path::new("b"), text("b", "i"), at(0)), None);
        assert!(files.take(Path::new("b"), Ok("kind: [".to_owned()), at(0)).is_some(), "it is bad again");
    }

    #[test]
    fn a_pod_goes_on_while_its_file_is_broken() {
        let mut files = ManifestFiles::new("edge");
        files.look(&shown(&[("a", 1)]), false);
        files.take(Path::new("a"), text("a", "i"), at(0));
        let before = files.pods().0;
        let said = files.take(Path::new("a"), Ok(String::new()), at(1)).unwrap();
        assert!(said.ends_with("; the pod it described before goes on"), "{said}");
        assert!(files.take(Path::new("a"), Err("cannot be read: why".to_owned()), at(1)).is_some());
        assert_eq!(files.pods().0, before);
    }

    #[test]
    fn reading_again_changes_nothing_and_a_new_content_is_a_new_pod() {
        let mut files = ManifestFiles::new("edge");
        files.look(&shown(&[("a", 1)]), false);
        files.take(Path::new("a"), text("a", "i"), at(0));
        let before = files.pods().0;
        assert_eq!(files.look(&shown(&[("a", 1)]), true), wanted(&["a"], false), "asked for all");
        files.take(Path::new("a"), text("a", "i"), at(100));
        assert_eq!(files.pods().0, before);
        files.take(Path::new("a"), text("a", "other"), at(100));
        let after = files.pods().0;
        assert_ne!(after[0].metadata.uid, before[0].metadata.uid);
    }

    #[test]
    fn the_first_of_two_files_with_one_name_has_it() {
        let mut files = ManifestFiles::new("edge");
        files.look(&shown(&[("a", 1), ("b", 1)]), false);
        files.take(Path::new("b"), text("same", "second"), at(0));
        files.take(Path::new("a"), text("same", "first"), at(0));
        let (pods, conflicts) = files.pods();
        assert_eq!(pods[0].spec.as_ref().unwrap().containers[0].image.as_deref(), Some("first"));
        assert_eq!(pods.len(), 1);
        assert!(
            conflicts[0].starts_with("b: another file describes the pod default/same-edge"),
            "{conflicts:?}"
        );
    }
}
