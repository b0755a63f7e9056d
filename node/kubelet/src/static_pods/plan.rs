//! What is to be done about mirrors, after upstream's `tryReconcileMirrorPods` and its clean-up of orphans.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::pods::board::{Board, shows};

/// A create or delete request that reconciles the mirrors in the API with the static pods that run.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum MirrorAction {
    /// Creates the mirror of this static pod.
    Create(Arc<Pod>),
    /// Deletes this mirror.
    Delete(Arc<Pod>),
}

/// The requests that are due. Nothing is, before all mirrors are known; and none is taken for one of a pod that is gone
/// before all static pods are known: a URL that describes some may be out of reach for long.
///
/// A mirror that is to be replaced is first deleted; that it is gone is seen before the new one is created.
/// The mirror of a pod that is being stopped stays until the pod has ended, because it is still there.
pub(super) fn plan(board: &Board) -> Vec<MirrorAction> {
    if !board.mirrors_known {
        return Vec::new();
    }
    let surplus = board.mirrors.iter().filter(|(name, mirror)| match board.pods.get(*name) {
        None => board.complete,
        Some(here) if here.ending => false,
        Some(here) => mirror.metadata.deletion_timestamp.is_some() || !shows(mirror, &here.pod),
    });
    let missing = board.pods.iter().filter(|(name, here)| !here.ending && !board.mirrors.contains_key(*name));
    surplus
        .map(|(_, mirror)| MirrorAction::Delete(Arc::clone(mirror)))
        .chain(missing.map(|(_, here)| MirrorAction::Create(Arc::clone(&here.pod))))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A static pod in some version.
    fn pod(version: &str) -> Arc<Pod> {
        let metadata = json!({
            "name": "p", "namespace": "default", "uid": version,
            "annotations": {"kubernetes.io/config.hash": version, "kubernetes.io/config.source": "file"},
        });
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    }

    /// The mirror of some version.
    fn mirror(version: &str, deleted: bool) -> Arc<Pod> {
        let mut mirror = Pod::clone(&pod(version));
        mirror.metadata.uid = Some(format!("mirror-of-{version}"));
        let annotations = mirror.metadata.annotations.as_mut().unwrap();
        annotations.insert("kubernetes.io/config.mirror".to_owned(), version.to_owned());
        if deleted {
            mirror.metadata.deletion_timestamp =
                Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        }
        Arc::new(mirror)
    }

    fn board(pod: Option<Arc<Pod>>, ending: bool, mirror: Option<Arc<Pod>>) -> Board {
        let mut board = Board::default();
        board.set_complete();
        if let Some(pod) = pod {
            board.put_pod(Arc::clone(&pod));
            if ending {
                board.end_pod(&pod);
            }
        }
        mirror.into_iter().for_each(|mirror| board.put_mirror(mirror));
        board
    }

    #[test]
    fn what_is_due() {
        let create = Some(MirrorAction::Create(pod("v1")));
        let delete = |mirror: &Arc<Pod>| Some(MirrorAction::Delete(Arc::clone(mirror)));
        let (shown, old, going) = (mirror("v1", false), mirror("v0", false), mirror("v1", true));
        let table = [
            ("nothing at all", board(None, false, None), None),
            ("no mirror yet", board(Some(pod("v1")), false, None), create),
            ("all is well", board(Some(pod("v1")), false, Some(Arc::clone(&shown))), None),
            ("another version", board(Some(pod("v1")), false, Some(Arc::clone(&old))), delete(&old)),
            ("somebody deletes it", board(Some(pod("v1")), false, Some(Arc::clone(&going))), delete(&going)),
            ("the pod is being stopped", board(Some(pod("v1")), true, Some(Arc::clone(&shown))), None),
            ("stopped, without a mirror", board(Some(pod("v1")), true, None), None),
            ("the pod is gone", board(None, false, Some(Arc::clone(&shown))), delete(&shown)),
        ];
        for (what, board, expected) in table {
            assert_eq!(plan(&board), expected.into_iter().collect::<Vec<_>>(), "{what}");
        }
    }

    #[test]
    fn nothing_is_due_before_what_it_depends_on_is_known() {
        for (pod, mirror) in [(Some(pod("v1")), None), (None, Some(mirror("v1", false)))] {
            let mut board = board(pod, false, mirror);
            (board.mirrors_known, board.complete) = (false, false);
            assert_eq!(plan(&board), []);
            board.set_mirrors_known();
            let expected: Vec<_> =
                board.pods.values().map(|p| MirrorAction::Create(Arc::clone(&p.pod))).collect();
            assert_eq!(plan(&board), expected, "what runs is shown, and nothing is taken for gone");
        }
    }

    #[test]
    fn a_pod_that_has_its_successor_on_the_board_is_not_taken_off() {
        let mut board = board(Some(pod("v2")), false, None);
        board.end_pod(&pod("v1"));
        board.remove_pod(&pod("v1"));
        assert_eq!(plan(&board), [MirrorAction::Create(pod("v2"))]);
        board.remove_pod(&pod("v2"));
        assert_eq!(plan(&board), []);
    }
}
