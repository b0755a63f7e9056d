//! What a policy answers: one JSON document on its standard output.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// What it says of a request. Fields that it has besides are not looked at.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Verdict {
    /// Whether the request is to be let through.
    pub accepted: bool,
    /// Why not.
    pub message: Option<String>,
    /// A status of HTTP for the refusal.
    pub code: Option<u16>,
    /// The object as it is to be instead.
    pub mutated_object: Option<Value>,
    /// For the audit log.
    pub audit_annotations: Option<BTreeMap<String, String>>,
    /// For whoever sent the request.
    pub warnings: Option<Vec<String>>,
}

/// What it says of settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct SettingsVerdict {
    /// Whether it can work with them.
    pub valid: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl SettingsVerdict {
    /// Settings that are refused.
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self { valid: false, message: Some(message.into()) }
    }
}

/// How the program of a policy ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with 0.
    Done {
        /// All that it wrote to its standard output.
        stdout: Vec<u8>,
    },
    /// It exited otherwise or trapped, or what it said went beyond a bound.
    Failed {
        /// What it wrote to its standard error, or else what went wrong.
        reason: String,
    },
}

impl Ended {
    /// What it says of a request.
    ///
    /// # Errors
    /// The message of the refusal, when it says nothing that can be understood.
    pub fn verdict(&self) -> Result<Verdict, String> {
        match self {
            Self::Done { stdout } => serde_json::from_slice(stdout).map_err(|error| {
                format!("internal server error: Cannot deserialize policy validation response: {error}")
            }),
            Self::Failed { reason } => Err(reason.clone()),
        }
    }

    /// What it says of settings. Those of which it says nothing that can be understood are refused.
    #[must_use]
    pub fn settings(&self) -> SettingsVerdict {
        match self {
            Self::Done { stdout } => serde_json::from_slice(stdout).unwrap_or_else(|error| {
                SettingsVerdict::refused(format!("Cannot deserialize settings validation response: {error}"))
            }),
            Self::Failed { reason } => SettingsVerdict::refused(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn done(stdout: &str) -> Ended {
        Ended::Done { stdout: stdout.as_bytes().to_vec() }
    }

    #[test]
    fn a_verdict_is_one_document() {
        assert_eq!(
            done("{\"accepted\":true}\n").verdict().unwrap(),
            Verdict { accepted: true, ..Verdict::default() }
        );
        let whole = done(
            r#"{"accepted":false,"message":"no","code":400,"mutated_object":{"a":1},"warnings":["w"],
                "audit_annotations":{"k":"v"},"later":7}"#,
        );
        let expected = Verdict {
            accepted: false,
            message: Some("no".into()),
            code: Some(400),
            mutated_object: Some(json!({ "a": 1 })),
            audit_annotations: Some([("k".into(), "v".into())].into()),
            warnings: Some(vec!["w".into()]),
        };
        assert_eq!(whole.verdict().unwrap(), expected);
    }

    #[test]
    fn what_is_no_verdict_is_told() {
        let beginning = "internal server error: Cannot deserialize policy validation response: ";
        let deep = "[".repeat(100_000);
        for stdout in ["", "yes", "{}", "{\"accepted\":true} {}", "{\"accepted\":\"true\"}", &deep] {
            let message = done(stdout).verdict().unwrap_err();
            assert!(message.starts_with(beginning), "{message}");
        }
        let failed = Ended::Failed { reason: "boom".into() };
        assert_eq!(failed.verdict(), Err("boom".into()));
    }

    #[test]
    fn settings_are_refused_unless_they_are_said_to_be_valid() {
        assert_eq!(done("{\"valid\":true}").settings(), SettingsVerdict { valid: true, message: None });
        assert_eq!(done("{\"valid\":false,\"message\":\"no\"}").settings(), SettingsVerdict::refused("no"));
        let message = done("valid").settings().message.unwrap();
        assert!(message.starts_with("Cannot deserialize settings validation response: "), "{message}");
        assert_eq!(Ended::Failed { reason: "boom".into() }.settings(), SettingsVerdict::refused("boom"));
    }
}
