//! Files of variables, as `fileKeyRef` reads them: a strict subset of what a shell takes, after upstream's
//! `pkg/kubelet/util/env`.
//!
//! ```text
//! # a comment
//! NAME='a value, which may go on over several lines' # another
//! ```

/// A file that is not written by these rules. What exactly is wrong may be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The value of `key`: the first one; `None` when the file has none. What comes after it is not looked at.
///
/// # Errors
/// [`Malformed`].
pub(super) fn value(text: &str, key: &str) -> Result<Option<String>, Malformed> {
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, rest) = line.split_once('=').ok_or(Malformed)?;
        if name.is_empty() || name.ends_with([' ', '\t']) {
            return Err(Malformed);
        }
        if rest.starts_with([' ', '\t']) {
            // To a shell, this sets the variable to nothing for the command that follows.
            if name == key {
                return Ok(Some(String::new()));
            }
            continue;
        }
        let value = quoted(rest, &mut lines)?;
        if name == key {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The text up to the closing quote, which may be some lines further down.
fn quoted<'a>(rest: &'a str, lines: &mut impl Iterator<Item = &'a str>) -> Result<String, Malformed> {
    let mut rest = rest.strip_prefix('\'').ok_or(Malformed)?;
    let mut value = String::new();
    loop {
        if let Some((last, after)) = rest.split_once('\'') {
            value.push_str(last);
            let after = after.trim_start_matches([' ', '\t']);
            return if after.is_empty() || after.starts_with('#') { Ok(value) } else { Err(Malformed) };
        }
        value.push_str(rest);
        value.push('\n');
        rest = lines.next().ok_or(Malformed)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_a_value() {
        let table: &[(&str, Result<Option<&str>, Malformed>)] = &[
            ("K='v'", Ok(Some("v"))),
            ("\n  # K='no'\n\t K='v' # note\n", Ok(Some("v"))),
            ("K='v'\nK='w'", Ok(Some("v"))),
            ("A='x'\nK=''", Ok(Some(""))),
            ("K='one\n  two\n' \nA='x'", Ok(Some("one\n  two\n"))),
            ("K= 'v'", Ok(Some(""))),
            ("A= 'v'\nK='w'", Ok(Some("w"))),
            ("K='$X \\n'", Ok(Some("$X \\n"))),
            ("A='x'", Ok(None)),
            ("", Ok(None)),
            ("K='v'\nbroken", Ok(Some("v"))),
            ("broken\nK='v'", Err(Malformed)),
            ("K ='v'", Err(Malformed)),
            ("='v'", Err(Malformed)),
            ("K=v", Err(Malformed)),
            ("K=\"v\"", Err(Malformed)),
            ("K='v'x", Err(Malformed)),
            ("K='v\n", Err(Malformed)),
        ];
        for (text, expected) in table {
            let found = value(text, "K");
            assert_eq!(found.as_ref().map(Option::as_deref), expected.as_ref().map(|v| *v), "{text:?}");
        }
    }
}
