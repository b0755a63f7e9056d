//! Policies that are called by waPC, which is how most that are published are called.
//!
//! ```text
//!   host: __guest_call(lengths) ─► guest ─► __guest_request: the operation and its payload, written to its memory
//!                                    │ ──► __host_call ─► __host_response_len, __host_response
//!                                    └ ──► __guest_response or __guest_error, and 1 or 0
//! ```
//!
//! [The protocol](https://wapc.io/docs/spec/), with Kubewarden's operations `validate` and `validate_settings`, whose payloads and
//! answers are the documents of programs. Each call has an instance of its own here, of which nothing stays.

use async_trait::async_trait;
use bytes::Bytes;
use kubewasm_host::{CalledInstance, GuestCall, GuestState, exited_with};
use wasmtime::{Caller, Instance, Linker, Store};

use crate::{
    answer::MOST_OUTPUT,
    evaluator::Call,
    host_call::{CallPlace, CallState},
    memory::{FourTexts, GuestTexts},
};

/// The module that a guest imports its functions from.
const MODULE: &str = "wapc";
/// The function that a guest exports.
const GUEST_CALL: &str = "__guest_call";
/// What prepares an instance, each where it is exported: the start of a command or of a library, and that of waPC.
const STARTS: [&str; 3] = ["_start", "_initialize", "wapc_init"];
/// Most bytes of an error of a guest that are kept, 16 KiB.
const LONGEST_ERROR: usize = 16 << 10;
/// Most bytes of a line that a guest writes to the console, 64 KiB.
const LONGEST_LINE: u32 = 64 << 10;

/// What guest and host have said to one another in one call.
#[derive(Debug, Default)]
pub(crate) struct WapcState {
    operation: &'static str,
    payload: Bytes,
    /// What the guest answers.
    response: Option<Bytes>,
    error: Option<String>,
    /// What its host has answered last.
    host_response: Bytes,
    host_error: Bytes,
}

impl WapcState {
    pub(crate) fn new(call: Call, payload: &[u8]) -> Self {
        let operation = match call {
            Call::Validate => "validate",
            Call::ValidateSettings => "validate_settings",
        };
        Self { operation, payload: Bytes::copy_from_slice(payload), ..Self::default() }
    }
}

/// Calls the guest for what its [`WapcState`] has; the answer is its response or its error.
pub(crate) struct WapcCall(pub(crate) CallPlace);

#[async_trait]
impl GuestCall<Result<Vec<u8>, String>> for WapcCall {
    async fn call(
        self,
        store: &mut Store<GuestState>,
        instance: CalledInstance,
    ) -> wasmtime::Result<Result<Vec<u8>, String>> {
        let CalledInstance::Core(instance) = instance else {
            wasmtime::bail!("a component is not called by waPC");
        };
        start(store, &instance).await?;
        let (operation, payload) = {
            let state = said(self.0, store.data_mut())?;
            (length(state.operation.len())?, length(state.payload.len())?)
        };
        let call = instance.get_typed_func::<(i32, i32), i32>(&mut *store, GUEST_CALL)?;
        let outcome = call.call_async(&mut *store, (operation, payload)).await?;
        let state = said(self.0, store.data_mut())?;
        Ok(match (outcome, state.response.take(), state.error.take()) {
            (1, Some(response), _) => Ok(response.into()),
            (1, None, _) => Err("the policy has said that it succeeded, and has not answered".to_owned()),
            (_, _, Some(error)) => Err(error),
            (code, _, None) => Err(format!("the policy's call came to {code}, and it said nothing")),
        })
    }
}

async fn start(store: &mut Store<GuestState>, instance: &Instance) -> wasmtime::Result<()> {
    for name in STARTS {
        let Ok(start) = instance.get_typed_func::<(), ()>(&mut *store, name) else { continue };
        match start.call_async(&mut *store, ()).await {
            // A command that has done all that it had to do at its start exits, and is called all the same.
            Err(error) if exited_with(&error) == Some(0) => {}
            other => other?,
        }
    }
    Ok(())
}

fn said(place: CallPlace, guest: &mut GuestState) -> wasmtime::Result<&mut WapcState> {
    match place.of(guest) {
        Some(CallState { wapc, .. }) => Ok(wapc),
        None => wasmtime::bail!("waPC is for policies"),
    }
}

