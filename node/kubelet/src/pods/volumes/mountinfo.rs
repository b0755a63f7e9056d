//! What is mounted where, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountEntry {
    pub(super) path: PathBuf,
    pub(super) kind: String,
    /// What happens in it is passed on to namespaces that were made from this one.
    pub(super) is_shared: bool,
}

/// All mounts of this process, in the order in which they were made.
///
/// # Errors
/// What the system says.
pub(super) fn read() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Mounts at `path` and below.
pub(super) fn below<'a>(
    mounts: &'a [MountEntry],
    path: &'a Path,
) -> impl DoubleEndedIterator<Item = &'a MountEntry> {
    mounts.iter().filter(move |mount| mount.path.starts_with(path))
}

/// Lines that are none are left out.
fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let path = unescape(fields.get(4)?);
    let separator = fields.iter().position(|field| *field == b"-")?;
    let tags = fields.get(6..separator)?;
    let kind = fields.get(separator + 1)?;
    Some(MountEntry {
        path: PathBuf::from(OsString::from_vec(path)),
        kind: String::from_utf8_lossy(kind).into_owned(),
        is_shared: tags.iter().any(|tag| tag.starts_with(b"shared:")),
    })
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|d| byte == b'\\' && d.iter().all(|d| (b'0'..=b'7').contains(d)));
        let code = digits.and_then(|d| {
            u8::try_from(d.iter().fold(0_u32, |code, digit| code * 8 + u32::from(digit - b'0'))).ok()
        });
        match code {
            Some(code) => {
                out.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_shape() {
        let text = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                     42 27 0:39 / /var/lib/kubewasm/memory rw,nosuid shared:7 - tmpfs kubewasm rw,size=1k\n\
                     43 42 0:40 /sub /a\\040b\\134c ro shared:8 master:2 - ext4 /dev/sda rw\n\
                     44 42 0:40 / /bad\\999 rw master:3 unbindable - ext4 /dev/sda rw\n\
                     torn 1 2\n";
        let mounts = parse(text);
        let short: Vec<_> =
            mounts.iter().map(|m| (m.path.to_str().unwrap(), m.kind.as_str(), m.is_shared)).collect();
        assert_eq!(
            short,
            [
                ("/proc", "proc", false),
                ("/var/lib/kubewasm/memory", "tmpfs", true),
                ("/a b\\c", "ext4", true),
                ("/bad\\999", "ext4", false),
            ]
        );
        let below: Vec<_> = below(&mounts, Path::new("/var/lib/kubewasm")).map(|m| &m.path).collect();
        assert_eq!(below, [Path::new("/var/lib/kubewasm/memory")]);
    }

    #[test]
    fn this_process_has_mounts() {
        assert!(read().unwrap().iter().any(|mount| mount.path == Path::new("/")));
    }
}
