//! `$(VAR)` in environment values, commands and arguments.

/// Replaces each `$(NAME)` by what `lookup` knows of it. `$$` is one `$`; a reference to something
/// unknown, and a `$` that begins nothing, stay as they are. The rules are those of upstream's
/// `third_party/forked/golang/expansion`.
#[must_use]
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_escapes_and_leftovers() {
        let table = [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "1"),
            ("$(A)$(B)", "12"),
            ("x-$(A)-y", "x-1-y"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$(UNKNOWN)", "$(UNKNOWN)"),
            ("$()", "$()"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$", "$"),
            ("a$", "a$"),
            ("$(EMPTY)", ""),
            ("$(NESTED)", "$(A)"),
            ("$($(A))", "$($(A))"),
            ("ä$(A)ö", "ä1ö"),
        ];
        for (text, expected) in table {
            let expanded = expand(text, |name| match name {
                "A" => Some("1"),
                "B" => Some("2"),
                "EMPTY" => Some(""),
                "NESTED" => Some("$(A)"),
                _ => None,
            });
            assert_eq!(expanded, expected, "{text}");
        }
    }
}
