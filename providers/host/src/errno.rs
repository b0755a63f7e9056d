//! True error codes for guests of WASI 0.1 and 0.2, and in [`p3`] of 0.3, see [`super::cause`].
//!
//! The calls that change directories are wasmtime-wasi's own, wrapped. For 0.1 that means calling what its
//! macros generate, which it would rather keep to itself: the versions are pinned to each other.

pub(super) mod p3;

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use wasmtime::{AsContextMut as _, Caller, Extern, Linker, StoreContextMut, component::Resource};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView as _},
    p1::wasi_snapshot_preview1::{self as calls, WasiSnapshotPreview1 as _},
    p2::{
        FsResult,
        bindings::filesystem::types::{
            DescriptorFlags, ErrorCode, HostDescriptor as _, NewTimestamp, OpenFlags, PathFlags,
        },
    },
};
use wiggle::{GuestMemory, GuestPtr};

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

/// Errno of WASI 0.1.
const IO: i32 = 29;
const MFILE: i32 = 33;
const NOTDIR: i32 = 54;
const NXIO: i32 = 60;
const ROFS: i32 = 69;
const XDEV: i32 = 75;
/// In the open flags of WASI 0.1.
const OPEN_DIRECTORY: i32 = 1 << 1;
/// Longest path that is looked at, in bytes.
const PATH_LIMIT: u32 = 4096;
/// Most directories of a guest that are remembered.
const DIRECTORIES: usize = 1024;

/// Which directories a guest of WASI 0.1 has open. Descriptors there are numbers, and wasmtime-wasi does not say
/// what they stand for. A directory that was renamed meanwhile is looked for in vain, and no cause is found.
#[derive(Debug, Default)]
pub(super) struct Directories(HashMap<i32, OpenPath>);

impl Directories {
    /// The preopened directories, which get the first free numbers after those of so many listeners.
    pub(super) fn new<'a>(listeners: usize, preopens: impl Iterator<Item = &'a Path>) -> Self {
        let place = |preopen: &Path| OpenPath { from: preopen.to_owned(), path: PathBuf::new() };
        Self((3..).skip(listeners).zip(preopens.map(place)).collect())
    }

    /// Takes note that a number stands for something else now.
    pub(super) fn forget(&mut self, fd: i32) {
        self.0.remove(&fd);
    }

    fn place(&self, fd: i32, path: Option<String>) -> Option<OpenPath> {
        let OpenPath { from, path: dir } = self.0.get(&fd)?;
        Some(OpenPath { from: from.clone(), path: dir.join(path?) })
    }

    /// Takes note of what was opened. Numbers are used again: what is not known must be forgotten.
    fn opened(&mut self, fd: i32, from: i32, path: Option<String>) {
        self.0.remove(&fd);
        if self.0.len() < DIRECTORIES
            && let Some(place) = self.place(from, path)
            && place.path.as_os_str().len() <= PATH_LIMIT as usize
        {
            self.0.insert(fd, place);
        }
    }
}

