//! `kubewasm module inspect`

use std::{io, path::Path};

use anyhow::Context as _;
use indicatif::HumanBytes;
use kubewasm_host::{
    compile::{ChildCompiler, MODULE_LIMIT},
    inspect::{self, ModuleForm, Surface},
    program::Program,
};
use kubewasm_modules::{Digest, Image, ImageName, Module, Store};
use kubewasm_wasi::provider::StoreCompiler;

use super::{
    ModuleSession,
    shapes::{ImageShape, InspectShape, PrecompiledShape, SurfaceShape},
};

/// Arguments of `kubewasm module inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// An image that is here, or a file: ./hello.wasm.
    #[arg(value_name = "IMAGE|./FILE.WASM", add = super::candidates::images())]
    name: ImageName,

    /// Which file of an image with a file system, if not the one that it starts.
    #[arg(long, value_name = "PATH")]
    command: Option<String>,
}

pub(super) async fn run(session: &ModuleSession, args: &InspectArgs) -> anyhow::Result<()> {
    let (image, module) = match &args.name {
        ImageName::Path(path) => (None, file(path).await?),
        name => {
            let image = session.image(name)?;
            let module = module_of(&session.store, &image, args.command.as_deref()).await?;
            (Some(image), module)
        }
    };
    let bytes = read(&module.path).await?;
    let Surface { form, imports, exports } =
        inspect::surface(&bytes).with_context(|| format!("cannot read {}", args.name))?;
    let (kind, problem) = match inspect::inspect(&bytes) {
        Ok(kind) => (Some(kind.to_string()), None),
        Err(problem) => (None, Some(problem.to_string())),
    };
    let current = StoreCompiler::from(ChildCompiler::new(Program::current())?);
    let current = Store::compiled_key(&current);
    let precompiled = session.store.compiled(&module.digest)?.into_iter().map(|compiled| PrecompiledShape {
        current: compiled.key == current,
        key: compiled.key,
        size_bytes: compiled.size_bytes,
        signed_by: compiled.signed_by,
    });
    let signed_by = image.as_ref().map(|image| session.store.signer(image)).transpose()?.flatten();
    let shape = InspectShape {
        signed_by,
        image: image.as_ref().map(ImageShape::from),
        precompiled: precompiled.collect(),
        module: SurfaceShape {
            digest: module.digest,
            size_bytes: bytes.len() as u64,
            form,
            kind,
            problem,
            imports,
            exports,
        },
    };
    session.say(&shape, |out| print(out, &shape))
}

fn print(out: &mut dyn io::Write, shape: &InspectShape) -> io::Result<()> {
    let InspectShape { image, signed_by, module, precompiled } = shape;
    if let Some(image) = image {
        writeln!(out, "Image:        {}", image.reference)?;
        writeln!(out, "Digest:       {}", image.digest)?;
        writeln!(out, "Size:         {}", HumanBytes(image.size_bytes))?;
    }
    if let Some(key) = signed_by {
        writeln!(out, "Signed by:    {key}")?;
    }
    writeln!(out, "Module:       {}", module.digest)?;
    writeln!(out, "Module size:  {}", HumanBytes(module.size_bytes))?;
    let form = match module.form {
        ModuleForm::Core => "core module",
        ModuleForm::Component => "component",
    };
    writeln!(out, "Form:         {form}")?;
    match (&module.kind, &module.problem) {
        (Some(kind), _) => writeln!(out, "Runs as:      {kind}")?,
        (None, problem) => writeln!(out, "Does not run: {}", problem.as_deref().unwrap_or_default())?,
    }
    for (title, names) in [("Imports:", &module.imports), ("Exports:", &module.exports)] {
        writeln!(out, "{title}{}", if names.is_empty() { "      none" } else { "" })?;
        for name in names {
            writeln!(out, "  {name}")?;
        }
    }
    writeln!(out, "Precompiled:{}", if precompiled.is_empty() { "  none" } else { "" })?;
    for compiled in precompiled {
        let here = if compiled.current { ", for this machine" } else { "" };
        let from = compiled.signed_by.as_ref().map(|key| format!(", from a registry, signed by {key}"));
        let from = from.unwrap_or_default();
        writeln!(out, "  {} ({}{here}{from})", compiled.key, HumanBytes(compiled.size_bytes))?;
    }
    Ok(())
}

/// The module that an image starts, or that `command` names.
async fn module_of(store: &Store, image: &Image, command: Option<&str>) -> anyhow::Result<Module> {
    Ok(store.module(image, command_of(image, command)?).await?)
}

/// `command`, or what the image starts.
pub(crate) fn command_of<'a>(image: &'a Image, command: Option<&'a str>) -> anyhow::Result<&'a str> {
    let starts = image.entrypoint.first().or(image.cmd.first()).map(String::as_str);
    command.or(starts).with_context(|| {
        format!("{} says of no file that it starts it; name one with --command", image.reference)
    })
}

/// A module that is a file of the user's.
async fn file(path: &Path) -> anyhow::Result<Module> {
    let bytes = read(path).await?;
    Ok(Module { path: path.to_owned(), digest: Digest::of(&bytes) })
}

/// What a module file of the user's imports and exports.
pub(super) async fn surface_of(path: &Path) -> anyhow::Result<Surface> {
    inspect::surface(&read(path).await?).with_context(|| format!("cannot use {}", path.display()))
}

/// A module file, which is no larger than what is compiled.
pub(crate) async fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("cannot read {}", path.display());
    let size = tokio::fs::metadata(path).await.with_context(failed)?.len();
    anyhow::ensure!(size <= MODULE_LIMIT, "{} has more than {MODULE_LIMIT} bytes", path.display());
    tokio::fs::read(path).await.with_context(failed)
}
