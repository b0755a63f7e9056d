//! Volumes.

use std::{fs, path::Path};

use kubewasm_workload::types::{
    EmptyDirVolume, HostPathVolume, LocalResources, Volume, VolumeMount, VolumeType, Workload,
};

use crate::world::{World, command, guest, workload};

/// A workload with a component that works on files of a volume, of which it makes its root.
async fn on_files(name: &str, volume_type: VolumeType, read_only: bool) -> Workload {
    let mount = VolumeMount { name: "v".to_owned(), mount_path: "/".to_owned(), read_only };
    let resources = LocalResources { volume_mounts: vec![mount], ..LocalResources::default() };
    let component = command(&guest("files-0.2.wat").await, &[], resources);
    let volumes = vec![Volume { name: "v".to_owned(), volume_type }];
    Workload { volumes, ..workload(name, vec![component]) }
}

fn host_path(path: &Path) -> VolumeType {
    VolumeType::HostPath(HostPathVolume { local_path: path.display().to_string() })
}

#[tokio::test]
async fn a_directory_of_the_machine_is_written_to_where_that_is_allowed() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    for directory in ["data", "ro"] {
        fs::create_dir(dir.path().join(directory)).unwrap();
    }
    let (made, moved) = (dir.path().join("data/new"), dir.path().join("ro/dir"));
    world.start(on_files("reads", host_path(dir.path()), true).await).await.unwrap();
    let said = world.run("reads").await;
    assert!(said.lines().count() == 5 && !said.contains("ok"), "{said}");
    assert!(!made.exists() && !moved.exists());
    world.start(on_files("writes", host_path(dir.path()), false).await).await.unwrap();
    let said = world.run("writes").await;
    assert!(said.ends_with("ok\n"), "{said}");
    assert!(made.exists() && moved.is_dir());
    world.stop("writes").await.unwrap();
    assert!(made.exists(), "it is the machine's, and stays");
}

#[tokio::test]
async fn an_empty_directory_is_a_workloads_own() {
    let world = World::new().await;
    let empty = || VolumeType::EmptyDir(EmptyDirVolume {});
    for name in ["one", "other"] {
        world.start(on_files(name, empty(), false).await).await.unwrap();
        // There is no such directory in it.
        assert!(!world.run(name).await.contains("ok"), "{name}");
    }
}

#[tokio::test]
async fn a_volume_that_is_not_there_is_an_error_that_names_it() {
    let world = World::new().await;
    let gone = on_files("w", host_path(Path::new("/there/is/no/such/directory")), false).await;
    let error = world.start(gone).await.unwrap_err().to_string();
    assert!(error.contains("volume `v`") && error.contains("/there/is/no/such/directory"), "{error}");
    let mut other = on_files("w", VolumeType::EmptyDir(EmptyDirVolume {}), false).await;
    other.volumes.clear();
    let error = world.start(other).await.unwrap_err().to_string();
    assert!(error.contains("component `c`: it mounts a volume `v`, and there is none"), "{error}");
}
