//! What one policy says, and what comes of it.

use kubewasm_host::inspect::FACTS_LIMIT;
use kubewasm_policy::{response::AdmissionResponse, spec::Mode};

use super::{
    file::{FailurePolicy, PolicyEntry},
    imports::ImportPattern,
    metrics::CountedVerdict,
};

/// Most bytes that are repeated of what a policy says: an Event holds as many.
const LONGEST_MESSAGE: usize = 768;

/// What a policy says of a pod or of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PolicyVerdict {
    Accepted,
    /// And why.
    Refused(String),
    /// It says nothing that can be understood, and why.
    Failed(String),
}

impl PolicyVerdict {
    /// By what its program says, or its group.
    pub(super) fn of(response: &AdmissionResponse) -> Self {
        if response.patch.is_some() {
            return Self::Refused("it would change it, and a policy of a node changes nothing".to_owned());
        }
        if response.allowed {
            return Self::Accepted;
        }
        let status = response.status.as_ref();
        let message = status.and_then(|status| status.message.as_deref());
        let mut text = message.unwrap_or("it does not say why").trim().to_owned();
        for cause in
            status.and_then(|status| status.details.as_ref()).iter().flat_map(|details| &details.causes)
        {
            text.push_str("; ");
            text.push_str(cause.message.as_deref().unwrap_or_default().trim());
        }
        match response.is_failure() {
            true => Self::Failed(bounded(&text)),
            false => Self::Refused(bounded(&text)),
        }
    }

    /// By what a module imports.
    pub(super) fn of_imports(imports: &[String], denied: &[ImportPattern]) -> Self {
        let is_denied = |import: &&String| denied.iter().any(|pattern| pattern.matches(import));
        match imports.iter().find(is_denied) {
            Some(import) => Self::Refused(format!("it imports {}", bounded(import))),
            None => Self::Accepted,
        }
    }

    /// Where not all imports of a module are known, no policy can judge it.
    pub(super) fn of_unknown_imports(imports: &[String]) -> Option<Self> {
        let message =
            || format!("the module imports {FACTS_LIMIT} names or more, and not all of them are known");
        (imports.len() >= FACTS_LIMIT).then(|| Self::Failed(message()))
    }

    pub(super) fn counted(&self) -> CountedVerdict {
        match self {
            Self::Accepted => CountedVerdict::Accepted,
            Self::Refused(_) => CountedVerdict::Refused,
            Self::Failed(_) => CountedVerdict::Failed,
        }
    }

    /// What is said to people where the verdict holds; none where what was judged is let through. `what` was judged.
    pub(super) fn refusal(&self, policy: &str, entry: &PolicyEntry, what: &str) -> Option<String> {
        let text = match self {
            Self::Accepted => return None,
            Self::Refused(why) => {
                let why = entry.message.as_deref().map_or_else(|| why.clone(), bounded);
                format!("policy \"{policy}\" refused {what}: {why}")
            }
            Self::Failed(reason) => {
                format!(
                    "policy \"{policy}\" came to no verdict on {what}, which is refused for that: {reason}"
                )
            }
        };
        let lets_through = match self {
            Self::Failed(_) if entry.failure_policy == FailurePolicy::Ignore => "failurePolicy is Ignore",
            _ if entry.mode == Mode::Monitor => "policyMode is monitor",
            // The policy's own message is for whoever looks for it.
            Self::Refused(why) if entry.message.is_some() => {
                tracing::info!(policy, why, "{text}");
                return Some(text);
            }
            _ => return Some(text),
        };
        tracing::warn!(policy, "let through, because {lets_through}: {text}");
        None
    }
}