fn length(bytes: usize) -> wasmtime::Result<i32> {
    i32::try_from(bytes).map_err(|_| wasmtime::format_err!("{bytes} bytes are more than waPC can count"))
}

/// Defines what guests import.
pub(crate) fn link(linker: &mut Linker<GuestState>, place: CallPlace) -> wasmtime::Result<()> {
    let texts = |function: &'static str| GuestTexts { function };
    linker.func_wrap(
        MODULE,
        "__guest_request",
        move |mut caller: Caller<'_, GuestState>, operation: i32, payload: i32| {
            let state = said(place, caller.data_mut())?;
            let (name, document) = (state.operation, state.payload.clone());
            let texts = texts("__guest_request");
            texts.write(&mut caller, "operation", operation, name.as_bytes())?;
            texts.write(&mut caller, "payload", payload, &document)
        },
    )?;
    linker.func_wrap(
        MODULE,
        "__guest_response",
        move |mut caller: Caller<'_, GuestState>, at: i32, length: i32| {
            let most = u32::try_from(MOST_OUTPUT).unwrap_or(u32::MAX);
            let response = texts("__guest_response").read(&mut caller, "answer", (at, length), most)?;
            said(place, caller.data_mut())?.response = Some(response);
            Ok(())
        },
    )?;
    linker.func_wrap(
        MODULE,
        "__guest_error",
        move |mut caller: Caller<'_, GuestState>, at: i32, length: i32| {
            let most = u32::try_from(MOST_OUTPUT).unwrap_or(u32::MAX);
            let error = texts("__guest_error").read(&mut caller, "error", (at, length), most)?;
            let kept = error.get(..LONGEST_ERROR).unwrap_or(&error);
            said(place, caller.data_mut())?.error = Some(String::from_utf8_lossy(kept).trim().to_owned());
            Ok(())
        },
    )?;
    linker.func_wrap(
        MODULE,
        "__console_log",
        move |mut caller: Caller<'_, GuestState>, at: i32, length: i32| {
            let line = texts("__console_log").read(&mut caller, "line", (at, length), LONGEST_LINE)?;
            tracing::debug!("policy: {}", String::from_utf8_lossy(&line).trim_end());
            Ok(())
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "__host_call",
        move |mut caller: Caller<'_, GuestState>, asked: FourTexts| {
            Box::new(async move { ask(&mut caller, place, asked).await })
        },
    )?;
    link_answers(linker, place)
}

/// Defines how a guest reads what its host has answered.
fn link_answers(linker: &mut Linker<GuestState>, place: CallPlace) -> wasmtime::Result<()> {
    type Kept = fn(&WapcState) -> &Bytes;
    let answers: [(&'static str, &str, Kept); 2] = [
        ("__host_response", "__host_response_len", |state| &state.host_response),
        ("__host_error", "__host_error_len", |state| &state.host_error),
    ];
    for (function, length_function, kept) in answers {
        linker.func_wrap(MODULE, length_function, move |mut caller: Caller<'_, GuestState>| {
            length(kept(said(place, caller.data_mut())?).len())
        })?;
        let texts = GuestTexts { function };
        linker.func_wrap(MODULE, function, move |mut caller: Caller<'_, GuestState>, at: i32| {
            let answer = kept(said(place, caller.data_mut())?).clone();
            texts.write(&mut caller, "answer", at, &answer)
        })?;
    }
    Ok(())
}

/// 1 for an answer, 0 for an error.
async fn ask(
    caller: &mut Caller<'_, GuestState>,
    place: CallPlace,
    texts: FourTexts,
) -> wasmtime::Result<i32> {
    let request = GuestTexts { function: "__host_call" }.request(caller, texts)?;
    let Some(CallState { granted, .. }) = place.of(caller.data_mut()) else {
        wasmtime::bail!("waPC is for policies");
    };
    let granted = granted.clone();
    let answered = granted.ask_by(&request.binding, request.capability(), request.payload.clone()).await;
    let state = said(place, caller.data_mut())?;
    let (code, response, error) = match answered {
        Ok(answer) => (1, Bytes::from(answer), Bytes::new()),
        Err(text) => (0, Bytes::new(), Bytes::from(text)),
    };
    (state.host_response, state.host_error) = (response, error);
    Ok(code)
}
