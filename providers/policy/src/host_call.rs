//! What policies ask their host for: the import `host.call`.
//!
//! A policy hands over four texts in its memory, and finds the answer at the end of its standard input. Everything that it hands over
//! is checked: the memory it exports, both ends of each text, and their lengths.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use kubewasm_host::{GuestState, Plugin, PluginState, Setup};
use wasmtime::{Caller, Linker, component};

use crate::{
    capabilities::{Capabilities, Capability},
    input::Document,
};

/// The modules that the function is imported from: that of programs, and that of what a JavaScript builder leaves.
const MODULES: [&str; 2] = ["host", "kubewarden:javy/host"];
/// The only binding that there is.
const BINDING: &str = "kubewarden";
/// Most bytes of a name.
const LONGEST_NAME: u32 = 256;
/// Most bytes of what is asked, 4 MiB.
const LONGEST_PAYLOAD: u32 = 4 << 20;
/// Most bytes of an answer, 16 MiB; it goes into the policy's input, which is not its memory.
pub const LONGEST_ANSWER: usize = 16 << 20;

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
#[derive(Clone, Debug)]
pub(crate) struct CallContext {
    pub(crate) input: Document,
    pub(crate) granted: Arc<Capabilities>,
    pub(crate) host: Arc<dyn HostCapabilities>,
}

/// The import, as an interface of the WASI host.
#[derive(Debug, Default)]
pub(crate) struct HostCall {
    /// Where the state of a guest is; the same for all engines of a host.
    place: OnceLock<PluginState<Option<CallContext>>>,
}

impl HostCall {
    /// Gives a guest of the host what its calls are answered with.
    pub(crate) fn give(&self, guest: &mut GuestState, context: CallContext) {
        // It is linked when the host is made, and there are no guests before.
        if let Some(place) = self.place.get() {
            *place.of(guest) = Some(context);
        }
    }
}

impl Plugin for HostCall {
    /// There is none before [`HostCall::give`].
    type State = Option<CallContext>;

    fn link(
        &self,
        _: &mut component::Linker<GuestState>,
        _: PluginState<Self::State>,
    ) -> wasmtime::Result<()> {
        Ok(())
    }

    fn link_core(
        &self,
        linker: &mut Linker<GuestState>,
        state: PluginState<Self::State>,
    ) -> wasmtime::Result<()> {
        self.place.get_or_init(|| state);
        for module in MODULES {
            linker.func_wrap_async(
                module,
                "call",
                move |mut caller: Caller<'_, GuestState>, texts: (i32, i32, i32, i32, i32, i32, i32, i32)| {
                    Box::new(async move { call(&mut caller, state, texts).await })
                },
            )?;
        }
        Ok(())
    }

    fn state(&self, _: &Setup<'_>) -> Self::State {
        None
    }
}

/// 0 for an answer, 1 for an error; both texts are in the input then.
async fn call(
    caller: &mut Caller<'_, GuestState>,
    state: PluginState<Option<CallContext>>,
    (
        binding,
        binding_length,
        namespace,
        namespace_length,
        operation,
        operation_length,
        payload,
        payload_length,
    ): (i32, i32, i32, i32, i32, i32, i32, i32),
) -> wasmtime::Result<i32> {
    let binding = name(caller, "binding", binding, binding_length)?;
    let namespace = name(caller, "namespace", namespace, namespace_length)?;
    let operation = name(caller, "operation", operation, operation_length)?;
    let payload = read(caller, "payload", payload, payload_length, LONGEST_PAYLOAD)?;
    let Some(context) = state.of(caller.data_mut()).clone() else {
        wasmtime::bail!("host.call is for policies");
    };
    let answered = if binding == BINDING {
        let capability = Capability { namespace: &namespace, operation: &operation };
        match context.granted.check(capability) {
            Ok(()) => context.host.call(capability, payload).await,
            Err(denied) => {
                tracing::warn!(%capability, "a policy asked for what it is not granted");
                Err(denied.to_string())
            }
        }
    } else {
        Err(format!("there is no binding {binding:?}; it is {BINDING:?}"))
    };
    let answered = answered.and_then(|answer| match answer.len() {
        0..=LONGEST_ANSWER => Ok(answer),
        length => Err(format!("the answer has {length} bytes, and may have {LONGEST_ANSWER}; ask for less")),
    });
    Ok(match answered {
        Ok(answer) => {
            context.input.append(&answer);
            0
        }
        Err(text) => {
            context.input.append(text.as_bytes());
            1
        }
    })
}

fn name(caller: &mut Caller<'_, GuestState>, what: &str, at: i32, length: i32) -> wasmtime::Result<String> {
    let bytes = read(caller, what, at, length, LONGEST_NAME)?;
    String::from_utf8(bytes.into())
        .map_err(|_| wasmtime::format_err!("host.call: the {what} is no text of UTF-8"))
}

fn read(
    caller: &mut Caller<'_, GuestState>,
    what: &str,
    at: i32,
    length: i32,
    most: u32,
) -> wasmtime::Result<Bytes> {
    let (at, length) = (at.cast_unsigned(), length.cast_unsigned());
    if length > most {
        wasmtime::bail!("host.call: the {what} has {length} bytes, and may have {most}");
    }
    let Some(memory) = caller.get_export("memory").and_then(wasmtime::Extern::into_memory) else {
        wasmtime::bail!("host.call: the policy exports no memory by the name of \"memory\"");
    };
    let end = u64::from(at) + u64::from(length);
    let range = usize::try_from(at).ok().zip(usize::try_from(end).ok());
    let bytes = range.and_then(|(at, end)| memory.data(&*caller).get(at..end));
    match bytes {
        Some(bytes) => Ok(Bytes::copy_from_slice(bytes)),
        None => wasmtime::bail!(
            "host.call: the {what} of {length} bytes at {at} is not all within the policy's memory"
        ),
    }
}
