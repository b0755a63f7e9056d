//! The calls of WASI 0.2 that read files and write them: wasmtime-wasi's own, and counted. What a stream of a file has taken is
//! counted when it is handed over, whatever becomes of it on the disk.

use std::sync::Arc;

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemView as _},
    p2::{
        DynInputStream, DynOutputStream, FsResult,
        bindings::filesystem::types::{ErrorCode, HostDescriptor as _},
    },
};

use crate::{
    state::GuestState,
    traffic::{count_input, count_output},
};

/// Wraps the calls. The linker must allow shadowing.
pub(crate) fn wrap(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut types = linker.instance("wasi:filesystem/types@0.2.12")?;
    types.func_wrap_async(
        "[method]descriptor.read",
        |mut store: StoreContextMut<'_, GuestState>,
         (file, length, offset): (Resource<Descriptor>, u64, u64)| {
            Box::new(async move {
                let state = store.data_mut();
                let read = state.filesystem().read(file, length, offset).await;
                answer(read.inspect(|(bytes, _)| state.files().received(bytes.len())))
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.write",
        |mut store: StoreContextMut<'_, GuestState>,
         (file, bytes, offset): (Resource<Descriptor>, Vec<u8>, u64)| {
            Box::new(async move {
                let state = store.data_mut();
                let written = state.filesystem().write(file, bytes, offset).await;
                answer(written.inspect(|bytes| state.files().sent(usize::try_from(*bytes).unwrap_or(0))))
            })
        },
    )?;
    types.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store: StoreContextMut<'_, GuestState>, (file, offset): (Resource<Descriptor>, u64)| {
            let state = store.data_mut();
            let stream = state.filesystem().read_via_stream(file, offset);
            answer(stream.and_then(|stream| counted_input(state, stream)))
        },
    )?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: StoreContextMut<'_, GuestState>, (file, offset): (Resource<Descriptor>, u64)| {
            let state = store.data_mut();
            let stream = state.filesystem().write_via_stream(file, offset);
            answer(stream.and_then(|stream| counted_output(state, stream)))
        },
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: StoreContextMut<'_, GuestState>, (file,): (Resource<Descriptor>,)| {
            let state = store.data_mut();
            let stream = state.filesystem().append_via_stream(file);
            answer(stream.and_then(|stream| counted_output(state, stream)))
        },
    )?;
    Ok(())
}

fn answer<T>(result: FsResult<T>) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

/// Has counted what is read from a file by a stream.
fn counted_input(
    state: &mut GuestState,
    stream: Resource<DynInputStream>,
) -> FsResult<Resource<DynInputStream>> {
    let files = Arc::clone(state.files());
    count_input(state.filesystem().table.get_mut(&stream)?, &files);
    Ok(stream)
}

/// The same for one that writes.
fn counted_output(
    state: &mut GuestState,
    stream: Resource<DynOutputStream>,
) -> FsResult<Resource<DynOutputStream>> {
    let files = Arc::clone(state.files());
    count_output(state.filesystem().table.get_mut(&stream)?, &files);
    Ok(stream)
}
