use std::os::unix::fs::MetadataExt as _;

use tar::{Builder, Header};

use super::*;

const LIMITS: UnpackLimits = UnpackLimits { bytes: 1 << 20, entries: 100 };

enum Entry<'a> {
    File(&'a str, &'a str),
    Mode(&'a str, u32),
    Dir(&'a str),
    Link(&'a str, &'a str),
    Hard(&'a str, &'a str),
    Device(&'a str),
}
use Entry::{Device, Dir, File as Text, Hard, Link, Mode};

/// An archive of exactly these names: the header's name is set as bytes, past the library's own checks.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let (name, kind, target, content, mode) = match *entry {
            Text(name, content) => (name, EntryType::Regular, "", content, 0o644),
            Mode(name, mode) => (name, EntryType::Regular, "", "", mode),
            Dir(name) => (name, EntryType::Directory, "", "", 0o755),
            Link(name, target) => (name, EntryType::Symlink, target, "", 0o777),
            Hard(name, target) => (name, EntryType::Link, target, "", 0o644),
            Device(name) => (name, EntryType::Char, "", "", 0o666),
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("root")).unwrap();
        fs::write(directory.path().join("outside"), "untouched").unwrap();
        fs::create_dir(directory.path().join("outside.d")).unwrap();
        Self { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn unpack(&self, layers: &[&[Entry<'_>]]) -> Result<(), PullFailure> {
        let cancelled = AtomicBool::new(false);
        let mut unpacker = Unpacker::new(self.root(), LIMITS, &cancelled);
        layers.iter().try_for_each(|layer| unpacker.layer(Packing::Plain, archive(layer).as_slice()))
    }

    /// All that is below the root, as `name`, `name/`, `name -> target`.
    fn listing(&self) -> Vec<String> {
        fn walk(root: &Path, directory: &Path, found: &mut Vec<String>) {
            for child in fs::read_dir(directory).unwrap() {
                let path = child.unwrap().path();
                let name = path.strip_prefix(root).unwrap().display().to_string();
                let metadata = fs::symlink_metadata(&path).unwrap();
                if metadata.is_symlink() {
                    found.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
                } else if metadata.is_dir() {
                    found.push(format!("{name}/"));
                    walk(root, &path, found);
                } else {
                    found.push(name);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.root(), &self.root(), &mut found);
        found.sort();
        found
    }

    fn assert_nothing_escaped(&self) {
        assert_eq!(fs::read_to_string(self.directory.path().join("outside")).unwrap(), "untouched");
        assert_eq!(fs::read_dir(self.directory.path().join("outside.d")).unwrap().count(), 0);
        let mut names: Vec<_> =
            fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["outside", "outside.d", "root"]);
    }
}

#[test]
fn layers_replace_merge_and_remove() {
    type Case<'a> = (&'a str, &'a [&'a [Entry<'a>]], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        ("merged", &[&[Dir("a"), Text("a/x", "1")], &[Dir("a/"), Text("a/y", "2")]], &["a/", "a/x", "a/y"]),
        ("parents are made", &[&[Text("./a/b/c", "1")]], &["a/", "a/b/", "a/b/c"]),
        ("absolute names", &[&[Text("/etc/x", "1")]], &["etc/", "etc/x"]),
        ("the root itself", &[&[Dir("./"), Dir("/"), Text("x", "")]], &["x"]),
        ("whiteout", &[&[Text("a/x", ""), Text("a/y", "")], &[Text("a/.wh.x", "")]], &["a/", "a/y"]),
        ("whiteout of a tree", &[&[Text("a/b/c", "")], &[Text(".wh.a", "")]], &[]),
        ("whiteout of a link", &[&[Text("t", ""), Link("l", "t")], &[Text(".wh.l", "")]], &["t"]),
        ("whiteout of nothing", &[&[Text(".wh.none", "")]], &[]),
        ("own files outlive whiteouts", &[&[Text("x", "")], &[Text("x", "2"), Text(".wh.x", "")]], &["x"]),
        (
            "opaque",
            &[&[Text("a/old", ""), Text("a/d/old", "")], &[Text("a/d/new", ""), Text("a/.wh..wh..opq", "")]],
            &["a/", "a/d/", "a/d/new"],
        ),
        ("opaque on nothing", &[&[Text("a/.wh..wh..opq", "")]], &[]),
        ("notes of aufs", &[&[Text(".wh..wh.plnk", ""), Text("x", "")]], &["x"]),
        ("file over directory", &[&[Text("a/x", "")], &[Text("a", "")]], &["a"]),
        (
            "directory over link",
            &[&[Dir("t"), Link("a", "t")], &[Dir("a"), Text("a/x", "")]],
            &["a/", "a/x", "t/"],
        ),
        (
            "through a link",
            &[&[Dir("usr/lib"), Link("lib", "usr/lib")], &[Text("lib/x", "")]],
            &["lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/x"],
        ),
        (
            "absolute links, also through a link",
            &[&[Dir("usr/lib"), Link("lib", "/usr/lib")], &[Link("lib/x", "/etc/x"), Link("up", "../../y")]],
            &["lib -> usr/lib", "up -> y", "usr/", "usr/lib/", "usr/lib/x -> ../../etc/x"],
        ),
        ("twice in one layer", &[&[Text("x", "1"), Text("x", "2")]], &["x"]),
        ("devices are left out", &[&[Device("dev/null"), Text("x", "")]], &["dev/", "x"]),
    ];
    for (name, layers, expected) in cases {
        let fixture = Fixture::new();
        fixture.unpack(layers).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(&fixture.listing(), expected, "{name}");
        fixture.assert_nothing_escaped();
    }
}

#[test]
fn hostile_archives_are_errors_and_write_nothing_outside() {
    let cases: &[(&str, &[Entry<'_>])] = &[
        ("dots", &[Text("../outside", "x")]),
        ("dots within", &[Text("a/../../outside", "x")]),
        ("absolute dots", &[Text("/../outside", "x")]),
        ("hard link out", &[Hard("x", "../outside")]),
        ("hard link to nothing", &[Hard("x", "none")]),
        ("hard link to a directory", &[Dir("d"), Hard("x", "d")]),
        ("hard link through a link", &[Link("l", "../.."), Hard("x", "l/outside")]),
        ("whiteout of the parent", &[Text("a/x", ""), Text("a/.wh...", "")]),
        ("whiteout of itself", &[Text("a/.wh.", "")]),
        ("whiteout through dots", &[Text("../.wh.outside", "")]),
        ("under a file", &[Text("x", ""), Text("x/y", "")]),
        ("link loop", &[Link("l", "l"), Text("l/x", "")]),
        ("link to nowhere", &[Link("l", "")]),
    ];
    for (name, entries) in cases {
        let fixture = Fixture::new();
        let error = fixture.unpack(&[entries]).err().unwrap_or_else(|| panic!("{name} was taken"));
        assert!(matches!(error, PullFailure::Malformed(_)), "{name}: {error:?}");
        fixture.assert_nothing_escaped();
    }
}

#[test]
fn links_to_outside_are_followed_inside_only() {
    for target in ["../..", "/..", "../../outside.d", "/"] {
        let fixture = Fixture::new();
        fixture.unpack(&[&[Link("l", target), Text("l/x", "1")], &[Text("l/.wh.outside", "")]]).unwrap();
        fixture.assert_nothing_escaped();
    }
    let fixture = Fixture::new();
    fixture.unpack(&[&[Link("x", "../outside")], &[Text("x", "new")]]).unwrap();
    assert_eq!(
        fs::read_to_string(fixture.root().join("x")).unwrap(),
        "new",
        "a link is replaced, not written through"
    );
    fixture.assert_nothing_escaped();
}

#[test]
fn modes_lose_privileges_and_keep_the_owner_able() {
    let fixture = Fixture::new();
    fixture.unpack(&[&[Mode("suid", 0o6755), Mode("sticky", 0o1777), Mode("none", 0), Dir("d")]]).unwrap();
    for (name, mode) in [("suid", 0o755), ("sticky", 0o777), ("none", 0o600), ("d", 0o755)] {
        let metadata = fs::metadata(fixture.root().join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(fs::metadata(fixture.root().join("suid")).unwrap().mtime(), 1_000_000_000);
}

#[test]
fn hard_links_share_one_file_until_it_is_replaced() {
    let fixture = Fixture::new();
    fixture.unpack(&[&[Text("bin/a", "1"), Hard("bin/b", "/bin/a"), Hard("bin/a", "bin/a")]]).unwrap();
    let inode = |name: &str| fs::metadata(fixture.root().join(name)).unwrap().ino();
    assert_eq!(inode("bin/a"), inode("bin/b"));

    fixture.unpack(&[&[Text("bin/b", "2")]]).unwrap();
    assert_eq!(fs::read_to_string(fixture.root().join("bin/a")).unwrap(), "1");
}

#[test]
fn limits_are_limits() {
    let big = "x".repeat(600 << 10);
    let cases: &[(&str, &[&[Entry<'_>]])] = &[
        ("bytes over two layers", &[&[Text("a", &big)], &[Text("b", &big)]]),
        ("bytes that are replaced", &[&[Text("a", &big), Text("a", &big)]]),
        ("bytes of entries that are skipped", &[&[Text(".wh..wh.x", &big), Text(".wh..wh.y", &big)]]),
    ];
    for (name, layers) in cases {
        let error = Fixture::new().unpack(layers).unwrap_err();
        assert!(
            matches!(&error, PullFailure::TooLarge(text) if text.contains("1048576 bytes")),
            "{name}: {error:?}"
        );
    }
    let names: Vec<String> = (0..=LIMITS.entries).map(|number| format!("f{number}")).collect();
    let many: Vec<Entry<'_>> = names.iter().map(|name| Text(name, "")).collect();
    let error = Fixture::new().unpack(&[&many]).unwrap_err();
    assert!(matches!(&error, PullFailure::TooLarge(text) if text.contains("100 entries")), "{error:?}");
}

#[test]
fn headers_that_would_fill_the_memory_are_refused() {
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(8 << 20);
        header.set_cksum();
        builder.append(&header, io::repeat(b'a').take(8 << 20)).unwrap();
        let cancelled = AtomicBool::new(false);
        let fixture = Fixture::new();
        let mut unpacker =
            Unpacker::new(fixture.root(), UnpackLimits { bytes: 1 << 30, entries: 10 }, &cancelled);
        let error = unpacker.layer(Packing::Plain, builder.into_inner().unwrap().as_slice()).unwrap_err();
        assert!(
            matches!(&error, PullFailure::Malformed(text) if text.contains("1 MiB")),
            "{kind:?}: {error:?}"
        );
    }
}

#[test]
fn sparse_files_count_as_long_as_they_are() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("hole").unwrap();
    header.set_mode(0o644);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize.copy_from_slice(b"77777777777\0");
    gnu.sparse[0].offset.copy_from_slice(b"77777777777\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
    header.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&header, io::empty()).unwrap();
    let cancelled = AtomicBool::new(false);
    let fixture = Fixture::new();
    let mut unpacker = Unpacker::new(fixture.root(), LIMITS, &cancelled);
    let error = unpacker.layer(Packing::Plain, builder.into_inner().unwrap().as_slice()).unwrap_err();
    assert!(matches!(&error, PullFailure::TooLarge(text) if text.contains("1048576 bytes")), "{error:?}");
}

#[test]
fn packings_and_what_is_none() {
    let plain = archive(&[Text("x", "content")]);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let cancelled = AtomicBool::new(false);
    for (packing, packed) in [(Packing::Plain, &plain), (Packing::Gzip, &gzip), (Packing::Zstd, &zstd)] {
        let fixture = Fixture::new();
        let mut unpacker = Unpacker::new(fixture.root(), LIMITS, &cancelled);
        unpacker.layer(packing, packed.as_slice()).unwrap();
        assert_eq!(fs::read_to_string(fixture.root().join("x")).unwrap(), "content", "{packing:?}");
        assert!(unpacker.bytes() >= 7);

        for broken in [&packed[..packed.len() / 3], b"this is not an archive of any kind".as_slice()] {
            let mut unpacker = Unpacker::new(Fixture::new().root(), LIMITS, &cancelled);
            let error = unpacker.layer(packing, broken).unwrap_err();
            assert!(
                matches!(error, PullFailure::Malformed(_) | PullFailure::Store(_)),
                "{packing:?}: {error:?}"
            );
        }
    }
}

#[test]
fn a_cancelled_unpacking_ends() {
    let cancelled = AtomicBool::new(true);
    let fixture = Fixture::new();
    let mut unpacker = Unpacker::new(fixture.root(), LIMITS, &cancelled);
    assert!(unpacker.layer(Packing::Plain, archive(&[Text("x", "")]).as_slice()).is_err());
    assert!(fixture.listing().is_empty());
}
