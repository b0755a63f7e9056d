use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

/// A volume with links of every kind, beside what is none of its business.
fn volume() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("v/inner/deep")).unwrap();
    fs::create_dir_all(root.join("outside/secret")).unwrap();
    fs::write(root.join("v/file"), "x").unwrap();
    let link = |target: &str, name: &str| symlink(target, root.join("v").join(name)).unwrap();
    link("inner", "near");
    link("inner/deep/../../file", "round");
    link("../outside", "far");
    link(root.join("outside").to_str().unwrap(), "absolute");
    link("/proc/self/root/etc", "magic");
    link("/", "root");
    link("loop", "loop");
    link("missing", "dangling");
    link("../outside/new", "dangling-far");
    (dir, root)
}

#[test]
fn links_are_followed_inside_and_nowhere_else() {
    let (_dir, root) = volume();
    let volume = Opened::trusted(&root.join("v")).unwrap();
    let table = [
        ("inner/deep", Some("v/inner/deep")),
        ("near/deep", Some("v/inner/deep")),
        ("round", Some("v/file")),
        ("", Some("v")),
        ("file", Some("v/file")),
        ("far", None),
        ("far/secret", None),
        ("absolute", None),
        ("magic", None),
        ("root", None),
        ("loop", None),
        ("..", None),
        ("inner/../../outside", None),
    ];
    for (path, expected) in table {
        let found = volume.below(Path::new(path)).and_then(|opened| opened.path());
        assert_eq!(found.ok(), expected.map(|path| root.join(path)), "{path}");
    }
}

#[test]
fn folders_are_made_inside_and_nowhere_else() {
    let (_dir, root) = volume();
    let volume = Opened::trusted(&root.join("v")).unwrap();
    let made = |path: &str| volume.make_below(Path::new(path), 0o757).and_then(|opened| opened.path());
    assert_eq!(made("new/er/est").unwrap(), root.join("v/new/er/est"));
    let mode = fs::metadata(root.join("v/new/er")).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o757);
    assert_eq!(made("near/new").unwrap(), root.join("v/inner/new"));
    assert_eq!(made("inner/deep").unwrap(), root.join("v/inner/deep"));
    for path in ["far/new", "absolute/new", "root/tmp/new", "dangling", "dangling-far", "file/new", "loop/x"]
    {
        assert!(made(path).is_err(), "{path}");
    }
    assert_eq!(fs::read_dir(root.join("outside")).unwrap().count(), 1);
}

#[test]
fn a_path_that_is_swapped_for_a_link_never_leads_out() {
    let (_dir, root) = volume();
    let at = root.join("v/swap");
    fs::create_dir(&at).unwrap();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = {
        let (root, done) = (root.clone(), std::sync::Arc::clone(&done));
        std::thread::spawn(move || {
            let (at, aside) = (root.join("v/swap"), root.join("v/aside"));
            symlink("../outside", &aside).unwrap();
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                // The two change places at once, as a hostile guest would do it.
                rustix::fs::renameat_with(CWD, &at, CWD, &aside, rustix::fs::RenameFlags::EXCHANGE).unwrap();
            }
        })
    };
    let volume = Opened::trusted(&root.join("v")).unwrap();
    let mut found = 0;
    for _ in 0..20_000 {
        if let Ok(path) = volume.make_below(Path::new("swap/sub"), 0o755).and_then(|opened| opened.path()) {
            assert!(path.starts_with(root.join("v")), "{}", path.display());
            found += 1;
        }
    }
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    swapper.join().unwrap();
    assert!(found > 0);
    assert!(!root.join("outside/sub").exists());
}

#[test]
fn what_was_removed_has_no_path() {
    let (_dir, root) = volume();
    let volume = Opened::trusted(&root.join("v")).unwrap();
    let opened = volume.below(Path::new("inner/deep")).unwrap();
    fs::remove_dir(root.join("v/inner/deep")).unwrap();
    assert_eq!(opened.path().unwrap_err().kind(), io::ErrorKind::NotFound);
}
