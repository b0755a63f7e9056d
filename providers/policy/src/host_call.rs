//! What policies ask their host for: the import `host.call`.
//!
//! A policy hands over four texts in its memory, and finds the answer at the end of its standard input. Everything that it hands over
//! is checked: the memory it exports, both ends of each text, and their lengths.

use std::{fmt, sync::OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use kubewasm_host::{GuestState, Plugin, PluginState, Setup};
use wasmtime::{Caller, Linker, component};

use crate::{
    asked::Granted,
    capabilities::Capability,
    input::Document,
    memory::{FourTexts, GuestTexts},
    typed,
    wapc::{self, WapcState},
};

/// The modules that the function is imported from: that of programs, and that of what a JavaScript builder leaves.
const MODULES: [&str; 2] = ["host", "kubewarden:javy/host"];
/// Most bytes of what is asked, 4 MiB.
pub(crate) const LONGEST_PAYLOAD: u32 = 4 << 20;
/// Most bytes of an answer, 16 MiB; it goes into the policy's input, which is not its memory.
pub const LONGEST_ANSWER: usize = 16 << 20;

/// Most bytes that a policy leaves unread, 48 MiB: its document, and answers that it has asked for.
const MOST_UNREAD: usize = 48 << 20;

/// Answers what policies ask for.
#[async_trait]
pub trait HostCapabilities: fmt::Debug + Send + Sync + 'static {
    /// Answers one call. What it may not ask for was sorted out before.
    ///
    /// # Errors
    /// A text for the policy.
    async fn call(&self, capability: Capability<'_>, payload: Bytes) -> Result<Vec<u8>, String>;
}

/// What one call of a policy has to do with its host.
#[derive(Debug)]
pub(crate) struct CallState {
    pub(crate) granted: Granted,
    /// Standard input, of a program.
    pub(crate) input: Document,
    /// What was said by waPC.
    pub(crate) wapc: WapcState,
}

/// Where the state of a call is; there is none of guests that are no policies.
pub(crate) type CallPlace = PluginState<Option<CallState>>;

/// The imports, as an interface of the WASI host.
#[derive(Debug, Default)]
pub(crate) struct HostCall {
    /// The same for all engines of a host.
    place: OnceLock<CallPlace>,
}

impl HostCall {
    /// Gives a guest of the host what its calls are answered with.
    pub(crate) fn give(&self, guest: &mut GuestState, state: CallState) {
        // It is linked when the host is made, and there are no guests before.
        if let Some(place) = self.place.get() {
            *place.of(guest) = Some(state);
        }
    }

    /// Where guests of the host have their state.
    pub(crate) fn place(&self) -> Option<CallPlace> {
        self.place.get().copied()
    }
}

impl Plugin for HostCall {
    /// There is none before [`HostCall::give`].
    type State = Option<CallState>;

    fn link(&self, linker: &mut component::Linker<GuestState>, state: CallPlace) -> wasmtime::Result<()> {
        typed::link(linker, state)
    }

    fn link_core(&self, linker: &mut Linker<GuestState>, state: CallPlace) -> wasmtime::Result<()> {
        self.place.get_or_init(|| state);
        for module in MODULES {
            linker.func_wrap_async(
                module,
                "call",
                move |mut caller: Caller<'_, GuestState>, texts: FourTexts| {
                    Box::new(async move { call(&mut caller, state, texts).await })
                },
            )?;
        }
        wapc::link(linker, state)
    }

    fn state(&self, _: &Setup<'_>) -> Self::State {
        None
    }
}

/// 0 for an answer, 1 for an error; both texts are in the input then.
async fn call(
    caller: &mut Caller<'_, GuestState>,
    state: CallPlace,
    texts: FourTexts,
) -> wasmtime::Result<i32> {
    let request = GuestTexts { function: "host.call" }.request(caller, texts)?;
    let Some(CallState { granted, input, .. }) = state.of(caller.data_mut()) else {
        wasmtime::bail!("host.call is for policies");
    };
    let (granted, input) = (granted.clone(), input.clone());
    if input.unread() > MOST_UNREAD {
        wasmtime::bail!("host.call: the policy leaves more than {MOST_UNREAD} bytes of its input unread");
    }
    let answered = granted.ask_by(&request.binding, request.capability(), request.payload.clone()).await;
    Ok(match answered {
        Ok(answer) => {
            input.append(&answer);
            0
        }
        Err(text) => {
            input.append(text.as_bytes());
            1
        }
    })
}
