//! A policy or a group that is loaded: what it says of a request, and what becomes of that.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::registry::SharedCode;
use crate::{
    evaluator::{Call, Evaluator, Program},
    expression::Expression,
    request::{Question, Settings},
    response::{AdmissionResponse, Cause, Details, Status},
    spec::Mode,
    verdict::Ended,
};

/// One version of what is served under an id. It does not change.
#[derive(Debug)]
pub struct ServedPolicy {
    judge: Judge,
    mode: Mode,
}

#[derive(Debug)]
enum Judge {
    Policy {
        program: ServedProgram,
        allowed_to_mutate: bool,
        message: Option<String>,
    },
    Group(ServedGroup),
    /// There is none: what is asked for could not be loaded.
    Refusal {
        message: String,
    },
}

/// Policies whose verdicts make one.
#[derive(Debug)]
pub(super) struct ServedGroup {
    pub(super) members: BTreeMap<String, ServedProgram>,
    pub(super) expression: Expression,
    pub(super) message: String,
}

/// A program and what it is run with.
#[derive(Debug)]
pub(super) struct ServedProgram {
    pub(super) program: Program,
    pub(super) settings: Settings,
    /// Whoever loads the same module later finds it loaded.
    pub(super) _code: SharedCode,
}

/// Said of a member of a group that changes objects.
const NO_MUTATION: &str = "mutation is not allowed inside of policy group";

impl ServedPolicy {
    pub(super) fn policy(
        program: ServedProgram,
        mode: Mode,
        allowed_to_mutate: bool,
        message: Option<String>,
    ) -> Self {
        Self { judge: Judge::Policy { program, allowed_to_mutate, message }, mode }
    }

    pub(super) fn group(group: ServedGroup, mode: Mode) -> Self {
        Self { judge: Judge::Group(group), mode }
    }

    pub(super) fn refusal(message: &str) -> Self {
        Self { judge: Judge::Refusal { message: message.to_owned() }, mode: Mode::Protect }
    }

    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.judge, Judge::Refusal { .. })
    }

    /// What becomes of its verdicts.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What it says of a request, whatever becomes of that; at the deadline at the latest.
    pub async fn judge(
        &self,
        evaluator: &Evaluator,
        question: &Question,
        deadline: Option<Instant>,
    ) -> AdmissionResponse {
        match &self.judge {
            Judge::Policy { program, .. } => {
                question.response(&program.call(evaluator, question, deadline).await)
            }
            Judge::Group(group) => group.judge(evaluator, question, deadline).await,
            Judge::Refusal { message } => AdmissionResponse::fail(question.uid(), message),
        }
    }

    /// What an API server is told of a verdict of this policy: no change that is not allowed, another message where one is given,
    /// and all is well where it only watches.
    #[must_use]
    pub fn constrain(&self, id: &str, response: AdmissionResponse) -> AdmissionResponse {
        if self.mode == Mode::Monitor {
            return response.monitored();
        }
        match &self.judge {
            Judge::Policy { allowed_to_mutate, message, .. } => {
                let response = if *allowed_to_mutate { response } else { response.without_mutation(id) };
                match message {
                    Some(message) => response.with_message(message),
                    None => response,
                }
            }
            Judge::Group(_) | Judge::Refusal { .. } => response,
        }
    }
}

impl ServedProgram {
    async fn call(&self, evaluator: &Evaluator, question: &Question, deadline: Option<Instant>) -> Ended {
        let mut bounds = self.program.bounds();
        if let Some(deadline) = deadline {
            bounds.timeout = bounds.timeout.min(deadline.saturating_duration_since(Instant::now()));
        }
        if bounds.timeout == Duration::ZERO {
            return Ended::Failed { reason: "there was no time left to ask the policy".to_owned() };
        }
        let program = self.program.clone().bounded(bounds);
        evaluator.call(&program, Call::Validate, &question.document(&self.settings)).await
    }
}

impl ServedGroup {
    async fn judge(
        &self,
        evaluator: &Evaluator,
        question: &Question,
        deadline: Option<Instant>,
    ) -> AdmissionResponse {
        // Those that were asked; a member is asked once, and only when its verdict matters.
        let mut verdicts = BTreeMap::<&str, AdmissionResponse>::new();
        let allowed = loop {
            // Whoever came to no verdict may have come to either: the group accepts what it accepts both ways, so that no `!`
            // makes an acceptance of a failure.
            let decide = |failed: bool| {
                self.expression.decide(&|member| {
                    let verdict = verdicts.get(member)?;
                    Some(if verdict.is_failure() { failed } else { verdict.allowed })
                })
            };
            match (decide(false), decide(true)) {
                (Ok(true), Ok(true)) => break true,
                (Ok(false), _) | (_, Ok(false)) => break false,
                (Err(member), _) | (_, Err(member)) => {
                    let verdict = self.ask(member, evaluator, question, deadline).await;
                    verdicts.insert(member, verdict);
                }
            }
        };
        if allowed {
            return AdmissionResponse::allow(question.uid());
        }
        let refusals = verdicts.into_iter().filter(|(_, verdict)| !verdict.allowed);
        let causes = refusals.map(|(member, verdict)| Cause {
            field: Some(format!("spec.policies.{member}")),
            message: verdict.status.and_then(|status| status.message),
        });
        let status = Status {
            message: Some(self.message.clone()),
            details: Some(Details { causes: causes.collect() }),
            ..Status::default()
        };
        AdmissionResponse {
            uid: question.uid().to_owned(),
            status: Some(status),
            ..AdmissionResponse::default()
        }
    }

    async fn ask(
        &self,
        member: &str,
        evaluator: &Evaluator,
        question: &Question,
        deadline: Option<Instant>,
    ) -> AdmissionResponse {
        let Some(program) = self.members.get(member) else {
            // The expression was read with these members.
            return AdmissionResponse::fail(question.uid(), "there is no such policy");
        };
        let verdict = question.response(&program.call(evaluator, question, deadline).await);
        match verdict.patch {
            Some(_) => AdmissionResponse::fail(question.uid(), NO_MUTATION),
            None => verdict,
        }
    }
}
