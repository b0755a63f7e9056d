//! Requests to policies: what is asked of whom, and the answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Body;
use serde::Serialize;
use serde_json::{error::Category, json};
use tokio::time::Instant;

use super::{Origin, ServerState, metrics::Evaluation, timeout};
use crate::{
    request::{InvalidRequest, Question},
    response::AdmissionResponse,
    spec::Mode,
};

/// How long a request may take in all where nobody says: no API server waits for longer.
const LONGEST_REQUEST: Duration = Duration::from_secs(30);
/// Most characters of what a policy says that go to the log.
const LONGEST_LOGGED: usize = 256;

/// What goes back.
pub(super) type Answer = Response<Full<Bytes>>;

/// A request that is not judged.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    message: String,
    allow: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), allow: None }
    }

    /// There is something under the path, and not for the method.
    pub(super) fn method(allow: &'static str) -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self { status, message: format!("only {allow} is answered here"), allow: Some(allow) }
    }
}

impl From<InvalidRequest> for Refusal {
    fn from(error: InvalidRequest) -> Self {
        let status = match &error {
            InvalidRequest::Json(error) if matches!(error.classify(), Category::Syntax | Category::Eof) => {
                StatusCode::BAD_REQUEST
            }
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, message, allow } = refusal;
        let mut response = json(status, &json!({ "status": status.as_u16(), "message": message }));
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let (status, text) = match serde_json::to_vec(value) {
        Ok(text) => (status, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route<'a> {
    id: &'a str,
    origin: Origin,
    is_raw: bool,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let (what, id) = path.strip_prefix('/')?.split_once('/')?;
        let (origin, is_raw) = match what {
            "validate" => (Origin::Validate, false),
            "validate_raw" => (Origin::Validate, true),
            "audit" => (Origin::Audit, false),
            _ => return None,
        };
        Some(Self { id, origin, is_raw })
    }
}

/// The answer to a request.
pub(super) async fn answer<B>(state: Arc<ServerState>, request: Request<B>) -> Answer
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    judge(&state, request).await.unwrap_or_else(Into::into)
}

async fn judge<B>(state: &ServerState, request: Request<B>) -> Result<Answer, Refusal>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let route = Route::of(path)
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing under {path}")))?;
    if parts.method != Method::POST {
        return Err(Refusal::method("POST"));
    }
    let allowance = timeout::allowance(parts.uri.query());
    let deadline = begun + allowance.unwrap_or(LONGEST_REQUEST);
    let policies = &state.policies;
    let policy = match policies.get(route.id) {
        Some(policy) => Some(policy),
        None => policies.wait_for(route.id, deadline.min(begun + state.wait)).await,
    };
    let observed = state.observer.as_ref().map(|observer| observer.begin(route.id, &parts.headers));
    let policy = policy
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("there is no policy {}", route.id)))?;
    let body = state.bodies.read(&parts.headers, body, deadline).await?;
    let question =
        if route.is_raw { Question::raw_review(&body.bytes) } else { Question::review(&body.bytes) }?;

    let called = Instant::now();
    let response = policy.judge(policies.evaluator(), &question, Some(deadline)).await;
    let evaluation = Evaluation {
        policy: route.id,
        mode: policy.mode(),
        subject: question.subject(),
        origin: route.origin,
        response: &response,
        took: called.elapsed(),
    };
    state.metrics.record(&evaluation);
    log(&evaluation);
    if let Some(observed) = observed {
        observed.judged(&response);
    }
    let response = match route.origin {
        Origin::Validate => policy.constrain(route.id, response),
        // Nothing was changed, and nobody is kept from anything.
        Origin::Audit => response,
    };
    Ok(if route.is_raw {
        json(StatusCode::OK, &json!({ "response": response }))
    } else {
        json(StatusCode::OK, &response.review())
    })
}

/// What a policy has said, and never of what.
fn log(evaluation: &Evaluation<'_>) {
    let Evaluation { policy, mode, subject, origin, response, took } = evaluation;
    let AdmissionResponse { uid, allowed, patch, status, .. } = response;
    let said = status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or_default();
    let said: String = said.chars().take(LONGEST_LOGGED).collect();
    let operation = subject.operation.as_deref().unwrap_or_default();
    let (origin, mutated, took_ms) = (origin.name(), patch.is_some(), took.as_millis());
    match mode {
        Mode::Monitor if !allowed || mutated => {
            tracing::info!(%policy, %uid, origin, operation, allowed, mutated, %said, took_ms, "verdict, which does not hold: the policy only watches");
        }
        Mode::Protect | Mode::Monitor => {
            tracing::info!(%policy, %uid, origin, operation, allowed, mutated, %said, took_ms, "verdict");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_is_asked() {
        let route = |id, origin, is_raw| Some(Route { id, origin, is_raw });
        for (path, expected) in [
            ("/validate/p", route("p", Origin::Validate, false)),
            ("/validate_raw/p.q", route("p.q", Origin::Validate, true)),
            ("/audit/p", route("p", Origin::Audit, false)),
            ("/validate", None),
            ("/audit_raw/p", None),
            ("//validate/p", None),
            ("*", None),
        ] {
            assert_eq!(Route::of(path), expected, "{path}");
        }
    }

    #[test]
    fn what_is_no_json_and_what_is_no_request_are_told_apart() {
        for (text, status) in
            [("{", 400), ("x", 400), ("", 400), ("{}", 422), ("[1]", 422), (r#"{"request":{}}"#, 422)]
        {
            let refusal = Refusal::from(Question::review(text.as_bytes()).unwrap_err());
            assert_eq!(refusal.status.as_u16(), status, "{text}");
        }
    }
}
