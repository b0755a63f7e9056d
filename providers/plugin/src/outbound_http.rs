//! Outgoing HTTP as plugins import it that were made for krew-wasm: core modules of WASI 0.1 that import
//! `wasi-outbound-http`.
//!
//! The calling convention is that of its bindings of 2022: parameters are flattened, and results are too, each in eight bytes
//! behind the last parameter. Bodies are whole in both directions, and bounded. What such a plugin says of certificates, its own and
//! those that it trusts, is read by nobody: requests go where [`HttpSender`] sends all others.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use kubewasm_host::{GuestState, HttpError, HttpOptions, HttpSender, Plugin, PluginState, Setup, WasiBody};
use wasmtime::{Caller, Linker, Memory, component, format_err};

/// The module of the imports.
pub(crate) const OUTBOUND_HTTP: &str = "wasi-outbound-http";

/// Bytes of a body.
const LARGEST_BODY: usize = 64 << 20;
/// Headers, and parameters, of a request.
const MOST_PAIRS: u32 = 1024;
/// Bytes from one result to the next.
const SLOT: u32 = 8;
/// Answer to whoever registers what is read by nobody, and has no name for it.
const CONFIG: &str = "user";

/// Its methods, in their order.
const METHODS: [Method; 7] =
    [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD, Method::OPTIONS];

/// Its errors, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutboundError {
    DestinationNotAllowed = 1,
    InvalidUrl = 2,
    Request = 3,
    Runtime = 4,
}

type Sender = Option<Arc<dyn HttpSender>>;
/// Method, URI, headers, parameters, body, configuration; texts and lists with pointer and length, options with one number more.
type RequestArgs = (i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32);
/// Two booleans, a list, an identity of three lists that is an option, the name that is an option.
type ConfigArgs = (i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32);

/// The imports, for the sender of each guest.
#[derive(Debug)]
pub(crate) struct OutboundHttp;

impl Plugin for OutboundHttp {
    type State = Sender;

    fn link(&self, _: &mut component::Linker<GuestState>, _: PluginState<Sender>) -> wasmtime::Result<()> {
        // Components have wasi:http.
        Ok(())
    }

    fn link_core(&self, linker: &mut Linker<GuestState>, state: PluginState<Sender>) -> wasmtime::Result<()> {
        linker.func_wrap_async(
            OUTBOUND_HTTP,
            "request",
            move |mut caller: Caller<'_, GuestState>, args: RequestArgs| {
                Box::new(async move { request(&mut caller, state, args).await })
            },
        )?;
        linker.func_wrap_async(
            OUTBOUND_HTTP,
            "register-request-config",
            |mut caller: Caller<'_, GuestState>, args: ConfigArgs| {
                Box::new(async move { register(&mut caller, args).await })
            },
        )?;
        Ok(())
    }

    fn state(&self, setup: &Setup<'_>) -> Sender {
        setup.http_sender.cloned()
    }
}

async fn request(
    caller: &mut Caller<'_, GuestState>,
    state: PluginState<Sender>,
    args: RequestArgs,
) -> wasmtime::Result<()> {
    let results = args.13.cast_unsigned();
    let response = match read_request(caller, args)? {
        Ok(request) => {
            let sender = state.of(caller.data_mut()).clone();
            send(sender, request).await
        }
        Err(error) => Err(error),
    };
    let (status, body) = match response {
        Ok(response) => response,
        Err(error) => return write(caller, results, &[1, error as u32]),
    };
    let (body, length) = hand_over(caller, &body).await?;
    // The headers are there and none, as for the host that these plugins were made for.
    write(caller, results, &[0, u32::from(status), 1, 4, 0, 1, body, length])
}

/// The request that the arguments are; an error of its own where they are none.
fn read_request(
    caller: &mut Caller<'_, GuestState>,
    args: RequestArgs,
) -> wasmtime::Result<Result<Request<WasiBody>, OutboundError>> {
    let (method, uri, uri_length, headers, header_count, _, _, has_body, body, body_length, ..) = args;
    let memory = memory(caller)?;
    let uri = bytes(caller, memory, uri, uri_length, LARGEST_BODY)?;
    let headers = pairs(caller, memory, headers, header_count)?;
    let body = match has_body {
        0 => Vec::new(),
        _ => bytes(caller, memory, body, body_length, LARGEST_BODY)?,
    };
    let method = usize::try_from(method).ok().and_then(|method| METHODS.get(method));
    let method = method.ok_or_else(|| format_err!("there is no method of this number"))?;
    let Ok(uri) = http::Uri::try_from(uri) else { return Ok(Err(OutboundError::InvalidUrl)) };
    let body = Full::new(Bytes::from(body)).map_err(HttpError::from).boxed_unsync();
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri;
    for (name, value) in headers {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&name), HeaderValue::from_bytes(&value)) else {
            return Ok(Err(OutboundError::Runtime));
        };
        request.headers_mut().append(name, value);
    }
    Ok(Ok(request))
}

