//! What a check has found.

use std::fmt;

use serde::Serialize;

/// How it is with what was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As a node needs it.
    Ok,
    /// A node works, and does less than it could.
    Warning,
    /// A node does not work.
    Failed,
    /// It was not looked at.
    Skipped,
}

/// One check, and the way out where there is need of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was checked, in a word or two.
    pub(super) check: &'static str,
    pub(super) state: State,
    /// What is so.
    pub(super) message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, state: State::Ok, message: message.into(), remedy: None }
    }

    pub(super) fn warning(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, state: State::Warning, message: message.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn failed(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, state: State::Failed, message: message.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn skipped(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, state: State::Skipped, message: message.into(), remedy: None }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed => "FAILED",
            State::Skipped => "skipped",
        };
        write!(f, "{:<8} {}: {}", state, self.check, self.message)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "\n         → {remedy}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_way_out_another() {
        assert_eq!(Finding::ok("kernel", "Linux 6.18").to_string(), "ok       kernel: Linux 6.18");
        let failed = Finding::failed("ports", "10250 is taken", "choose another with --port");
        assert_eq!(
            failed.to_string(),
            "FAILED   ports: 10250 is taken\n         → choose another with --port"
        );
        assert_eq!(
            serde_json::to_value(&failed).unwrap_or_default(),
            serde_json::json!({
                "check": "ports", "state": "failed", "message": "10250 is taken", "remedy": "choose another with --port",
            })
        );
    }
}
