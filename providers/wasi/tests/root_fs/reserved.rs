//! A file system keeps its last blocks for root, whose daemons shall go on when it is full. Guests are not root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use kubewasm_wasi::spec::RootSpec;
use nix::mount::{MntFlags, umount2};

use crate::{
    support,
    world::{World, mount, mounts},
};

/// An ext4 of 32 MiB, half of which is for root.
struct Disk {
    point: PathBuf,
    _files: tempfile::TempDir,
}

impl Disk {
    /// `None`, with the reason on standard error, where no file can be mounted as a disk.
    fn new() -> Option<Self> {
        let files = tempfile::tempdir().unwrap();
        let (image, point) = (files.path().join("image"), files.path().join("disk"));
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        fs::create_dir(&point).unwrap();
        let done = |program: &str, args: &[&str], path: &[&Path]| {
            let output = Command::new(program).args(args).args(path).output();
            let text = output.map(|output| match output.status.success() {
                true => None,
                false => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
            });
            text.unwrap_or_else(|error| Some(error.to_string()))
        };
        let made = done("mkfs.ext4", &["-q", "-m", "50"], &[&image]);
        let refused = made.or_else(|| done("mount", &["-o", "loop"], &[&image, &point]));
        match refused {
            None => Some(Self { point, _files: files }),
            Some(why) => {
                eprintln!("not tested: no ext4 can be mounted here: {why}");
                None
            }
        }
    }

    /// Bytes that are free: for everybody, and for root too.
    fn free(&self) -> (u64, u64) {
        let stat = rustix::fs::statvfs(&self.point).unwrap();
        (stat.f_bavail * stat.f_frsize, stat.f_bfree * stat.f_frsize)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.point, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Neither what a guest writes to a volume nor what it writes over its image takes what is kept for root.
#[tokio::test]
async fn guests_leave_what_is_kept_for_root() {
    let Some(disk) = Disk::new() else { return };
    let (most, with_reserve) = disk.free();
    assert!(with_reserve > most + (8 << 20), "{most} and {with_reserve}");
    {
        let world = World::on(tempfile::tempdir_in(&disk.point).unwrap(), support::program()).await;
        let image = world.tree("image", &[("etc/motd", "hello")]);
        let volume = world.tree("volume", &[]);
        let root = RootSpec { image: Some(image), ..mounts(vec![mount(&volume, "/data")]) };
        for file in ["/data/fill", "/fill"] {
            // Output comes before what fills the disk: afterwards there is no room for it.
            let spec = world.spec(root.clone(), &["say", "begun", "try", "flood", file, "64"]);
            world.agent.start("node", &spec).await.unwrap();
            world.end_of(&spec).await;
            let (left, for_root) = disk.free();
            assert!(left < 1 << 20, "{left} bytes are left: {file} does not fill the disk");
            assert!(for_root > 8 << 20, "{file} leaves {for_root} bytes of {with_reserve}");
            world.agent.remove(&spec.id).await.unwrap();
            fs::remove_file(volume.join("fill"))
                .or_else(|_| fs::remove_dir_all(spec.root.scratch.unwrap()))
                .unwrap();
        }
        world.agent.shutdown(std::time::Duration::ZERO).await;
    }
}
