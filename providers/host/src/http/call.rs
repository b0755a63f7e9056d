//! A request on its way through a guest.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::oneshot;
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView,
    p2::bindings::http::types::{ErrorCode, Scheme},
    p3,
};

use super::{
    gate::Place,
    instances::{Handler, HttpInstance},
    request_body::RequestBody,
    served::Served,
};
use crate::{
    cpu::TurnStart,
    outcome::{self, GuestPhase},
    state::GuestState,
};

/// What a guest has answered with: an answer, or an error, for people.
pub(super) type Answer = Result<Response<WasiBody>, String>;

/// Where the guest leaves its answer. It does so while it is polled, so that nobody has to be woken for it.
#[derive(Clone, Default)]
struct AnswerSlot(Arc<Mutex<Option<Answer>>>);

impl AnswerSlot {
    fn set(&self, answer: Answer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    fn take(&self) -> Option<Answer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A call of a guest, with its instance and the place that this has. It makes progress only where it is polled: by whoever
/// wants the answer, and then by whoever takes the body of that.
pub(super) struct Call {
    work: BoxFuture<'static, (Box<HttpInstance>, wasmtime::Result<()>)>,
    began: Arc<TurnStart>,
    answer: AnswerSlot,
    served: Arc<Served>,
    /// What is said of it in the log.
    name: String,
    is_over: bool,
    has_failed: bool,
    /// Given up after the instance: fields are dropped in their order.
    _place: Place,
}

/// What a call has come to.
pub(super) enum Progress {
    /// The guest has answered, and may go on.
    Answered(Answer),
    /// It has returned without an answer.
    Silent,
    /// It has failed, which the log has.
    Failed,
    /// There was no room for its instance.
    Overloaded,
}

/// Its instance has not begun with a request: another one may.
pub(super) struct NotBegun(pub(super) Box<Request<RequestBody>>);

/// What is said of a request in the log.
pub(super) fn name_of<B>(request: &Request<B>) -> String {
    format!("{} {}", request.method(), request.uri().path())
}

/// What is said in the log of a guest that has failed.
pub(super) fn failure(
    served: &Served,
    instance: &HttpInstance,
    phase: GuestPhase,
    error: wasmtime::Error,
) -> String {
    let refusal = instance.store.data().memory.refusal();
    let exit = outcome::of(phase, &Err(error), refusal, served.overflow());
    match exit.message {
        message if message.is_empty() => format!("the guest exited with {}", exit.code),
        message => message,
    }
}

impl Call {
    /// Calls an instance. Nothing happens before the first poll.
    pub(super) fn new(
        served: Arc<Served>,
        mut instance: Box<HttpInstance>,
        place: Place,
        request: Request<RequestBody>,
    ) -> Self {
        instance.take_request();
        let name = name_of(&request);
        let began = Arc::clone(&instance.began);
        let answer = AnswerSlot::default();
        let slot = answer.clone();
        let scheme = served.scheme();
        let work = Box::pin(async move {
            let result = match &instance.handler {
                Handler::P2(_) => call_p2(&mut instance, request, scheme, slot).await,
                Handler::P3(_) => call_p3(&mut instance, request, scheme, slot).await,
            };
            (instance, result)
        });
        Self { work, began, answer, served, name, is_over: false, has_failed: false, _place: place }
    }

    /// Goes on until the guest has answered.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        let over = self.poll_over(cx);
        match (self.answer.take(), over) {
            (Some(answer), _) => Poll::Ready(Progress::Answered(answer)),
            (None, Poll::Ready(())) => {
                Poll::Ready(if self.has_failed { Progress::Failed } else { Progress::Silent })
            }
            (None, Poll::Pending) => Poll::Pending,
        }
    }

    /// Goes on until the guest has returned.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_over {
            return Poll::Ready(());
        }
        self.began.begin();
        let (instance, result) = ready!(self.work.as_mut().poll(cx));
        self.is_over = true;
        // Nothing of it is left there: it is polled no more, and what it had is in `instance`.
        match result {
            Ok(()) => self.served.idle.keep(instance, &self.served.settings),
            Err(error) => {
                let message = failure(&self.served, &instance, GuestPhase::Run, error);
                self.has_failed = true;
                self.served.failed(&self.name, &message);
            }
        }
        Poll::Ready(())
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// It is over, and the log has why.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    pub(super) fn served(&self) -> &Arc<Served> {
        &self.served
    }

    /// What is said of it in the log.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

async fn call_p2(
    instance: &mut HttpInstance,
    request: Request<RequestBody>,
    scheme: http::uri::Scheme,
    slot: AnswerSlot,
) -> wasmtime::Result<()> {
    let Handler::P2(proxy) = &instance.handler else { return Ok(()) };
    let mut view = instance.store.data_mut().http();
    let scheme = if scheme == http::uri::Scheme::HTTPS { Scheme::Https } else { Scheme::Http };
    let request = view.new_incoming_request(scheme, request)?;
    let describe = |code: ErrorCode| format!("{code:?}");
    let out = view.new_response_outparam_from_callback(move |answer| slot.set(answer.map_err(describe)))?;
    proxy.wasi_http_incoming_handler().call_handle(&mut instance.store, request, out).await
}

/// The guest's tasks make progress while its store is run, which is until the answer's body is at its end.
async fn call_p3(
    instance: &mut HttpInstance,
    request: Request<RequestBody>,
    scheme: http::uri::Scheme,
    slot: AnswerSlot,
) -> wasmtime::Result<()> {
    let Handler::P3(service) = &instance.handler else { return Ok(()) };
    let state = instance.store.data_mut();
    let (mut request, received) = p3::Request::from_http(state.http().hooks, request);
    // What a client says of it, in HTTP/2 alone, is not known to be true.
    request.scheme = Some(scheme);
    let request = state.http().table.push(request)?;
    let answered = instance.store.run_concurrent(async move |accessor| -> wasmtime::Result<()> {
        let answer = service.wasi_http_handler().call_handle(accessor, request).await?;
        let answer = match answer {
            Ok(answer) => answer,
            Err(code) => {
                slot.set(Err(format!("{code:?}")));
                return Ok(());
            }
        };
        let answer = accessor.with(|mut store| {
            let answer = store.data_mut().http().table.delete(answer)?;
            answer.into_http_with_getter(&mut store, received, GuestState::http)
        })?;
        let (sent, is_sent) = oneshot::channel();
        slot.set(Ok(answer.map(|body| WasiBody::new(WithEnd::new(body, sent)))));
        // An error is an end, too.
        let _ = is_sent.await;
        Ok(())
    });
    answered.await?
}

/// A body, and somebody who waits for its end.
pub(super) struct WithEnd {
    body: WasiBody,
    _sent: oneshot::Sender<()>,
}

impl WithEnd {
    /// Whoever waits is told when this is dropped.
    pub(super) fn new(body: WasiBody, sent: oneshot::Sender<()>) -> Self {
        Self { body, _sent: sent }
    }
}

impl hyper::body::Body for WithEnd {
    type Data = bytes::Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
