//! The query of `/logs/`, with `enableSystemLogQuery`. Pure. Order, codes and texts are those of the kubelet.

use jiff::Timestamp;

/// Lines that may be asked for.
const MOST_LINES: i64 = 100_000;
const LONGEST_SERVICE: usize = 256;
const MOST_SERVICES: usize = 4;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeLogQuery {
    /// Logs of services.
    Services(ServiceQuery),
    /// One file, by its path below the log directory.
    File(String),
}

/// Logs of services, and which part of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceQuery {
    pub(super) services: Vec<String>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) tail_lines: Option<i64>,
    pub(super) boot: Option<i64>,
    pub(super) pattern: Option<String>,
}

impl ServiceQuery {
    /// Whether any part is asked for, instead of all.
    pub(super) fn has_options(&self) -> bool {
        let Self { services: _, since, until, tail_lines, boot, pattern } = self;
        since.is_some() || until.is_some() || tail_lines.is_some() || boot.is_some() || pattern.is_some()
    }
}

/// Why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    /// A value is not of its type: 400.
    #[error("{0}")]
    Undecodable(String),
    /// Values that make no sense, or not together: 406.
    #[error("{0}")]
    Invalid(String),
}

impl NodeLogQuery {
    /// Reads decoded pairs; `None` where they ask for nothing.
    ///
    /// # Errors
    /// [`QueryError`]: everything is decoded before anything is judged.
    pub(super) fn parse(pairs: &[(String, String)]) -> Result<Option<Self>, QueryError> {
        let mut wrong = Vec::new();
        let queries: Vec<&str> =
            pairs.iter().filter(|(key, _)| key == "query").map(|(_, v)| v.as_str()).collect();
        let (files, services): (Vec<&str>, Vec<&str>) =
            queries.iter().partition(|query| query.contains(['/', '\\']));
        let services: Vec<String> =
            services.into_iter().filter(|s| !s.trim().is_empty()).map(str::to_owned).collect();
        if !queries.is_empty() && files.is_empty() && services.is_empty() {
            wrong.push(invalid("query", &queries, "may not be empty"));
        }
        let value = |name: &str| {
            let value = pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
            value.filter(|value| !value.is_empty())
        };
        let mut time = |name: &str| {
            let text = value(name)?;
            let time = text.parse().ok();
            if time.is_none() {
                wrong.push(invalid(name, &text, "invalid time format"));
            }
            time
        };
        let (since, until) = (time("sinceTime"), time("untilTime"));
        let mut number = |name: &str| {
            let text = value(name)?;
            let number = text.parse::<i64>();
            number.inspect_err(|error| wrong.push(invalid(name, &text, &error.to_string()))).ok()
        };
        let (boot, tail_lines) = (number("boot"), number("tailLines"));
        if !wrong.is_empty() {
            return Err(QueryError::Undecodable(all_of(&wrong)));
        }
        let pattern = value("pattern").map(str::to_owned);
        let query = ServiceQuery { services, since, until, tail_lines, boot, pattern };
        if query == ServiceQuery::default() && files.is_empty() {
            return Ok(None);
        }
        let wrong = Self::judge(&files, &query);
        if !wrong.is_empty() {
            return Err(QueryError::Invalid(all_of(&wrong)));
        }
        Ok(Some(match files.first() {
            Some(file) => Self::File(file.replace('\\', "/")),
            None => Self::Services(query),
        }))
    }

    fn judge(files: &[&str], query: &ServiceQuery) -> Vec<String> {
        let mut wrong = Vec::new();
        for service in &query.services {
            if service.len() > LONGEST_SERVICE {
                let message = format!("length must be less than {LONGEST_SERVICE}");
                wrong.push(invalid("query", service, &message));
            } else if !service.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@".contains(c)) {
                wrong.push(invalid("query", service, "input contains unsupported characters"));
            }
        }
        if query.services.len() > MOST_SERVICES {
            let count = query.services.len();
            wrong.push(format!("query: Too many: {count}: must have at most {MOST_SERVICES} items"));
        }
        match (files.len(), query.services.len()) {
            (0, 0) => wrong.push("query: Required value: cannot be empty with options".to_owned()),
            (1.., 1..) => wrong.push(invalid("query", &files, "cannot specify a file and service")),
            (2.., 0) => wrong.push(invalid("query", &files, "cannot specify more than one file")),
            (1, 0) if query.has_options() => {
                wrong.push(invalid("query", &files, "cannot specify file with options"));
            }
            _ => {}
        }
        if let (Some(since), Some(until)) = (query.since, query.until)
            && since > until
        {
            wrong.push(invalid("untilTime", &until.to_string(), "must be after `sinceTime`"));
        }
        if let Some(boot) = query.boot.filter(|boot| *boot > 0) {
            wrong.push(format!("boot: Invalid value: {boot}: must be less than 1"));
        }
        if let Some(lines) = query.tail_lines.filter(|lines| !(0..=MOST_LINES).contains(lines)) {
            let message = format!("must be between 0 and {MOST_LINES}, inclusive");
            wrong.push(format!("tailLines: Invalid value: {lines}: {message}"));
        }
        wrong
    }
}