/// The beginning of a text, and that it went on.
fn bounded(text: &str) -> String {
    let text = text.trim();
    let end = text.floor_char_boundary(LONGEST_MESSAGE);
    match text.get(..end).filter(|beginning| beginning.len() < text.len()) {
        Some(beginning) => format!("{beginning}…"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use kubewasm_policy::{
        request::Question,
        response::{Cause, Details, Status},
        verdict::Ended,
    };

    use super::*;
    use crate::admission::file::JudgedBy;

    fn entry(mode: Mode, failure_policy: FailurePolicy) -> PolicyEntry {
        PolicyEntry {
            by: JudgedBy::Imports(Vec::new()),
            judges_pods: true,
            judges_modules: false,
            mode,
            failure_policy,
            message: None,
        }
    }

    #[test]
    fn a_verdict_is_what_the_policy_says() {
        let question = Question::review(br#"{"uid":"u","object":{"a":1}}"#).unwrap();
        let of = |ended: Ended| PolicyVerdict::of(&question.response(&ended));
        let done = |stdout: &str| of(Ended::Done { stdout: stdout.as_bytes().to_vec() });
        let refused = |text: &str| PolicyVerdict::Refused(text.to_owned());
        for (stdout, expected) in [
            (r#"{"accepted":true}"#, PolicyVerdict::Accepted),
            (r#"{"accepted":true,"mutated_object":{"a":1}}"#, PolicyVerdict::Accepted),
            (
                r#"{"accepted":true,"mutated_object":{"a":2}}"#,
                refused("it would change it, and a policy of a node changes nothing"),
            ),
            (r#"{"accepted":false,"message":"no","code":400}"#, refused("no")),
            (r#"{"accepted":false}"#, refused("it does not say why")),
        ] {
            assert_eq!(done(stdout), expected, "{stdout}");
        }
        let failed = of(Ended::Failed { reason: "boom".into() });
        assert_eq!(failed, PolicyVerdict::Failed("boom".into()));
        assert!(matches!(done("yes"), PolicyVerdict::Failed(_)));
        let long = format!(r#"{{"accepted":false,"message":"{}"}}"#, "ä".repeat(5000));
        let PolicyVerdict::Refused(why) = done(&long) else { panic!("it was refused") };
        assert!(why.len() < 1000 && why.ends_with("ä…"), "{why}");
        let causes = ["a", "b"].map(|text| Cause { field: None, message: Some(text.into()) }).to_vec();
        let status = Status {
            message: Some("neither".into()),
            details: Some(Details { causes }),
            ..Status::default()
        };
        let group = AdmissionResponse { status: Some(status), ..AdmissionResponse::default() };
        assert_eq!(PolicyVerdict::of(&group), refused("neither; a; b"));
    }

    #[test]
    fn what_fails_is_refused_unless_the_file_says_otherwise() {
        let (refused, failed) = (PolicyVerdict::Refused("no".into()), PolicyVerdict::Failed("boom".into()));
        let no = Some("policy \"p\" refused the pod: no".to_owned());
        let boom =
            Some("policy \"p\" came to no verdict on the pod, which is refused for that: boom".to_owned());
        for (verdict, mode, failure_policy, expected) in [
            (&PolicyVerdict::Accepted, Mode::Protect, FailurePolicy::Fail, &None),
            (&refused, Mode::Protect, FailurePolicy::Fail, &no),
            (&refused, Mode::Protect, FailurePolicy::Ignore, &no),
            (&refused, Mode::Monitor, FailurePolicy::Fail, &None),
            (&failed, Mode::Protect, FailurePolicy::Fail, &boom),
            (&failed, Mode::Protect, FailurePolicy::Ignore, &None),
            (&failed, Mode::Monitor, FailurePolicy::Fail, &None),
        ] {
            let found = verdict.refusal("p", &entry(mode, failure_policy), "the pod");
            assert_eq!(&found, expected, "{verdict:?} {mode:?} {failure_policy:?}");
        }
        let told =
            PolicyEntry { message: Some("ask us".into()), ..entry(Mode::Protect, FailurePolicy::Fail) };
        let text = refused.refusal("p", &told, "the pod").unwrap();
        assert_eq!(text, "policy \"p\" refused the pod: ask us");
        assert!(failed.refusal("p", &told, "the pod").unwrap().ends_with("boom"));
    }

    #[test]
    fn modules_are_judged_by_their_imports() {
        let denied = ["wasi:sockets/*".parse().unwrap()];
        let imports = ["wasi:cli/stdin@0.2.0".to_owned(), "wasi:sockets/tcp@0.2.0".to_owned()];
        let refused = PolicyVerdict::Refused("it imports wasi:sockets/tcp@0.2.0".into());
        assert_eq!(PolicyVerdict::of_imports(&imports, &denied), refused);
        assert_eq!(PolicyVerdict::of_imports(&imports[..1], &denied), PolicyVerdict::Accepted);
        assert_eq!(PolicyVerdict::of_unknown_imports(&imports), None);
        let many: Vec<_> = (0..FACTS_LIMIT).map(|n| format!("i{n}")).collect();
        assert!(matches!(PolicyVerdict::of_unknown_imports(&many), Some(PolicyVerdict::Failed(_))));
    }
}
