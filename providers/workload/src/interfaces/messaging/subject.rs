//! Subjects, and who may use which.

/// Bytes of a subject.
const LONGEST: usize = 512;

/// Whether this is a subject that a message can be sent to: tokens between dots, none of them empty or a wildcard.
fn is_subject(subject: &str) -> bool {
    !subject.is_empty()
        && subject.len() <= LONGEST
        && subject.split('.').all(|token| !matches!(token, "" | "*" | ">"))
        && !subject.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// Whether a subject is one of those that a pattern means: `*` is one token, and `>` all that follow.
fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Where a workload may send to. Subjects of the server's own, which begin with a `$`, are for nobody: streams, buckets and
/// accounts are behind them.
pub(super) fn check(subject: &str, allowed: Option<&[String]>) -> Result<(), String> {
    if !is_subject(subject) {
        return Err("the subject is none: it is tokens between dots, without blanks and wildcards".to_owned());
    }
    if subject.starts_with('$') {
        return Err("access denied: subjects that begin with $ are the server's own".to_owned());
    }
    // Answers go to whoever has asked.
    let is_answer = subject.starts_with("_INBOX.");
    if allowed.is_some_and(|allowed| !is_answer && !allowed.iter().any(|pattern| matches(pattern, subject))) {
        return Err("access denied: the subject is not among those that the workload may send to".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_whole_tokens() {
        for (pattern, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a.b", true),
            ("*.b", "a.b", true),
            ("a", "ab", false),
            ("a.b", "a", false),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn no_subject_reaches_the_server_itself() {
        let allowed = [">".to_owned()];
        for subject in
            ["$JS.API.STREAM.DELETE.KV_a", "$KV.a.b", "$SYS.x", "", "a..b", "a.*", ">", "a b", "a\r\nPUB b"]
        {
            assert!(check(subject, None).is_err(), "{subject}");
            assert!(check(subject, Some(&allowed)).is_err(), "{subject}");
        }
        let allowed = ["orders.>".to_owned()];
        assert!(check("orders.new", Some(&allowed)).is_ok());
        assert!(check("_INBOX.abc.def", Some(&allowed)).is_ok());
        assert!(check("users.new", Some(&allowed)).is_err());
        assert!(check("users.new", None).is_ok());
    }
}
