//! What is to be done about the log files of one container: which are removed, and which compressed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::logs::{FileKind, LogFileName};

/// Attempts of one container whose logs stay: the newest, and the one before it for `kubectl logs --previous`. It is
/// what the kubelet's garbage collection of containers leaves of them.
const ATTEMPTS: usize = 2;

/// What is done to the files of one container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LogPlan {
    /// Names of files that go.
    pub(super) remove: BTreeSet<String>,
    /// Names of files that are compressed, oldest first.
    pub(super) compress: Vec<String>,
    /// Attempts whose logs go altogether.
    pub(super) forget: BTreeSet<u32>,
    /// Attempts that have a file which is, or was last, written to.
    pub(super) current: BTreeSet<u32>,
}

/// Decides about the files of one container by their names. Of every attempt that stays, `max_files` files are kept,
/// the one that is written to among them; of the rotated ones all but the newest are compressed, since collectors
/// may still read that.
pub(super) fn plan<'a>(names: impl Iterator<Item = &'a str>, max_files: u32) -> LogPlan {
    let mut by_attempt: BTreeMap<u32, Vec<(LogFileName<'a>, &'a str)>> = BTreeMap::new();
    for name in names {
        if let Some(parsed) = LogFileName::parse(name) {
            by_attempt.entry(parsed.attempt).or_default().push((parsed, name));
        }
    }
    let mut plan = LogPlan::default();
    let surplus = by_attempt.len().saturating_sub(ATTEMPTS);
    for (place, (attempt, mut files)) in by_attempt.into_iter().enumerate() {
        if place < surplus {
            plan.forget.insert(attempt);
            plan.remove.extend(files.iter().map(|(_, name)| (*name).to_owned()));
            continue;
        }
        plan.current.extend(files.iter().any(|(f, _)| f.stamp.is_empty()).then_some(attempt));
        files.sort_unstable();
        let compressed: BTreeSet<&str> =
            files.iter().filter(|(f, _)| f.kind == FileKind::Compressed).map(|(f, _)| f.stamp).collect();
        let (kept, useless): (Vec<_>, Vec<_>) =
            files.into_iter().filter(|(f, _)| !f.stamp.is_empty()).partition(|(f, _)| match f.kind {
                FileKind::Compressed => true,
                FileKind::Plain => !compressed.contains(f.stamp),
                FileKind::Unfinished => false,
            });
        plan.remove.extend(useless.into_iter().map(|(_, name)| name.to_owned()));
        let most = usize::try_from(max_files.saturating_sub(1).max(1)).unwrap_or(usize::MAX);
        let too_many = kept.len().saturating_sub(most);
        let newest = kept.len().saturating_sub(1);
        for (place, (file, name)) in kept.into_iter().enumerate() {
            if place < too_many {
                plan.remove.insert(name.to_owned());
            } else if place < newest && file.kind == FileKind::Plain {
                plan.compress.push(name.to_owned());
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn planned(names: &[&str], max_files: u32) -> (Vec<String>, Vec<String>, Vec<u32>) {
        let LogPlan { remove, compress, forget, .. } = plan(names.iter().copied(), max_files);
        (remove.into_iter().collect(), compress, forget.into_iter().collect())
    }

    #[test]
    fn all_rotated_files_but_the_newest_are_compressed() {
        let names =
            ["0.log", "0.log.20260102-000002", "0.log.20260102-000001.gz", "0.log.20260102-000003", "x"];
        assert_eq!(planned(&names, 5), (vec![], vec!["0.log.20260102-000002".into()], vec![]));
    }

    #[test]
    fn the_oldest_go_beyond_the_count() {
        let names = [
            "0.log",
            "0.log.20260102-000001.gz",
            "0.log.20260102-000002",
            "0.log.20260102-000003",
            "0.log.20260102-000004",
        ];
        let removed = vec!["0.log.20260102-000001.gz".to_owned(), "0.log.20260102-000002".to_owned()];
        assert_eq!(planned(&names, 3), (removed, vec!["0.log.20260102-000003".into()], vec![]));
    }

    /// A crash between any two steps of a compression leaves what the next round puts right.
    #[test]
    fn compressions_that_were_interrupted_are_put_right() {
        let (old, new) = ("0.log.20260102-000001", "0.log.20260102-000002");
        let (done, half) = (format!("{old}.gz"), format!("{old}.tmp"));
        let again = (vec![half.clone()], vec![old.to_owned()], vec![]);
        assert_eq!(planned(&["0.log", old, &half, new], 5), again, "before it was renamed");
        let rest = (vec![old.to_owned()], vec![], vec![]);
        assert_eq!(planned(&["0.log", old, &done, new], 5), rest, "before the plain one was removed");
    }

    #[test]
    fn the_two_newest_attempts_stay() {
        let names = ["7.log", "8.log", "9.log", "10.log", "8.log.20260102-000001.gz"];
        let removed: Vec<String> = ["7.log", "8.log", "8.log.20260102-000001.gz"].map(str::to_owned).into();
        assert_eq!(planned(&names, 5), (removed, vec![], vec![7, 8]));
    }

    proptest! {
        /// What is planned is done once: a second round over what is left finds nothing to do, and the file that is
        /// written to is never touched.
        #[test]
        fn a_plan_that_was_carried_out_leaves_nothing_to_do(
            files in prop::collection::btree_set((0..4_u32, 0..9_u32, 0..4_u8), 0..40),
            max_files in 2..6_u32,
        ) {
            let mut names: BTreeSet<String> = files
                .into_iter()
                .map(|(attempt, second, kind)| match kind {
                    0 => format!("{attempt}.log"),
                    1 => format!("{attempt}.log.20260102-00000{second}"),
                    2 => format!("{attempt}.log.20260102-00000{second}.gz"),
                    _ => format!("{attempt}.log.20260102-00000{second}.tmp"),
                })
                .collect();
            let newest = names.iter().filter_map(|n| LogFileName::parse(n)).map(|f| f.attempt).max();
            let current = newest.map(|attempt| format!("{attempt}.log")).filter(|name| names.contains(name));
            let first = plan(names.iter().map(String::as_str), max_files);
            prop_assert!(first.remove.iter().all(|name| names.remove(name)));
            for name in &first.compress {
                prop_assert!(names.remove(name));
                names.insert(format!("{name}.gz"));
            }
            prop_assert!(current.is_none_or(|name| names.contains(&name)));
            let second = plan(names.iter().map(String::as_str), max_files);
            prop_assert_eq!((second.remove, second.compress), Default::default());
        }
    }
}