fn invalid(field: &str, value: &impl std::fmt::Debug, message: &str) -> String {
    format!("{field}: Invalid value: {value:?}: {message}")
}

fn all_of(wrong: &[String]) -> String {
    match wrong {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Option<NodeLogQuery>, QueryError> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        NodeLogQuery::parse(&pairs)
    }

    #[test]
    fn services_and_files_are_told_apart() {
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[("unknown", "x"), ("tailLines", "")]), Ok(None));
        assert_eq!(parse(&[("query", "/syslog")]), Ok(Some(NodeLogQuery::File("/syslog".into()))));
        assert_eq!(parse(&[("query", r"a\b.log")]), Ok(Some(NodeLogQuery::File("a/b.log".into()))));
        let query = ServiceQuery {
            services: vec!["kubewasm".into(), "cron".into()],
            since: "2026-01-02T00:00:00Z".parse().ok(),
            until: "2026-01-02T01:00:00Z".parse().ok(),
            tail_lines: Some(10),
            boot: Some(-1),
            pattern: Some("err.*".into()),
        };
        let pairs = [
            ("query", "kubewasm"),
            ("query", " "),
            ("query", "cron"),
            ("sinceTime", "2026-01-02T00:00:00Z"),
            ("untilTime", "2026-01-02T02:00:00+01:00"),
            ("tailLines", "10"),
            ("boot", "-1"),
            ("pattern", "err.*"),
        ];
        assert_eq!(parse(&pairs), Ok(Some(NodeLogQuery::Services(query))));
    }

    #[test]
    fn queries_are_refused_in_the_kubelets_order() {
        use QueryError::{Invalid, Undecodable};
        let table: &[(&[(&str, &str)], QueryError)] = &[
            (&[("query", " ")], Undecodable(r#"query: Invalid value: [" "]: may not be empty"#.into())),
            (
                &[("sinceTime", "now"), ("query", "a;b")],
                Undecodable(r#"sinceTime: Invalid value: "now": invalid time format"#.into()),
            ),
            (
                &[("boot", "x"), ("tailLines", "y")],
                Undecodable(
                    r#"[boot: Invalid value: "x": invalid digit found in string, tailLines: Invalid value: "y": invalid digit found in string]"#
                        .into(),
                ),
            ),
            (&[("tailLines", "1")], Invalid("query: Required value: cannot be empty with options".into())),
            (
                &[("query", "a b")],
                Invalid(r#"query: Invalid value: "a b": input contains unsupported characters"#.into()),
            ),
            (
                &[("query", "a"), ("query", "/b")],
                Invalid(r#"query: Invalid value: ["/b"]: cannot specify a file and service"#.into()),
            ),
            (
                &[("query", "/a"), ("query", "/b")],
                Invalid(r#"query: Invalid value: ["/a", "/b"]: cannot specify more than one file"#.into()),
            ),
            (
                &[("query", "/a"), ("boot", "0")],
                Invalid(r#"query: Invalid value: ["/a"]: cannot specify file with options"#.into()),
            ),
            (
                &[("query", "a"), ("boot", "1")],
                Invalid("boot: Invalid value: 1: must be less than 1".into()),
            ),
            (
                &[("query", "a"), ("tailLines", "-1")],
                Invalid("tailLines: Invalid value: -1: must be between 0 and 100000, inclusive".into()),
            ),
            (
                &[("query", "a"), ("sinceTime", "2026-01-02T00:00:01Z"), ("untilTime", "2026-01-02T00:00:00Z")],
                Invalid(r#"untilTime: Invalid value: "2026-01-02T00:00:00Z": must be after `sinceTime`"#.into()),
            ),
        ];
        for (pairs, expected) in table {
            assert_eq!(parse(pairs).as_ref(), Err(expected), "{pairs:?}");
        }
        let many: Vec<_> = ["a", "b", "c", "d", "e"].map(|service| ("query", service)).into();
        let expected = Invalid("query: Too many: 5: must have at most 4 items".into());
        assert_eq!(parse(&many), Err(expected));
        assert!(parse(&[("query", &"a".repeat(257))]).is_err());
    }
}
