//! Texts in the memory of a core module, which hands over addresses and lengths of its own making.

use bytes::Bytes;
use kubewasm_host::GuestState;
use wasmtime::{Caller, Memory};

use crate::{capabilities::Capability, host_call::LONGEST_PAYLOAD};

/// Most bytes of a name.
const LONGEST_NAME: u32 = 256;

/// Addresses and lengths of four texts, each after the other: what a policy asks its host by.
pub(crate) type FourTexts = (i32, i32, i32, i32, i32, i32, i32, i32);

/// What a policy asks its host.
#[derive(Debug)]
pub(crate) struct HostRequest {
    pub(crate) binding: String,
    pub(crate) namespace: String,
    pub(crate) operation: String,
    pub(crate) payload: Bytes,
}

impl HostRequest {
    /// What is asked for.
    pub(crate) fn capability(&self) -> Capability<'_> {
        Capability { namespace: &self.namespace, operation: &self.operation }
    }
}

/// The memory of a policy, by which errors are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestTexts {
    /// The function that was called.
    pub(crate) function: &'static str,
}

impl GuestTexts {
    /// A short text.
    fn name(
        self,
        caller: &mut Caller<'_, GuestState>,
        what: &str,
        at: i32,
        length: i32,
    ) -> wasmtime::Result<String> {
        let bytes = self.read(caller, what, (at, length), LONGEST_NAME)?;
        String::from_utf8(bytes.into())
            .map_err(|_| wasmtime::format_err!("{}: the {what} is no text of UTF-8", self.function))
    }

    /// What a policy asks its host.
    pub(crate) fn request(
        self,
        caller: &mut Caller<'_, GuestState>,
        (binding, binding_size, namespace, namespace_size, operation, operation_size, payload, payload_size): FourTexts,
    ) -> wasmtime::Result<HostRequest> {
        Ok(HostRequest {
            binding: self.name(caller, "binding", binding, binding_size)?,
            namespace: self.name(caller, "namespace", namespace, namespace_size)?,
            operation: self.name(caller, "operation", operation, operation_size)?,
            payload: self.read(caller, "payload", (payload, payload_size), LONGEST_PAYLOAD)?,
        })
    }

    /// What is at an address, of `most` bytes at most.
    pub(crate) fn read(
        self,
        caller: &mut Caller<'_, GuestState>,
        what: &str,
        (at, length): (i32, i32),
        most: u32,
    ) -> wasmtime::Result<Bytes> {
        let (at, length) = (at.cast_unsigned(), length.cast_unsigned());
        if length > most {
            wasmtime::bail!("{}: the {what} has {length} bytes, and may have {most}", self.function);
        }
        let memory = self.memory(caller)?;
        let end = u64::from(at) + u64::from(length);
        let range = usize::try_from(at).ok().zip(usize::try_from(end).ok());
        let bytes = range.and_then(|(at, end)| memory.data(&*caller).get(at..end));
        bytes.map(Bytes::copy_from_slice).ok_or_else(|| self.outside(what, u64::from(length), at))
    }

    /// Writes to an address.
    pub(crate) fn write(
        self,
        caller: &mut Caller<'_, GuestState>,
        what: &str,
        at: i32,
        bytes: &[u8],
    ) -> wasmtime::Result<()> {
        let at = at.cast_unsigned();
        let memory = self.memory(caller)?;
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let place =
            memory.data_mut(&mut *caller).get_mut(start..).and_then(|rest| rest.get_mut(..bytes.len()));
        match place {
            Some(place) => {
                place.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(self.outside(what, bytes.len() as u64, at)),
        }
    }

    fn memory(self, caller: &mut Caller<'_, GuestState>) -> wasmtime::Result<Memory> {
        caller.get_export("memory").and_then(wasmtime::Extern::into_memory).ok_or_else(|| {
            wasmtime::format_err!("{}: the policy exports no memory by the name of \"memory\"", self.function)
        })
    }

    fn outside(self, what: &str, length: u64, at: u32) -> wasmtime::Error {
        wasmtime::format_err!(
            "{}: the {what} of {length} bytes at {at} is not all within the policy's memory",
            self.function
        )
    }
}
