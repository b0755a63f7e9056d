use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use super::*;
use crate::pods::volumes::payload::PayloadFile;

fn payload(files: &[(&str, &str, u32)]) -> Payload {
    let file = |text: &str, mode| PayloadFile { bytes: text.as_bytes().to_vec(), mode };
    files.iter().map(|(path, text, mode)| ((*path).to_owned(), file(text, *mode))).collect()
}

/// Writes a volume that nothing is mounted in.
fn write(dir: &Path, payload: &Payload) -> io::Result<Written> {
    super::write(dir, payload, &MountPoints::new())
}

/// Names in the volume, with what links point to; folders of data as `..`.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            match fs::read_link(entry.path()) {
                Ok(_) if name == DATA => name,
                Ok(target) => format!("{name} -> {}", target.display()),
                Err(_) if name.starts_with("..2") => "..".to_owned(),
                Err(_) => name,
            }
        })
        .collect();
    names.sort();
    names
}

/// What is mounted inside the volume has its place there, whatever the files are and become.
#[test]
fn mount_points_stay_when_files_change() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let points: MountPoints = ["tls", "conf.d/extra", "deep/er/est"].map(PathBuf::from).into();
    let first = payload(&[
        ("a", "1", 0o644),
        ("conf.d/a", "2", 0o644),
        ("deep/er/file", "3", 0o644),
        ("deep/er/dir/file", "4", 0o644),
        ("tls", "covered", 0o644),
        ("conf.d/extra/x", "covered", 0o644),
    ]);
    // A link before anything was to be mounted below it.
    write(dir, &first).unwrap();
    assert_eq!(fs::read_link(dir.join("conf.d")).unwrap(), Path::new("..data/conf.d"));
    assert_eq!(super::write(dir, &first, &points).unwrap(), Written::Nothing);
    let read = |path: &str| fs::read_to_string(dir.join(path)).ok();
    let texts = |paths: [&str; 4]| paths.map(|path| read(path).unwrap_or_default());
    let paths = ["a", "conf.d/a", "deep/er/file", "deep/er/dir/file"];
    assert_eq!(texts(paths), ["1", "2", "3", "4"]);
    assert!(!dir.join("tls").exists() && !dir.join("conf.d/extra").exists());
    for point in &points {
        fs::create_dir(dir.join(point)).unwrap();
        fs::write(dir.join(point).join("mounted"), "").unwrap();
    }

    let second = payload(&[("a", "5", 0o644), ("conf.d/b", "6", 0o644), ("deep/er/file", "7", 0o644)]);
    assert_eq!(super::write(dir, &second, &points).unwrap(), Written::Files);
    sweep(dir).unwrap();
    assert_eq!(texts(paths), ["5", "", "7", ""]);
    assert_eq!(read("conf.d/b").as_deref(), Some("6"));
    for (folder, expected) in [("conf.d", vec!["b", "extra"]), ("deep/er", vec!["est", "file"])] {
        let mut found: Vec<_> =
            fs::read_dir(dir.join(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.sort();
        assert_eq!(found, expected, "{folder}");
    }
    assert!(points.iter().all(|point| dir.join(point).join("mounted").exists()));
}

#[test]
fn the_layout_and_what_changes_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let first = payload(&[("a", "1", 0o644), ("b/c", "2", 0o400), ("b/d/e", "3", 0o444)]);
    assert_eq!(write(dir, &first).unwrap(), Written::Files);
    assert_eq!(names(dir), ["..", "..data", "a -> ..data/a", "b -> ..data/b"]);
    assert_eq!(fs::read_to_string(dir.join("b/d/e")).unwrap(), "3");
    let mode = |path: &str| fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("a"), mode("b/c"), mode("b/d/e"), mode("b")), (0o644, 0o400, 0o444, 0o755));

    let before = fs::read_link(dir.join(DATA)).unwrap();
    assert_eq!(write(dir, &first).unwrap(), Written::Nothing);
    assert_eq!(fs::read_link(dir.join(DATA)).unwrap(), before);

    let second = payload(&[("b/c", "2", 0o400), ("new", "4", 0o644)]);
    assert_eq!(write(dir, &second).unwrap(), Written::Files);
    // The old files stay for a while, out of sight.
    assert_eq!(names(dir), ["..", "..", "..data", "b -> ..data/b", "new -> ..data/new"]);
    assert!(!dir.join("b/d").exists() && dir.join(&before).join("a").exists());
    sweep(dir).unwrap();
    assert_eq!(names(dir), ["..", "..data", "b -> ..data/b", "new -> ..data/new"]);
    assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "4");

    // A mode alone is a change.
    assert_eq!(write(dir, &payload(&[("b/c", "2", 0o440), ("new", "4", 0o644)])).unwrap(), Written::Files);
    assert_eq!(mode("b/c"), 0o440);
    assert_eq!(write(dir, &Payload::new()).unwrap(), Written::Files);
    assert_eq!(write(dir, &Payload::new()).unwrap(), Written::Nothing);
    sweep(dir).unwrap();
    assert_eq!(names(dir), ["..", "..data"]);
}

#[test]
fn a_writer_that_was_torn_off_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let files = payload(&[("a", "1", 0o644), ("b", "2", 0o644)]);
    write(dir, &files).unwrap();
    // It had got as far as the data, but not to all links; another had begun and left its traces.
    fs::remove_file(dir.join("b")).unwrap();
    symlink("..data/old", dir.join("old")).unwrap();
    fs::create_dir_all(dir.join("..2020_01_01_00_00_00.0000000001/half")).unwrap();
    symlink("..2020_01_01_00_00_00.0000000001", dir.join(NEW_DATA)).unwrap();
    assert_eq!(write(dir, &files).unwrap(), Written::Nothing);
    assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "2");
    assert!(fs::symlink_metadata(dir.join("old")).is_err());
    write(dir, &payload(&[("c", "3", 0o644)])).unwrap();
    sweep(dir).unwrap();
    assert_eq!(names(dir), ["..", "..data", "c -> ..data/c"]);
}

#[test]
fn a_reader_never_misses_a_file_and_never_sees_two_versions() {
    let dir = tempfile::tempdir().unwrap();
    let version = |n: u32| payload(&[("one", &n.to_string(), 0o644), ("two", &n.to_string(), 0o644)]);
    write(dir.path(), &version(0)).unwrap();
    let (done, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let reader = {
        let (path, done, reads) = (dir.path().to_path_buf(), Arc::clone(&done), Arc::clone(&reads));
        std::thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                // Both files through one look at the link: they are of one version.
                let data = path.join(fs::read_link(path.join(DATA)).unwrap());
                let one = fs::read_to_string(data.join("one")).unwrap();
                assert_eq!(one, fs::read_to_string(data.join("two")).unwrap());
                assert!(!fs::read_to_string(path.join("one")).unwrap().is_empty());
                reads.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    // A hundred updates, each after a hundred reads at least; the reader must not have given up before.
    for n in 1..=100 {
        write(dir.path(), &version(n)).unwrap();
        let enough = reads.load(Ordering::SeqCst) + 100;
        while reads.load(Ordering::SeqCst) < enough && !reader.is_finished() {
            std::thread::yield_now();
        }
    }
    done.store(true, Ordering::SeqCst);
    reader.join().unwrap();
    assert!(reads.load(Ordering::SeqCst) >= 10_000);
}
