//! Has the guest of an instance answer several requests at a time.
//!
//! ```text
//!   [run] an instance, kept or new ─► [drive]: polls the store, ends it ─► kept, or dropped
//!                                        └─► [serve], within the store's loop: takes requests, calls the guest
//! ```
//!
//! What is within the store's loop is not asked while the guest computes or holds the store in a call of the host
//! (<https://github.com/bytecodealliance/wasmtime/issues/11869>, <https://github.com/bytecodealliance/wasmtime/issues/11870>).
//! Whatever has to be seen then is seen from without: by the requests themselves, which have their own time, and by [`drive`].

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use http::uri::Scheme;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep, timeout_at},
};
use wasmtime::{
    AsContextMut as _, UpdateDeadline,
    component::{Accessor, GuestTaskId, Resource, TypedFuncCallConcurrent},
};
use wasmtime_wasi_http::{WasiBody, WasiHttpView as _, p3};

use super::{
    call::{self, WithEnd},
    gate::Place,
    instances::{Handler, HttpInstance, InTurn, NoInstance},
    occupancy::CallEnd,
    request_body::RequestBody,
    served::Served,
    shared::{Requests, SharedInstance},
};
use crate::{outcome::GuestPhase, state::GuestState};

/// Names of requests that one line of the log has.
const NAMES: usize = 3;

/// Ends an instance for those who are in it, when its driver ends: also where that is killed, or never runs.
pub(super) struct Ending {
    pub(super) served: Arc<Served>,
    pub(super) shared: Arc<SharedInstance>,
    /// Given back when nobody is in the instance any more.
    pub(super) place: Option<Place>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.served.shared.remove(&self.shared);
        self.shared.with(|requests| requests.close(|| CallEnd::Failed));
        self.place = None;
        self.served.shared.tell();
    }
}

/// Says that an instance has ended before it does: what is torn off with it looks like an end.
struct Torn(Arc<SharedInstance>);

impl Drop for Torn {
    fn drop(&mut self) {
        self.0.with(|requests| requests.close(|| CallEnd::Failed));
    }
}

/// Makes an instance, or takes one that is kept, and has it answer until nobody wants anything of it.
/// There is time until then to make it.
pub(super) async fn run(ending: Ending, until: Instant) {
    let Ending { served, shared, place } = &ending;
    let Some(place) = place else { return };
    let making = until_given_up(shared, served.instance(place, until));
    let Ok(Some(made)) = timeout_at(until, making).await else { return };
    let mut instance = match made {
        Ok(instance) => instance,
        Err(NoInstance::Overloaded) => {
            shared.with(|requests| requests.close_all(|| CallEnd::Overloaded));
            return;
        }
        Err(NoInstance::Failed(reason)) => {
            served.failed("no instance for a request", &reason);
            shared.with(|requests| requests.close_all(|| CallEnd::Failed));
            return;
        }
    };
    // Dropped before the instance, also where the driver is killed.
    let _torn = Torn(Arc::clone(shared));
    let may_be = instance.requests_left(&served.settings);
    shared.with(|requests| requests.made(may_be, instance.good_until(&served.settings)));
    let end = drive(&mut instance, shared, served).await;
    instance.take_requests(shared.with(|requests| requests.count()));
    match end {
        DriveEnd::Returned(Ok(())) => {
            if shared.with(|requests| requests.is_good()) {
                served.idle.keep(instance, &served.settings);
            }
        }
        DriveEnd::Returned(Err(error)) => {
            let culprit = root_task(&mut instance.store.as_context_mut());
            let names = shared.with(|requests| listed(&requests.names(culprit)));
            let message = call::failure(served, &instance, GuestPhase::Run, error);
            served.failed(&names, &message);
        }
        DriveEnd::Lingers => served.log.warn(
            "an instance was ended: its guest went on after its last answer for longer than request-timeout",
        ),
        DriveEnd::GivenUp => {
            let others = shared.with(|requests| requests.wanted());
            if others > 0 {
                served.log.warn(&format!(
                    "requests that failed with their instance, which was ended because the guest computed without end: {others}"
                ));
            }
        }
    }
}

/// Some requests, for the log.
fn listed(names: &[&str]) -> String {
    match names {
        [] => "after its requests".to_owned(),
        names if names.len() <= NAMES => names.join(", "),
        names => format!("{} and {} more", names[..NAMES].join(", "), names.len() - NAMES),
    }
}

