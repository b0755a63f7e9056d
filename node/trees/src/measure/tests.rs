use std::{
    collections::HashSet,
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
};

use proptest::prelude::*;
use rustix::fs::{mkdirat, renameat};

use super::*;
use crate::testing::{DIRECTORY, bind, chain, folder, with_little, with_mounts};

/// The same by paths, which is enough for a small tree that nobody changes.
fn by_paths(top: &Path) -> TreeUsage {
    let (mut usage, mut seen, mut paths) = (TreeUsage::default(), HashSet::new(), vec![top.to_owned()]);
    while let Some(path) = paths.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        if seen.insert(metadata.ino()) {
            usage.bytes += metadata.blocks() * 512;
            usage.inodes += 1;
        }
    }
    usage
}

#[test]
fn a_tree_of_any_depth_is_measured_with_few_descriptors_and_little_stack() {
    with_little(
        "measure::tests::a_tree_of_any_depth_is_measured_with_few_descriptors_and_little_stack",
        || {
            let dir = folder();
            fs::create_dir(dir.path().join("d")).unwrap();
            let one = measure(&dir.path().join("d")).unwrap().bytes;
            let innermost = chain(&dir.path().join("d"), 20_000);
            // Beside each other, so that the way back has to be found in the middle of a directory.
            for n in 0..500 {
                mkdirat(&innermost, format!("{n}"), Mode::RWXU).unwrap();
                mkdirat(&innermost, format!("{n}/x"), Mode::RWXU).unwrap();
            }
            drop(innermost);
            let usage = measure(dir.path()).unwrap();
            assert_eq!(usage.inodes, 2 + 2 * 20_000 + 2 * 500);
            assert!(usage.bytes >= one * usage.inodes, "{usage:?}");
            crate::remove(&dir.path().join("d")).unwrap();
            assert_eq!(measure(dir.path()).unwrap().inodes, 1);
        },
    );
}

#[test]
fn a_file_counts_once_and_a_hole_not_at_all() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    let empty = measure(dir.path()).unwrap();
    assert_eq!(empty.inodes, 1);
    fs::create_dir(at("d")).unwrap();
    fs::write(at("file"), vec![1; 1 << 20]).unwrap();
    for n in 0..6 {
        fs::hard_link(at("file"), at("d").join(format!("{n}"))).unwrap();
    }
    fs::File::create(at("sparse")).unwrap().set_len(1 << 40).unwrap();
    symlink("/", at("link")).unwrap();
    let usage = measure(dir.path()).unwrap();
    assert_eq!(usage, by_paths(dir.path()));
    assert_eq!(usage.inodes, 5);
    assert!((1 << 20..2 << 20).contains(&usage.bytes), "{usage:?}");
    assert_eq!(measure(&at("sparse")).unwrap(), TreeUsage { bytes: 0, inodes: 1 });
    assert_eq!(measure(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn what_is_mounted_counts_nothing() {
    with_mounts(|| {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("other/inner")).unwrap();
        fs::write(at("other/file"), vec![1; 1 << 20]).unwrap();
        fs::create_dir(at("tree")).unwrap();
        bind(&at("other"), &at("tree/mount"));
        bind(&at("other/file"), &at("tree/file"));
        let usage = measure(&at("tree")).unwrap();
        assert_eq!(usage.inodes, 1);
        // The top may be a mount itself.
        assert_eq!(measure(&at("tree/mount")).unwrap().inodes, 3);
    });
}

/// The way back leads elsewhere: nothing outside is counted, and the walk ends.
#[test]
fn a_directory_that_is_moved_away_leads_nowhere() {
    let dir = folder();
    let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
    fs::create_dir(&top).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), vec![1; 64 << 20]).unwrap();
    drop(chain(&top, 40));
    let found = look(CWD, &top).unwrap();
    let first = Dir::new(openat(CWD, &top, DIRECTORY, Mode::empty()).unwrap()).unwrap();
    let mut walk = MeasuringWalk { top: found, held: vec![first], deep: None, ways_back: Vec::new() };
    for _ in 0..40 {
        walk.enter(c"d", 0).unwrap();
    }
    assert_eq!((walk.held.len(), walk.ways_back.len()), (LEVELS, 40 - LEVELS));
    let path = |depth: usize| top.join(vec!["d"; depth].join("/"));
    renameat(CWD, path(30), CWD, outside.join("moved")).unwrap();
    while walk.deep.is_some() {
        walk.leave();
    }
    assert_eq!((walk.held.len(), walk.ways_back.len()), (LEVELS, 0));
    let mut tally = TreeTally::default();
    walk.run(&mut tally);
    // Some of it more than once: the walk began in its middle.
    assert!(tally.usage().bytes < 64 << 20, "{:?}", tally.usage());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tree_is_as_large_as_its_parts(paths in prop::collection::vec(("[ab](/[abc]){0,40}", 0..4, 0..9000_usize), 0..20)) {
        let dir = folder();
        let mut files = Vec::new();
        for (path, kind, bytes) in paths {
            let path = dir.path().join(path);
            let _ = fs::create_dir_all(path.parent().unwrap());
            let _ = match (kind, files.first()) {
                (0, _) => fs::write(&path, vec![1; bytes]).map(|()| files.push(path)),
                (1, Some(first)) => fs::hard_link(first, &path),
                (2, _) => symlink("c", &path),
                _ => fs::create_dir_all(&path),
            };
        }
        prop_assert_eq!(measure(dir.path()).unwrap(), by_paths(dir.path()));
    }
}
