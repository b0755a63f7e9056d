//! What becomes of a request.

use std::{convert::Infallible, future::poll_fn, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use wasmtime_wasi_http::WasiBody;

use super::{
    access::Requested,
    answering::{Answering, NoRoom, Rest},
    call::{NotBegun, Progress},
    check,
    connection::ConnectionState,
    instances::NoInstance,
    request_body::RequestBody,
    response_body::{Record, ResponseBody},
    served::Served,
    settings::AccessLog,
    trace,
};

/// After how many seconds who was sent away may come again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Answers a request.
pub(super) async fn answer(
    served: Arc<Served>,
    connection: Arc<ConnectionState>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let began = std::time::Instant::now();
    let busy = connection.begin_request();
    let _in_flight = served.metrics.in_flight.one_more();
    let (mut parts, body) = request.into_parts();
    trace::join(&mut parts.headers);
    let version = parts.version;
    let requested = (served.settings.access_log != AccessLog::Off)
        .then(|| Requested::new(&parts, connection.peer(), jiff::Timestamp::now()));
    let mut answer = match check::request(&parts, &served.settings) {
        Ok(()) => pass_on(&served, parts, body).await,
        Err(refusal) => {
            let mut answer = of_our_own(refusal.status, refusal.reason);
            if refusal.closes {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    };
    if busy.is_last() || served.drains() {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if version == Version::HTTP_2 {
        // It has no such header, and says it otherwise.
        answer.headers_mut().remove(header::CONNECTION);
    }
    let status = answer.status();
    let record = Record { served, requested, began, status, _in_flight, _busy: busy };
    Ok(answer.map(|body| body.recorded(record)))
}

/// Has a guest answer.
async fn pass_on(served: &Arc<Served>, mut parts: Parts, body: Incoming) -> Response<ResponseBody> {
    let until = Instant::now() + served.settings.request_timeout;
    let room = match served.room(until).await {
        Ok(room) => room,
        Err(reason) => return no_room(served, reason),
    };
    if parts.uri.authority().is_none() && !parts.headers.contains_key(header::HOST) {
        // Only HTTP/1.0 leaves it out; a guest is told some name.
        parts.headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    let is_head = parts.method == Method::HEAD;
    let is_waiting = parts.headers.contains_key(header::EXPECT);
    let (mut body, fault) = RequestBody::new(body, served.settings.max_body, served.settings.body_timeout);
    if is_waiting {
        body.ask().await;
    }
    let request = Request::from_parts(parts, body);
    let mut call = Answering::new(Arc::clone(served), room, until, request);
    let answered = loop {
        let answered = poll_fn(|cx| {
            let progress = call.poll_answer(cx);
            // What the guest makes of half a body is not asked for.
            match fault.status() {
                Some(status) => Poll::Ready(Ok(Err(status))),
                None => progress.map(|progress| progress.map(Ok)),
            }
        });
        match timeout_at(until, answered).await {
            Ok(Ok(answered)) => break answered,
            Ok(Err(NotBegun(request))) => {
                // With its seat, and what is held for it, before another one is looked for.
                drop(call);
                match served.room(until).await {
                    Ok(room) => call = Answering::new(Arc::clone(served), room, until, *request),
                    Err(reason) => return no_room(served, reason),
                }
            }
            Err(_) => {
                call.time_is_up();
                return timed_out(served, call.name(), "the guest did not answer in time");
            }
        }
    };
    match answered {
        Ok(Progress::Overloaded) => overloaded(served),
        Err(status) => {
            let mut answer = of_our_own(status, "");
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            answer
        }
        Ok(Progress::Failed) => of_our_own(StatusCode::INTERNAL_SERVER_ERROR, ""),
        Ok(Progress::Silent) => failed(served, &call, "the guest returned without an answer"),
        Ok(Progress::Answered(Err(error))) => {
            const REASON: &str = "the guest answered with an error";
            served.metrics.failed();
            served.log.warn(&format!("{}: {REASON}: {error}", call.name()));
            // What else is in the error is the guest's own text.
            served.tell_of_failure(REASON);
            served.finish(Rest(call));
            of_our_own(StatusCode::INTERNAL_SERVER_ERROR, "")
        }
        Ok(Progress::Answered(Ok(answer))) if answer.status().is_informational() => {
            failed(served, &call, &format!("the guest answered with the status {}", answer.status()))
        }
        Ok(Progress::Answered(Ok(answer))) => of_guest(call, answer, is_head),
    }
}

fn of_guest(call: Answering, answer: Response<WasiBody>, is_head: bool) -> Response<ResponseBody> {
    let has_body = ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&answer.status());
    let expected = check::length(answer.headers());
    answer.map(|body| ResponseBody::of_guest(body, call, expected, has_body && !is_head))
}

/// An answer that no guest has made.
fn of_our_own(status: StatusCode, reason: &str) -> Response<ResponseBody> {
    let name = status.canonical_reason().unwrap_or_default();
    let text = match reason {
        "" => format!("{} {name}\n", status.as_u16()),
        reason => format!("{} {name}: {reason}\n", status.as_u16()),
    };
    let mut answer = Response::new(ResponseBody::own(Bytes::from(text)));
    *answer.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, text);
    answer
}

fn no_room(served: &Served, reason: NoRoom) -> Response<ResponseBody> {
    match reason {
        NoRoom::NoInstance(NoInstance::Overloaded) => overloaded(served),
        NoRoom::NoInstance(NoInstance::Failed(reason)) => {
            served.failed("no instance for a request", &reason);
            of_our_own(StatusCode::INTERNAL_SERVER_ERROR, "")
        }
        NoRoom::TooLate => timed_out(served, "no instance for a request", "it was not ready in time"),
    }
}

fn overloaded(served: &Served) -> Response<ResponseBody> {
    served.metrics.rejected();
    let mut answer = of_our_own(StatusCode::SERVICE_UNAVAILABLE, "");
    answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    answer
}

fn timed_out(served: &Served, request: &str, reason: &str) -> Response<ResponseBody> {
    served.timed_out(request, reason);
    of_our_own(StatusCode::GATEWAY_TIMEOUT, "")
}

fn failed(served: &Served, call: &Answering, reason: &str) -> Response<ResponseBody> {
    served.failed(call.name(), reason);
    of_our_own(StatusCode::INTERNAL_SERVER_ERROR, "")
}
