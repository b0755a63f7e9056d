use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use proptest::prelude::*;
use rustix::fs::{RenameFlags, mkdirat, renameat_with};

use super::*;
use crate::testing::{DIRECTORY, bind, chain, folder, with_little, with_mounts};

/// Everything below a directory.
fn names(path: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            all.extend(names(&entry.path()));
        }
        all.push(entry.path());
    }
    all.sort();
    all
}

fn entries(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

#[test]
fn a_tree_of_any_depth_goes_with_few_descriptors_and_little_stack() {
    with_little("removal::tests::a_tree_of_any_depth_goes_with_few_descriptors_and_little_stack", || {
        let dir = folder();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        let innermost = chain(&top, 20_000);
        // Names of ours that a guest has taken before.
        fs::create_dir_all(top.join(".removing-0/x")).unwrap();
        fs::write(top.join(".removing-1"), "").unwrap();
        for n in 0..100 {
            mkdirat(&innermost, format!("{n}"), Mode::RWXU).unwrap();
        }
        drop(innermost);
        remove(&top).unwrap();
        assert_eq!(entries(dir.path()), 0);
    });
}

#[test]
fn a_tree_of_any_width_goes_with_few_descriptors() {
    with_little("removal::tests::a_tree_of_any_width_goes_with_few_descriptors", || {
        let dir = folder();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        let wide = chain(&top, LEVELS - 2);
        for n in 0..200_000 {
            let name = format!("{n}");
            if n % 2 == 0 {
                rustix::fs::mknodat(&wide, name, FileType::RegularFile, Mode::RWXU, 0).unwrap();
            } else {
                mkdirat(&wide, &name, Mode::RWXU).unwrap();
                // Some that hold something, which there is no room for on the stack.
                if n % 100 == 1 {
                    mkdirat(&wide, format!("{name}/a"), Mode::RWXU).unwrap();
                    mkdirat(&wide, format!("{name}/a/b"), Mode::RWXU).unwrap();
                }
            }
        }
        drop(wide);
        remove(&top).unwrap();
        assert_eq!(entries(dir.path()), 0);
    });
}

#[test]
fn what_is_not_there_is_fine_and_a_link_goes_alone() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("kept/inner")).unwrap();
    fs::write(at("kept/file"), "").unwrap();
    remove(&at("none")).unwrap();
    remove(&at("none/below")).unwrap();
    symlink(at("kept"), at("link")).unwrap();
    remove(&at("link")).unwrap();
    fs::write(at("file"), "").unwrap();
    remove(&at("file")).unwrap();
    fs::create_dir_all(at("tree/a")).unwrap();
    for (target, name) in [("../kept", "dir"), ("../kept/file", "file"), ("..", "up"), ("none", "nowhere")] {
        symlink(target, at("tree").join(name)).unwrap();
        symlink(at("kept"), at("tree/a").join(name)).unwrap();
    }
    fs::hard_link(at("kept/file"), at("tree/a/hard")).unwrap();
    remove(&at("tree")).unwrap();
    assert_eq!(entries(dir.path()), 1);
    assert!(at("kept/inner").is_dir() && at("kept/file").is_file());
    for wrong in ["/", "..", "a/.."] {
        assert_eq!(remove(Path::new(wrong)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{wrong}");
    }
}

#[test]
fn nothing_that_is_mounted_is_touched() {
    with_mounts(|| {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("kept/inner")).unwrap();
        fs::write(at("kept/file"), "").unwrap();
        fs::create_dir_all(at("tree/a/b/c")).unwrap();
        fs::write(at("tree/a/gone"), "").unwrap();
        // Of the same device, which its number does not tell.
        bind(&at("kept"), &at("tree/a/b/mount"));
        bind(&at("kept/file"), &at("tree/a/file"));
        let deep = chain(&at("tree"), 100);
        let deep = fs::read_link(format!("/proc/self/fd/{}", deep.as_raw_fd())).unwrap();
        bind(&at("kept"), &deep.join("mount"));
        let error = remove(&at("tree")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        let text = error.to_string();
        assert!(text.contains("mount") && text.contains("tree/"), "{text}");
        assert!(at("kept/inner").is_dir() && at("kept/file").is_file());
        assert!(!at("tree/a/gone").exists() && !at("tree/a/b/c").exists(), "all else has gone");

        bind(&at("kept"), &at("top"));
        let error = remove(&at("top")).unwrap_err().to_string();
        assert!(error.contains("unmounted"), "{error}");
        assert!(at("kept/inner").is_dir() && at("kept/file").is_file());
    });
}

#[test]
fn modes_do_not_stand_in_the_way_of_an_owner() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("tree/closed/inner")).unwrap();
    fs::create_dir_all(at("tree/unwritable/full/x")).unwrap();
    fs::create_dir_all(at("other")).unwrap();
    fs::write(at("other/file"), "").unwrap();
    symlink(at("other"), at("tree/link")).unwrap();
    drop(chain(&at("tree"), 40));
    let mut deep = at("tree");
    let mut all = vec![dir.path().to_owned(), deep.clone()];
    for _ in 0..40 {
        deep.push("d");
        all.extend([deep.join("f"), deep.clone()]);
    }
    all.extend(["tree/closed", "tree/closed/inner", "tree/unwritable", "tree/unwritable/full"].map(at));
    all.push(at("tree/unwritable/full/x"));
    // To another user, who is not root.
    let user = rustix::process::geteuid().is_root().then_some(65_534);
    for path in &all {
        if user.is_some() {
            chown(path, user, user).unwrap();
        }
    }
    for (n, path) in all.iter().skip(1).rev().enumerate() {
        let mode = [0, 0o500, 0o400, 0o100][n % 4];
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let other = fs::metadata(at("other")).unwrap().permissions().mode();
    let (tree, as_user) = (at("tree"), user);
    let removed = std::thread::spawn(move || {
        if let Some(user) = as_user {
            // Of this thread alone.
            let user = rustix::process::Uid::from_raw(user);
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        }
        remove(&tree)
    });
    removed.join().unwrap().unwrap();
    assert!(!at("tree").exists());
    assert_eq!(fs::metadata(at("other")).unwrap().permissions().mode(), other);
    assert!(at("other/file").exists());
}