/// `None` where nobody wants it any more.
async fn until_given_up<F: Future>(shared: &SharedInstance, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        shared.driver.register(cx.waker());
        if shared.with(|requests| requests.is_to_end()) {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Why an instance is driven no more.
enum DriveEnd {
    /// No request is in it, and the guest has nothing more to do; or it failed.
    Returned(wasmtime::Result<()>),
    /// What it does is of no use to anybody.
    GivenUp,
    /// Nobody has wanted anything of it for the time that a request has, and it goes on.
    Lingers,
}

/// Polls the store as long as there is a request in it.
async fn drive(instance: &mut HttpInstance, shared: &Arc<SharedInstance>, served: &Served) -> DriveEnd {
    let HttpInstance { store, handler, began, .. } = instance;
    let Handler::P3(service) = handler else { return DriveEnd::GivenUp };
    let (of_tick, at_tick) = (Arc::clone(shared), Arc::clone(began));
    store.epoch_deadline_callback(move |mut context| {
        let deadline = at_tick.at_tick();
        if let UpdateDeadline::Yield(_) = deadline {
            let task = root_task(&mut context);
            of_tick.with(|requests| requests.has_yielded(task));
        }
        Ok(deadline)
    });
    let work = store.run_concurrent(async |accessor| serve(accessor, service, shared, served).await);
    let mut work = pin!(work);
    // What the guest does when nobody waits for it.
    let mut rest: Option<Pin<Box<Sleep>>> = None;
    let driven = poll_fn(|cx: &mut Context<'_>| {
        shared.driver.register(cx.waker());
        if shared.with(|requests| requests.is_to_end()) {
            return Poll::Ready(DriveEnd::GivenUp);
        }
        shared.with(Requests::before_poll);
        if let Poll::Ready(result) = work.as_mut().poll(cx) {
            return Poll::Ready(DriveEnd::Returned(result.and_then(|result| result)));
        }
        let (is_to_end, is_wanted) = shared.with(|requests| {
            requests.after_poll();
            (requests.is_to_end(), requests.wanted() > 0)
        });
        if is_to_end {
            return Poll::Ready(DriveEnd::GivenUp);
        }
        if is_wanted {
            rest = None;
        } else {
            let rest = rest.get_or_insert_with(|| Box::pin(sleep(served.settings.request_timeout)));
            if rest.as_mut().poll(cx).is_ready() {
                return Poll::Ready(DriveEnd::Lingers);
            }
        }
        Poll::Pending
    });
    InTurn { began: Arc::clone(began), work: Box::pin(driven) }.await
}

/// For which call of ours the guest computes.
fn root_task(context: &mut wasmtime::StoreContextMut<'_, GuestState>) -> Option<GuestTaskId> {
    context.async_call_stack().ok()?.last()
}

/// Takes requests and calls the guest with them, until there are none and the guest has nothing more to do.
async fn serve(
    accessor: &Accessor<GuestState>,
    service: &p3::bindings::Service,
    shared: &SharedInstance,
    served: &Served,
) -> wasmtime::Result<()> {
    let most_memory = served.settings.max_memory;
    let handle = *service.wasi_http_handler().func_handle().func();
    let mut calls = FuturesUnordered::new();
    poll_fn(|cx| {
        shared.with(Requests::is_asked);
        while let Poll::Ready(Some(called)) = calls.poll_next_unpin(cx) {
            if let Err(error) = called {
                return Poll::Ready(Err(error));
            }
        }
        let has_backpressure = accessor.poll_ready_for_concurrent_call(handle, cx).is_pending();
        let is_grown =
            most_memory > 0 && accessor.with(|mut access| access.data_mut().memory.taken()) > most_memory;
        let next = shared.with(|requests| {
            requests.set_backpressure(has_backpressure);
            if is_grown {
                requests.set_grown();
            }
            requests.begin()
        });
        // One at a time, so that the guest has a say before the next: with it, the store's loop has work, and asks again.
        if let Some((id, request)) = next {
            match begin(accessor, service, shared, id, served.scheme(), *request) {
                Ok(begun) => calls.push(finish(accessor, service, shared, id, begun)),
                Err(error) => return Poll::Ready(Err(error)),
            }
            return Poll::Pending;
        }
        let is_idle = calls.is_empty() && accessor.poll_no_interesting_tasks(cx).is_ready();
        if is_idle && shared.with(|requests| requests.close_if_empty()) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    })
    .await
}

/// A call that has begun, and who is told that its request was received.
struct Begun {
    call: TypedFuncCallConcurrent<GuestState, (Resource<p3::Request>,), (HandleResult,)>,
    received: BoxFuture<'static, Result<(), wasmtime_wasi_http::Error>>,
}

/// What `wasi:http/handler.handle` returns.
type HandleResult = Result<Resource<p3::Response>, p3::bindings::http::types::ErrorCode>;

/// Has the guest called, as soon as its store goes on.
fn begin(
    accessor: &Accessor<GuestState>,
    service: &p3::bindings::Service,
    shared: &SharedInstance,
    id: u64,
    scheme: Scheme,
    request: http::Request<RequestBody>,
) -> wasmtime::Result<Begun> {
    accessor.with(|mut access| {
        let (mut request, received) = p3::Request::from_http(access.data_mut().http().hooks, request);
        request.scheme = Some(scheme);
        let received: BoxFuture<'static, _> = Box::pin(received);
        let request = access.data_mut().http().table.push(request)?;
        let handler = service.wasi_http_handler().func_handle();
        let call = handler.start_call_concurrent(access.as_context_mut(), (request,))?;
        shared.with(|requests| requests.begun(id, call.task()));
        Ok(Begun { call, received })
    })
}

/// Waits for the answer, and for its end.
async fn finish(
    accessor: &Accessor<GuestState>,
    service: &p3::bindings::Service,
    shared: &SharedInstance,
    id: u64,
    begun: Begun,
) -> wasmtime::Result<()> {
    let Begun { call, received } = begun;
    let handler = service.wasi_http_handler().func_handle();
    let (answer,) = handler.finish_call_concurrent(accessor, call).await?;
    match answer {
        Ok(answer) => {
            let answer = accessor.with(|mut access| {
                let answer = access.data_mut().http().table.delete(answer)?;
                answer.into_http_with_getter(&mut access, received, GuestState::http)
            })?;
            let (body_end, is_sent) = oneshot::channel();
            let answer = answer.map(|body| WasiBody::new(WithEnd::new(body, body_end)));
            drop(shared.with(|requests| requests.answered(id, Ok(answer))));
            // An error is an end, too.
            let _ = is_sent.await;
        }
        Err(code) => {
            drop(shared.with(|requests| requests.answered(id, Err(format!("{code:?}")))));
        }
    }
    shared.with(|requests| requests.end(id, CallEnd::Returned));
    Ok(())
}
