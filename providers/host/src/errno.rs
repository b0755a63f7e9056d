//! True error codes for guests of WASI 0.2, and in [`p3`] of 0.3, see [`super::cause`].
//!
//! The calls that change directories are wasmtime-wasi's own, wrapped.

pub(super) mod p3;

use std::{fs::File, path::PathBuf, sync::Arc};

use wasmtime::{StoreContextMut, component::Resource};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView as _},
    p2::{
        FsResult,
        bindings::filesystem::types::{
            DescriptorFlags, ErrorCode, HostDescriptor as _, NewTimestamp, OpenFlags, PathFlags,
        },
    },
};

use super::{
    cause::{self, Cause, OpenPath},
    state::GuestState,
};

/// The calls of components that change directories, of every version: for each, `wrap` is given its name in the interface, the
/// method with its arguments, and the directories with the paths in them that it is about.
macro_rules! directory_calls {
    ($wrap:ident) => {
        $wrap!("[method]descriptor.create-directory-at", create_directory_at(dir, path: String), (dir, path));
        $wrap!("[method]descriptor.remove-directory-at", remove_directory_at(dir, path: String), (dir, path));
        $wrap!("[method]descriptor.unlink-file-at", unlink_file_at(dir, path: String), (dir, path));
        $wrap!("[method]descriptor.symlink-at", symlink_at(dir, target: String, path: String), (dir, path));
        $wrap!(
            "[method]descriptor.set-times-at",
            set_times_at(dir, flags: PathFlags, path: String, atime: NewTimestamp, mtime: NewTimestamp),
            (dir, path)
        );
        $wrap!(
            "[method]descriptor.rename-at",
            rename_at(dir, path: String, to_dir: Resource<Descriptor>, to_path: String),
            (dir, path),
            (to_dir, to_path)
        );
        $wrap!(
            "[method]descriptor.link-at",
            link_at(dir, flags: PathFlags, path: String, to_dir: Resource<Descriptor>, to_path: String),
            (dir, path),
            (to_dir, to_path)
        );
    };
}
use directory_calls;

/// Whether this is a named pipe, where the place is known.
async fn is_pipe(place: Option<OpenPath>) -> bool {
    let Some(place) = place else { return false };
    tokio::task::spawn_blocking(move || cause::is_pipe(&place)).await.unwrap_or(false)
}

/// Looks for the cause where all places are known.
async fn find<const N: usize>(places: [Option<OpenPath>; N]) -> Option<Cause> {
    let places: Vec<OpenPath> = places.into_iter().collect::<Option<_>>()?;
    tokio::task::spawn_blocking(move || cause::find(&places)).await.ok()?
}

/// Wraps the calls of WASI 0.2. The linker must allow shadowing.
pub(super) fn wrap_component(linker: &mut wasmtime::component::Linker<GuestState>) -> wasmtime::Result<()> {
    let mut types = linker.instance("wasi:filesystem/types@0.2.12")?;
    macro_rules! wrap {
        ($name:literal, $method:ident($dir:ident $(, $arg:ident: $type:ty)*), $(($fd:ident, $path:ident)),+) => {
            types.func_wrap_async(
                $name,
                |mut store: StoreContextMut<'_, GuestState>,
                 ($dir, $($arg,)*): (Resource<Descriptor>, $($type,)*)| {
                    Box::new(async move {
                        let mut files = store.data_mut().filesystem();
                        let places = [$(place(&files, &$fd, &$path)),+];
                        true_code(files.$method($dir $(, $arg)*).await, places).await
                    })
                },
            )?;
        };
    }
    directory_calls!(wrap);
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, GuestState>,
         (dir, follow, path, open, flags): (
            Resource<Descriptor>,
            PathFlags,
            String,
            OpenFlags,
            DescriptorFlags,
        )| {
            Box::new(async move {
                let has_volumes = store.data().has_volumes;
                let mut files = store.data_mut().filesystem();
                let opened = place(&files, &dir, &path);
                if has_volumes && is_pipe(at(&opened)).await {
                    return Ok((Err(ErrorCode::NoSuchDevice),));
                }
                true_code(files.open_at(dir, follow, path, open, flags).await, [opened]).await
            })
        },
    )?;
    Ok(())
}

/// What a call of WASI 0.2 is about: a directory, which is held open, and a path.
type OpenPlace = Option<(Arc<File>, PathBuf)>;

fn place(files: &WasiFilesystemCtxView<'_>, fd: &Resource<Descriptor>, path: &str) -> OpenPlace {
    match files.table.get(fd) {
        Ok(Descriptor::Dir(dir)) => Some((Arc::clone(&dir.dir), path.into())),
        _ => None,
    }
}

fn at(place: &OpenPlace) -> Option<OpenPath> {
    let (dir, path) = place.as_ref()?;
    Some(OpenPath { from: cause::path_of(dir), path: path.clone() })
}

/// The answer of a call with the code that the guest should have got.
async fn true_code<T, const N: usize>(
    result: FsResult<T>,
    places: [OpenPlace; N],
) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    let code = match result {
        Ok(value) => return Ok((Ok(value),)),
        Err(error) => error.downcast()?,
    };
    if code != ErrorCode::Io {
        return Ok((Err(code),));
    }
    let cause = find(places.each_ref().map(at)).await;
    Ok((Err(match cause {
        Some(Cause::ReadOnly) => ErrorCode::ReadOnly,
        Some(Cause::CrossDevice) => ErrorCode::CrossDevice,
        None => code,
    }),))
}
