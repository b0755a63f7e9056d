//! Which variables a plugin sees. Pure.

use crate::grants::Grants;

/// The namespace that counts: of `-n`, or else of the context.
pub const NAMESPACE: &str = "KUBECTL_PLUGIN_NAMESPACE";

/// Variables about how to speak to a user, and nothing of who that is.
const PASSED: [&str; 7] = ["TERM", "COLORTERM", "COLUMNS", "LINES", "LANG", "NO_COLOR", "TZ"];
/// What the names of others begin with.
const PASSED_PREFIXES: [&str; 2] = ["KUBECTL_", "LC_"];

/// Width and height of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters of a line.
    pub columns: u16,
    /// Lines.
    pub lines: u16,
}

/// The environment of a plugin, from that of its user. Where the user's says nothing of the size of the terminal, what the
/// terminal says counts.
pub(crate) fn environment(
    of_user: impl IntoIterator<Item = (String, String)>,
    grants: &Grants,
    namespace: &str,
    terminal: Option<TerminalSize>,
) -> Vec<(String, String)> {
    let is_granted =
        |name: &str| name.parse::<VariableName>().is_ok_and(|VariableName(grant)| grants.include(&grant));
    let is_passed = |name: &str| {
        PASSED.contains(&name)
            || PASSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || is_granted(name)
    };
    let mut passed: Vec<_> =
        of_user.into_iter().filter(|(name, _)| name != NAMESPACE && is_passed(name)).collect();
    if let Some(TerminalSize { columns, lines }) = terminal {
        for (name, size) in [("COLUMNS", columns), ("LINES", lines)] {
            if size > 0 && !passed.iter().any(|(known, _)| known == name) {
                passed.push((name.to_owned(), size.to_string()));
            }
        }
    }
    passed.push((NAMESPACE.to_owned(), namespace.to_owned()));
    passed.sort();
    passed
}

/// A name, as the grant that would let it through.
struct VariableName(crate::grants::Grant);

impl std::str::FromStr for VariableName {
    type Err = crate::grants::InvalidGrant;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        format!("env={name}").parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(environment: &[(String, String)]) -> Vec<&str> {
        environment.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn what_is_a_users_own_is_not_passed_unless_granted() {
        let of_user = || {
            [
                "HOME",
                "PATH",
                "AWS_SECRET_ACCESS_KEY",
                "KUBECONFIG",
                "KUBECTL_PATH",
                "LC_ALL",
                "LANG",
                "TERM",
                "NO_COLOR",
                "TZ",
                "EDITOR",
                "KUBECTL_PLUGIN_NAMESPACE",
                "KUBERNETES_SERVICE_HOST",
                "LCX",
            ]
            .map(|name| (name.to_owned(), "x".to_owned()))
        };
        let passed = environment(of_user(), &Grants::default(), "ns", None);
        assert_eq!(
            names(&passed),
            ["KUBECTL_PATH", "KUBECTL_PLUGIN_NAMESPACE", "LANG", "LC_ALL", "NO_COLOR", "TERM", "TZ"]
        );
        assert!(passed.contains(&(NAMESPACE.to_owned(), "ns".to_owned())));
        let granted = environment(of_user(), &Grants::parse_list("env=EDITOR").unwrap(), "ns", None);
        assert!(names(&granted).contains(&"EDITOR") && !names(&granted).contains(&"HOME"));
    }

    #[test]
    fn the_size_of_the_terminal_is_told_unless_the_user_has_said_another() {
        let size = Some(TerminalSize { columns: 120, lines: 40 });
        let told = environment([], &Grants::default(), "ns", size);
        assert!(told.contains(&("COLUMNS".to_owned(), "120".to_owned())));
        assert!(told.contains(&("LINES".to_owned(), "40".to_owned())));
        let own = [("COLUMNS".to_owned(), "60".to_owned())];
        let told = environment(own, &Grants::default(), "ns", size);
        assert!(told.contains(&("COLUMNS".to_owned(), "60".to_owned())));
        let unknown = Some(TerminalSize { columns: 0, lines: 0 });
        assert_eq!(names(&environment([], &Grants::default(), "ns", unknown)), [NAMESPACE]);
    }
}
