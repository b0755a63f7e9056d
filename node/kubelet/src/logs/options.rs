//! What a reader of logs asked for: the query of `/containerLogs`, which is
//! [PodLogOptions](https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#get-read-log-of-the-specified-pod).

use std::time::Duration;

use jiff::Timestamp;

/// Options of one reading of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReadOptions {
    /// Go on until the container stops.
    pub follow: bool,
    /// The attempt before this one.
    pub previous: bool,
    /// Put the time before every line.
    pub timestamps: bool,
    /// Leave out what was written before this time.
    pub since: Option<Timestamp>,
    /// Lines from the end to begin with.
    pub tail_lines: Option<u64>,
    /// Bytes after which the answer ends, be it within a line.
    pub limit_bytes: Option<u64>,
    /// `Stdout` or `Stderr` alone; asking for it is refused, after everything else was checked.
    pub stream: Option<String>,
}

/// Why a query is refused. The texts are those of the kubelet, which `kubectl` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A value is not of its type: 400.
    #[error("{{\"message\": \"Unable to decode query.\"}}")]
    Undecodable,
    /// Values that make no sense, or not together: 422.
    #[error("{{\"message\": \"Invalid request.\"}}")]
    Invalid,
}

impl LogReadOptions {
    /// Reads decoded query pairs; `now` is what `sinceSeconds` counts back from. Unknown names are
    /// ignored, and of a name given twice the first counts, except that the kubelet's old `tail` wins over
    /// `tailLines`.
    ///
    /// # Errors
    /// [`OptionsError`] in the kubelet's order: everything is decoded before anything is judged.
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(
        pairs: &[(K, V)],
        now: Timestamp,
    ) -> Result<Self, OptionsError> {
        let value =
            |name: &str| pairs.iter().find(|(key, _)| key.as_ref() == name).map(|(_, value)| value.as_ref());
        let flag =
            |name: &str| value(name).is_some_and(|text| text != "0" && !text.eq_ignore_ascii_case("false"));
        let number = |text: Option<&str>| {
            text.map(|text| text.parse::<i64>().map_err(|_| OptionsError::Undecodable)).transpose()
        };

        let tail_lines = match value("tail").filter(|text| !text.is_empty()) {
            Some("all") => None,
            Some(tail) => number(Some(tail))?,
            None => number(value("tailLines"))?,
        };
        let since_seconds = number(value("sinceSeconds"))?;
        let since_time = match value("sinceTime") {
            None | Some("" | "null") => None,
            Some(text) => Some(text.parse::<Timestamp>().map_err(|_| OptionsError::Undecodable)?),
        };
        let limit_bytes = number(value("limitBytes"))?;
        let stream = value("stream").map(str::to_owned);

        let tail_lines =
            tail_lines.map(|n| u64::try_from(n).map_err(|_| OptionsError::Invalid)).transpose()?;
        let limit_bytes = limit_bytes
            .map(|n| u64::try_from(n).ok().filter(|n| *n > 0).ok_or(OptionsError::Invalid))
            .transpose()?;
        let since = match (since_seconds, since_time) {
            (Some(_), Some(_)) => return Err(OptionsError::Invalid),
            (Some(seconds), None) => {
                let seconds = u64::try_from(seconds).ok().filter(|n| *n > 0).ok_or(OptionsError::Invalid)?;
                // Further back than time itself reaches is all of it.
                now.checked_sub(Duration::from_secs(seconds)).ok()
            }
            (None, since) => since,
        };
        if let Some(stream) = &stream {
            let one_of_them = ["Stdout", "Stderr"].contains(&stream.as_str());
            if !(stream == "All" || one_of_them) || (one_of_them && tail_lines.is_some()) {
                return Err(OptionsError::Invalid);
            }
        }

        Ok(Self {
            follow: flag("follow"),
            previous: flag("previous"),
            timestamps: flag("timestamps"),
            since,
            tail_lines,
            limit_bytes,
            stream: stream.filter(|stream| stream != "All"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &[(&str, &str)]) -> Result<LogReadOptions, OptionsError> {
        LogReadOptions::parse(query, "2026-01-02T00:01:00Z".parse().unwrap())
    }

    #[test]
    fn reads_what_kubectl_sends() {
        assert_eq!(parse(&[]), Ok(LogReadOptions::default()));
        let all = parse(&[
            ("follow", "true"),
            ("previous", "1"),
            ("timestamps", ""),
            ("tailLines", "0"),
            ("limitBytes", "10"),
            ("sinceSeconds", "60"),
            ("insecureSkipTLSVerifyBackend", "true"),
            ("stream", "All"),
        ]);
        let expected = LogReadOptions {
            follow: true,
            previous: true,
            timestamps: true,
            since: Some("2026-01-02T00:00:00Z".parse().unwrap()),
            tail_lines: Some(0),
            limit_bytes: Some(10),
            stream: None,
        };
        assert_eq!(all, Ok(expected));
        assert_eq!(parse(&[("follow", "FALSE"), ("previous", "0")]), Ok(LogReadOptions::default()));
        assert_eq!(parse(&[("tail", "all"), ("tailLines", "3")]).unwrap().tail_lines, None);
        assert_eq!(parse(&[("tail", "5"), ("tailLines", "3")]).unwrap().tail_lines, Some(5));
        assert_eq!(
            parse(&[("sinceTime", "2026-01-01T01:00:00+01:00")]).unwrap().since,
            "2026-01-01T00:00:00Z".parse().ok()
        );
        assert_eq!(parse(&[("sinceSeconds", "9223372036854775807")]).unwrap().since, None);
        assert_eq!(parse(&[("stream", "Stdout")]).unwrap().stream.as_deref(), Some("Stdout"));
    }

    #[test]
    fn refuses_in_the_kubelets_order() {
        use OptionsError::{Invalid, Undecodable};
        let table: &[(&[(&str, &str)], _)] = &[
            (&[("tailLines", "x")], Undecodable),
            (&[("tailLines", "-1"), ("limitBytes", "x")], Undecodable),
            (&[("sinceTime", "yesterday")], Undecodable),
            (&[("tailLines", "-1")], Invalid),
            (&[("limitBytes", "0")], Invalid),
            (&[("sinceSeconds", "0")], Invalid),
            (&[("sinceSeconds", "1"), ("sinceTime", "2026-01-01T00:00:00Z")], Invalid),
            (&[("stream", "Both")], Invalid),
            (&[("stream", "Stdout"), ("tailLines", "1")], Invalid),
        ];
        for (query, expected) in table {
            assert_eq!(parse(query), Err(*expected), "{query:?}");
        }
        assert_eq!(Undecodable.to_string(), r#"{"message": "Unable to decode query."}"#);
        assert_eq!(Invalid.to_string(), r#"{"message": "Invalid request."}"#);
    }
}