/// Wraps the calls of WASI 0.1. The linker must allow shadowing.
pub(super) fn wrap_core(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    macro_rules! wrap {
        ($name:ident($($arg:ident: $type:ty),*), $(($fd:ident, $path:ident, $size:ident)),+) => {
            linker.func_wrap_async(
                "wasi_snapshot_preview1",
                stringify!($name),
                |mut caller: Caller<'_, GuestState>, ($($arg,)*): ($($type,)*)| {
                    Box::new(async move {
                        let (mut memory, state) = guest(&mut caller)?;
                        if [$($fd),+].into_iter().any(|fd| state.core_sockets.has(fd)) {
                            return Ok(NOTDIR);
                        }
                        let errno = calls::$name(&mut state.wasi, &mut memory, $($arg),*).await?;
                        if errno != IO {
                            return Ok(errno);
                        }
                        let places = [$(state.directories.place($fd, text(&memory, $path, $size))),+];
                        Ok(match find(places).await {
                            Some(Cause::ReadOnly) => ROFS,
                            Some(Cause::CrossDevice) => XDEV,
                            None => errno,
                        })
                    })
                },
            )?;
        };
    }
    wrap!(path_create_directory(fd: i32, path: i32, size: i32), (fd, path, size));
    wrap!(path_remove_directory(fd: i32, path: i32, size: i32), (fd, path, size));
    wrap!(path_unlink_file(fd: i32, path: i32, size: i32), (fd, path, size));
    wrap!(path_symlink(target: i32, target_size: i32, fd: i32, path: i32, size: i32), (fd, path, size));
    wrap!(
        path_filestat_set_times(
            fd: i32, flags: i32, path: i32, size: i32, atime: i64, mtime: i64, what: i32
        ),
        (fd, path, size)
    );
    wrap!(
        path_rename(fd: i32, path: i32, size: i32, to_fd: i32, to_path: i32, to_size: i32),
        (fd, path, size),
        (to_fd, to_path, to_size)
    );
    wrap!(
        path_link(fd: i32, flags: i32, path: i32, size: i32, to_fd: i32, to_path: i32, to_size: i32),
        (fd, path, size),
        (to_fd, to_path, to_size)
    );
    linker.func_wrap_async(
        "wasi_snapshot_preview1",
        "path_open",
        |mut caller: Caller<'_, GuestState>, args: (i32, i32, i32, i32, i32, i64, i64, i32, i32)| {
            Box::new(async move {
                let (fd, lookup, path, size, open, rights, inherited, flags, result) = args;
                let (mut memory, state) = guest(&mut caller)?;
                if state.core_sockets.has(fd) {
                    return Ok(NOTDIR);
                }
                if state.descriptors >= state.bounds.files {
                    return Ok(MFILE);
                }
                if state.has_volumes && is_pipe(state.directories.place(fd, text(&memory, path, size))).await
                {
                    return Ok(NXIO);
                }
                let errno = calls::path_open(
                    &mut state.wasi,
                    &mut memory,
                    fd,
                    lookup,
                    path,
                    size,
                    open,
                    rights,
                    inherited,
                    flags,
                    result,
                )
                .await?;
                match errno {
                    0 => {
                        state.descriptors += 1;
                        let opened = memory.read(GuestPtr::<i32>::new(result.cast_unsigned()))?;
                        let is_directory = open & OPEN_DIRECTORY != 0;
                        let path = if is_directory { text(&memory, path, size) } else { None };
                        state.directories.opened(opened, fd, path);
                        Ok(errno)
                    }
                    IO => {
                        let place = state.directories.place(fd, text(&memory, path, size));
                        Ok(find([place]).await.map_or(errno, |_| ROFS))
                    }
                    _ => Ok(errno),
                }
            })
        },
    )?;
    Ok(())
}

/// Memory and state of the guest that calls, prepared as for any call of WASI 0.1.
pub(super) fn guest<'a>(
    caller: &'a mut Caller<'_, GuestState>,
) -> wasmtime::Result<(GuestMemory<'a>, &'a mut GuestState)> {
    let fuel = caller.as_context_mut().hostcall_fuel();
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        wasmtime::bail!("missing required memory export");
    };
    let (memory, state) = memory.data_and_store_mut(caller);
    state.wasi.set_hostcall_fuel(fuel);
    Ok((GuestMemory::Unshared(memory), state))
}

/// A path in the guest's memory.
fn text(memory: &GuestMemory<'_>, at: i32, size: i32) -> Option<String> {
    let (at, size) = (at.cast_unsigned(), size.cast_unsigned());
    if size > PATH_LIMIT {
        return None;
    }
    Some(memory.as_cow_str(GuestPtr::new((at, size))).ok()?.into_owned())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_known_by_their_numbers() {
        let mut directories = Directories::new(0, ["/root", "/data"].iter().map(Path::new));
        let at = |directories: &Directories, fd| {
            let place = directories.place(fd, Some("x".into()))?;
            Some((place.from.display().to_string(), place.path.display().to_string()))
        };
        let found = |from: &str, path: &str| Some((from.to_owned(), path.to_owned()));
        assert_eq!(at(&directories, 3), found("/root", "x"));
        assert_eq!(at(&directories, 4), found("/data", "x"));
        assert_eq!(at(&directories, 5), None);
        let after_listeners = Directories::new(2, ["/root"].iter().map(Path::new));
        assert_eq!((at(&after_listeners, 4), at(&after_listeners, 5)), (None, found("/root", "x")));
        directories.opened(5, 3, Some("a/b".into()));
        directories.opened(6, 5, Some("../c".into()));
        assert_eq!(at(&directories, 6), found("/root", "a/b/../c/x"), "the kernel takes care of the dots");
        directories.opened(6, 3, None);
        assert_eq!(at(&directories, 6), None, "now it is a file");
        for fd in 7..3000 {
            directories.opened(fd, 5, Some("d".repeat(100)));
            directories.opened(fd + 3000, fd, Some("d".repeat(4096)));
        }
        assert_eq!(directories.0.len(), DIRECTORIES, "there is an end to it");
    }
}
