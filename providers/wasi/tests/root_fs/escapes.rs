//! Images and guests that try to get out.

use std::{fs, os::unix::fs::symlink};

use kubewasm_wasi::spec::RootSpec;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::world::{Ran, World, mount, mounts, ok};

/// Links in an image lead nowhere but into the container: mount points below them are made there.
#[tokio::test]
async fn mount_points_stay_inside() {
    let world = World::new().await;
    let outside = world.tree("outside", &[("file", "untouched")]);
    let there = outside.display().to_string();
    let up = format!("../../../../../../../../../../../../..{there}");
    let links = [
        ("etc", &*there),
        ("up", &up),
        ("self", "/"),
        ("loop", "loop"),
        ("dangling", "/new/place"),
        ("chain", "/up/../etc/x"),
        ("magic", "/proc/self/root"),
    ];
    let image =
        RootSpec { image: Some(world.linked_tree("image", &[("a", "a")], &links)), ..RootSpec::default() };
    let data = world.tree("data", &[("inner", "seen")]);
    for guest in
        ["/etc/x", "/up/x", "/etc/../up/x/y", "/self/self/x", "/dangling", "/chain/y", "/magic/x", "/../../x"]
    {
        let root = RootSpec { mounts: vec![mount(&data, guest)], ..image.clone() };
        // The guest asks for its own paths, so that links of the image that are absolute play no part.
        let ran = world.run(root, &["say", guest]).await;
        assert_eq!(ran, ok(&format!("{guest}\n")));
        let root = RootSpec { mounts: vec![mount(&data.join("inner"), guest)], ..image.clone() };
        assert_eq!(world.run(root, &["say", guest]).await, ok(&format!("{guest}\n")));
    }
    for (guest, expected) in
        [("/loop/x", "Too many levels of symbolic links"), ("/self", "Device or resource busy")]
    {
        let error =
            world.refusal(RootSpec { mounts: vec![mount(&data, guest)], ..image.clone() }, guest).await;
        assert!(error.to_string().contains(expected), "{guest}: {error}");
    }
    let left: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["file"], "nothing was made outside");
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "untouched");
}

/// A guest that knows where everything is on the host gets none of it.
#[tokio::test]
async fn a_guest_does_not_get_out() {
    let world = World::new().await;
    let outside = world.tree("outside", &[("secret", "secret")]);
    let data = world.tree("data", &[]);
    let (secret, dir) = (outside.join("secret").display().to_string(), outside.display().to_string());
    let up = format!("/data/{}{secret}", "../".repeat(20));
    let relative = format!("{}{secret}", "../".repeat(20));
    symlink(&secret, data.join("absolute")).unwrap();
    symlink(&relative, data.join("relative")).unwrap();
    symlink(&dir, data.join("dir")).unwrap();
    symlink("/proc/self/root", data.join("magic")).unwrap();
    symlink("/proc/self/fd/3", data.join("fd")).unwrap();
    let root = mounts(vec![mount(&data, "/data")]);
    for argv in [
        vec!["cat", &*secret],
        vec!["cat", &up],
        vec!["cat", &relative],
        vec!["cd", "/data", "cat", &relative],
        vec!["cat", "/data/absolute"],
        vec!["cat", "/data/relative"],
        vec!["ls", "/data/dir"],
        vec!["write", "/data/dir/new", "x"],
        vec!["ls", "/data/magic"],
        vec!["ls", "/data/fd"],
        vec!["ls", "/.."],
        vec!["ls", "/proc"],
        vec!["ls", "/data/../../.."],
        vec!["symlink", &secret, "/data/mine", "cat", "/data/mine"],
        vec!["symlink", &relative, "/data/mine2", "cat", "/data/mine2"],
        vec!["symlink", "../..", "/data/mine3", "ls", "/data/mine3/../.."],
        vec!["rename", "/data/absolute", "/data/../../x"],
        vec!["link", &relative, "/data/hard"],
        vec!["rename", &relative, "/data/moved"],
        vec!["mkdir", "/../../x"],
        vec!["rm", &up],
    ] {
        let ran = world.run(root.clone(), &argv).await;
        assert_eq!(ran.code, 1, "{argv:?}: {ran:?}");
        assert!(!ran.text.contains("secret\n") && ran.text.starts_with("cannot "), "{argv:?}: {ran:?}");
    }
    let left: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["secret"]);
}

/// A named pipe in a volume blocks nobody, however often it is opened.
#[tokio::test]
async fn pipes_do_not_block() {
    let world = World::new().await;
    let data = world.linked_tree("data", &[], &[("link", "pipe")]);
    mknodat(CWD, data.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let root = mounts(vec![mount(&data, "/data"), mount(&data.join("pipe"), "/pipe")]);
    for pipe in ["/data/pipe", "/data/link", "/pipe"] {
        let ran = world.run(root.clone(), &["cat", pipe]).await;
        assert_eq!(ran, Ran { code: 1, text: format!("cannot open {pipe}: No such device or address\n") });
    }
    let ran = world.run(root, &["cd", "/data", "try", "write", "pipe", "x", "stat", "pipe"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Devices in a volume are of no use to a guest.
#[tokio::test]
async fn devices_cannot_be_opened() {
    let world = World::new().await;
    let data = world.tree("data", &[]);
    mknodat(CWD, data.join("zero"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 5))
        .unwrap();
    let ran = world.run(mounts(vec![mount(&data, "/data")]), &["try", "drain", "/data/zero"]).await;
    assert!(ran.text.starts_with("cannot open /data/zero: "), "{ran:?}");
    let ran = world.run(mounts(vec![mount(&data.join("zero"), "/zero")]), &["try", "drain", "/zero"]).await;
    assert!(ran.text.starts_with("cannot open /zero: "), "{ran:?}");
}