/// Directories are moved out of the tree, and swapped with links that lead out of it, for as long as it is being removed.
#[test]
fn a_race_removes_nothing_outside() {
    let dir = folder();
    let outside = dir.path().join("outside");
    fs::create_dir_all(outside.join("kept/inner")).unwrap();
    fs::write(outside.join("kept/inner/file"), "").unwrap();
    for round in 0..20 {
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        for n in 0..20 {
            drop(chain(&top, 60));
            symlink(outside.join("kept"), top.join("link")).unwrap();
            fs::rename(top.join("link"), top.join(format!("l{n}"))).unwrap();
            fs::rename(top.join("d"), top.join(format!("c{n}"))).unwrap();
        }
        let done = Arc::new(AtomicBool::new(false));
        let adversary = std::thread::spawn({
            let (top, outside, done) = (top.clone(), outside.clone(), Arc::clone(&done));
            move || {
                let out = openat(CWD, &outside, DIRECTORY, Mode::empty()).unwrap();
                let Ok(tree) = openat(CWD, &top, DIRECTORY, Mode::empty()) else { return };
                for n in (0..20).cycle().take_while(|_| !done.load(Ordering::SeqCst)) {
                    let (chain, link) = (format!("c{n}"), format!("l{n}"));
                    let _ = renameat_with(&tree, &chain, &tree, &link, RenameFlags::EXCHANGE);
                    for depth in [2, 14, 15, 30] {
                        let inner = format!("{chain}{}", "/d".repeat(depth));
                        let away = format!("moved-{round}-{n}-{depth}");
                        let _ = renameat_with(&tree, inner, &out, away, RenameFlags::NOREPLACE);
                    }
                }
            }
        });
        // It may be told that something is in the way, now and then.
        let _ = remove(&top);
        done.store(true, Ordering::SeqCst);
        adversary.join().unwrap();
        remove(&top).unwrap();
        assert!(outside.join("kept/inner/file").exists(), "round {round}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tree_goes_and_nothing_else(paths in prop::collection::vec(("[ab](/[abc]){0,40}", 0..4), 0..20)) {
        let dir = folder();
        let (top, kept) = (dir.path().join("top"), dir.path().join("kept"));
        fs::create_dir_all(kept.join("a/b")).unwrap();
        fs::create_dir(&top).unwrap();
        for (path, kind) in paths {
            let path = top.join(path);
            // Where a file is in the way already, there is no directory.
            let _ = fs::create_dir_all(path.parent().unwrap());
            let _ = match kind {
                0 => fs::write(&path, "x"),
                1 => symlink(&kept, &path),
                2 => symlink("..", &path),
                _ => fs::create_dir_all(&path),
            };
        }
        // Some were made through links, beside the tree.
        let before = names(dir.path());
        remove(&top).unwrap();
        let left: Vec<_> = before.into_iter().filter(|path| !path.starts_with(&top)).collect();
        prop_assert_eq!(names(dir.path()), left);
    }
}
