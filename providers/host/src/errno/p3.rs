//! The same for `wasi:filesystem@0.3`.

use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView as _},
    p3::{
        bindings::filesystem::types::{
            DescriptorFlags, ErrorCode, HostDescriptorWithStore as _, NewTimestamp, OpenFlags, PathFlags,
        },
        filesystem::FilesystemResult,
    },
};

use super::{OpenPlace, at, directory_calls, find, is_pipe, place};
use crate::{cause::Cause, state::GuestState};

/// Wraps the calls of WASI 0.3. The linker must allow shadowing.
pub(crate) fn wrap(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut types = linker.instance("wasi:filesystem/types@0.3.0")?;
    macro_rules! wrap {
        ($name:literal, $method:ident($dir:ident $(, $arg:ident: $type:ty)*), $(($fd:ident, $path:ident)),+) => {
            types.func_wrap_concurrent(
                $name,
                |accessor: &Accessor<GuestState>, ($dir, $($arg,)*): (Resource<Descriptor>, $($type,)*)| {
                    Box::pin(async move {
                        let places = accessor.with(|mut access| {
                            let files = access.data_mut().filesystem();
                            [$(place(&files, &$fd, &$path)),+]
                        });
                        let files = view(accessor);
                        true_code(WasiFilesystem::$method(&files, $dir $(, $arg)*).await, places).await
                    })
                },
            )?;
        };
    }
    directory_calls!(wrap);
    types.func_wrap_concurrent(
        "[method]descriptor.open-at",
        |accessor: &Accessor<GuestState>,
         (dir, follow, path, open, flags): (
            Resource<Descriptor>,
            PathFlags,
            String,
            OpenFlags,
            DescriptorFlags,
        )| {
            Box::pin(async move {
                let (has_volumes, opened) = accessor.with(|mut access| {
                    let state = access.data_mut();
                    (state.has_volumes, place(&state.filesystem(), &dir, &path))
                });
                if has_volumes && is_pipe(at(&opened)).await {
                    return Ok((Err(ErrorCode::NoSuchDevice),));
                }
                let files = view(accessor);
                let answer = WasiFilesystem::open_at(&files, dir, follow, path, open, flags).await;
                if let Ok(file) = &answer {
                    accessor.with(|mut access| {
                        let state = access.data_mut();
                        // What its streams carry goes past the host.
                        if matches!(state.filesystem().table.get(file), Ok(Descriptor::File(_))) {
                            state.files().is_not_counted();
                        }
                    });
                }
                true_code(answer, [opened]).await
            })
        },
    )
}

/// wasmtime-wasi's own view of a guest.
fn view(accessor: &Accessor<GuestState>) -> Accessor<GuestState, WasiFilesystem> {
    accessor.with_getter(|state| state.filesystem())
}

/// The answer of a call with the code that the guest should have got.
async fn true_code<T, const N: usize>(
    result: FilesystemResult<T>,
    places: [OpenPlace; N],
) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    let code = match result {
        Ok(value) => return Ok((Ok(value),)),
        Err(error) => error.downcast()?,
    };
    let cause = match code {
        ErrorCode::Io => find(places.each_ref().map(at)).await,
        _ => None,
    };
    Ok((Err(match cause {
        Some(Cause::ReadOnly) => ErrorCode::ReadOnly,
        Some(Cause::CrossDevice) => ErrorCode::CrossDevice,
        None => code,
    }),))
}