/// Status and body of the response.
async fn send(sender: Sender, request: Request<WasiBody>) -> Result<(u16, Bytes), OutboundError> {
    let sender = sender.ok_or(OutboundError::DestinationNotAllowed)?;
    let response = sender.send(request, HttpOptions::default()).await.map_err(|error| match error {
        HttpError::HttpRequestDenied => OutboundError::DestinationNotAllowed,
        HttpError::HttpRequestUriInvalid => OutboundError::InvalidUrl,
        _ => OutboundError::Request,
    })?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), LARGEST_BODY).collect().await;
    Ok((status, body.map_err(|_| OutboundError::Runtime)?.to_bytes()))
}

/// Takes note of nothing, and answers with a name for it.
async fn register(caller: &mut Caller<'_, GuestState>, args: ConfigArgs) -> wasmtime::Result<()> {
    let (.., has_name, name, length, results) = args;
    let memory = memory(caller)?;
    let name = match has_name {
        0 => CONFIG.as_bytes().to_vec(),
        _ => bytes(caller, memory, name, length, LARGEST_BODY)?,
    };
    let (name, length) = hand_over(caller, &name).await?;
    write(caller, results.cast_unsigned(), &[0, name, length])
}

fn memory(caller: &mut Caller<'_, GuestState>) -> wasmtime::Result<Memory> {
    let memory = caller.get_export("memory").and_then(wasmtime::Extern::into_memory);
    memory.ok_or_else(|| format_err!("a module that imports {OUTBOUND_HTTP} must export its memory"))
}

/// So many bytes of the guest's memory.
fn bytes(
    caller: &Caller<'_, GuestState>,
    memory: Memory,
    at: i32,
    length: i32,
    most: usize,
) -> wasmtime::Result<Vec<u8>> {
    let (at, length) = (at.cast_unsigned() as usize, length.cast_unsigned() as usize);
    let found = (length <= most).then(|| memory.data(caller).get(at..)?.get(..length)).flatten();
    found.map(<[u8]>::to_vec).ok_or_else(|| format_err!("a text or a list is not in the memory, or too long"))
}

/// A list of pairs of texts.
fn pairs(
    caller: &Caller<'_, GuestState>,
    memory: Memory,
    at: i32,
    count: i32,
) -> wasmtime::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    wasmtime::ensure!(count.cast_unsigned() <= MOST_PAIRS, "a list has more than {MOST_PAIRS} entries");
    let list = bytes(caller, memory, at, count.saturating_mul(16), LARGEST_BODY)?;
    let number = |piece: &[u8]| piece.try_into().map_or(0, i32::from_le_bytes);
    list.chunks_exact(16)
        .map(|entry| {
            let mut numbers = entry.chunks_exact(4).map(number);
            let mut text = || {
                let (at, length) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                bytes(caller, memory, at, length, LARGEST_BODY)
            };
            Ok((text()?, text()?))
        })
        .collect()
}

/// Gives bytes to the guest, in memory that it allocates.
async fn hand_over(caller: &mut Caller<'_, GuestState>, given: &[u8]) -> wasmtime::Result<(u32, u32)> {
    let length = u32::try_from(given.len())?;
    if length == 0 {
        // Nothing is there, at an address that is none of null's.
        return Ok((1, 0));
    }
    let allocate = caller.get_export("canonical_abi_realloc").and_then(wasmtime::Extern::into_func);
    let allocate = allocate.ok_or_else(|| {
        format_err!("a module that imports {OUTBOUND_HTTP} must export canonical_abi_realloc")
    })?;
    let allocate = allocate.typed::<(i32, i32, i32, i32), i32>(&mut *caller)?;
    let at = allocate.call_async(&mut *caller, (0, 0, 1, length.cast_signed())).await?.cast_unsigned();
    // It may have grown meanwhile.
    let memory = memory(caller)?;
    memory.write(&mut *caller, at as usize, given)?;
    Ok((at, length))
}

/// Writes results, each in a place of its own.
fn write(caller: &mut Caller<'_, GuestState>, at: u32, results: &[u32]) -> wasmtime::Result<()> {
    let memory = memory(caller)?;
    for (place, result) in (0_usize..).step_by(SLOT as usize).zip(results) {
        memory.write(&mut *caller, (at as usize).saturating_add(place), &result.to_le_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
