//! Names of log files, which are the kubelet's: `<attempt>.log` is written to, `<attempt>.log.<time>` has been rotated
//! away and `<attempt>.log.<time>.gz` is one of those, compressed. `….tmp` is a compression under way.

/// What one file of a container's log directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogFileName<'a> {
    /// The container's `restartCount` when it was written.
    pub(crate) attempt: u32,
    /// When it was rotated; empty for the file that is written to.
    pub(crate) stamp: &'a str,
    pub(crate) kind: FileKind,
}

/// In which form a log file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    Plain,
    Compressed,
    Unfinished,
}

impl<'a> LogFileName<'a> {
    /// Takes a name apart; `None` where it is none of ours.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let (attempt, rest) = name.split_once('.')?;
        let attempt = attempt.parse().ok().filter(|number: &u32| number.to_string() == attempt)?;
        let rest = rest.strip_prefix("log")?;
        let (rest, kind) = [(".gz", FileKind::Compressed), (".tmp", FileKind::Unfinished)]
            .iter()
            .find_map(|(end, kind)| Some((rest.strip_suffix(end)?, *kind)))
            .unwrap_or((rest, FileKind::Plain));
        let stamp = match rest.strip_prefix('.') {
            Some(stamp) if is_stamp(stamp) => stamp,
            None if rest.is_empty() && kind == FileKind::Plain => "",
            _ => return None,
        };
        Some(Self { attempt, stamp, kind })
    }
}

/// `20260102-150405`.
fn is_stamp(text: &str) -> bool {
    let (day, time) = text.split_once('-').unwrap_or_default();
    let digits = |part: &str, count: usize| part.len() == count && part.bytes().all(|b| b.is_ascii_digit());
    digits(day, 8) && digits(time, 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let name = |attempt, stamp, kind| Some(LogFileName { attempt, stamp, kind });
        for (text, expected) in [
            ("0.log", name(0, "", FileKind::Plain)),
            ("12.log.20260102-150405", name(12, "20260102-150405", FileKind::Plain)),
            ("1.log.20260102-150405.gz", name(1, "20260102-150405", FileKind::Compressed)),
            ("1.log.20260102-150405.tmp", name(1, "20260102-150405", FileKind::Unfinished)),
            ("x.log", None),
            ("01.log", None),
            ("1.log.gz", None),
            ("1.logs", None),
            ("1.log.", None),
            ("1.log.yesterday", None),
            ("1.log.2026010-1150405", None),
            ("4294967296.log", None),
        ] {
            assert_eq!(LogFileName::parse(text), expected, "{text}");
        }
    }
}
