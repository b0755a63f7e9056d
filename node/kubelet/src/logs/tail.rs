//! Where the last lines of a file begin.

use std::{fs::File, io, os::unix::fs::FileExt};

const BLOCK: u64 = 16 * 1024;

/// Offset at which the last `lines` complete lines of the first `size` bytes begin; an unfinished line at
/// the end comes on top. Reads backwards, one block at a time.
pub(super) fn start(file: &File, size: u64, lines: u64) -> io::Result<u64> {
    let mut block = vec![0; usize::try_from(BLOCK).unwrap_or_default()];
    let mut ends_seen = 0;
    let mut right = size;
    while right > 0 {
        let left = right.saturating_sub(BLOCK);
        let wanted = block.get_mut(..usize::try_from(right - left).unwrap_or_default()).unwrap_or_default();
        file.read_exact_at(wanted, left)?;
        for (index, _) in wanted.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            ends_seen += 1;
            if ends_seen > lines {
                return Ok(left + index as u64 + 1);
            }
        }
        right = left;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn finds_the_last_lines() {
        let long = format!("{}\nb\n", "a".repeat(40_000));
        let table = [
            ("", 0, 0),
            ("", 5, 0),
            ("a\nb\nc\n", 0, 6),
            ("a\nb\nc\n", 1, 4),
            ("a\nb\nc\n", 2, 2),
            ("a\nb\nc\n", 3, 0),
            ("a\nb\nc\n", 9, 0),
            ("a\nb\nunfinished", 1, 2),
            (&long, 1, 40_001),
            (&long, 2, 0),
        ];
        for (content, lines, expected) in table {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content.as_bytes()).unwrap();
            assert_eq!(
                start(&file, content.len() as u64, lines).unwrap(),
                expected,
                "{lines} of {} bytes",
                content.len()
            );
        }
    }
}
