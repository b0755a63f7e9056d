//! `kubewasm module precompile`

use anyhow::Context as _;
use indicatif::HumanBytes;
use kubewasm_host::{compile::ChildCompiler, program::Program};
use kubewasm_modules::{ImageName, Store};
use kubewasm_wasi::provider::StoreCompiler;

use super::{ModuleSession, inspect::module_of, progress::Spinner, shapes::CompiledShape};

/// Arguments of `kubewasm module precompile`.
#[derive(Debug, clap::Args)]
pub(super) struct PrecompileArgs {
    /// An image that is here, or a file, which is imported: ./hello.wasm.
    #[arg(value_name = "IMAGE|./FILE.WASM", add = super::candidates::images())]
    name: ImageName,

    /// Which file of an image with a file system, if not the one that it starts.
    #[arg(long, value_name = "PATH")]
    command: Option<String>,
}

pub(super) async fn run(session: &ModuleSession, args: &PrecompileArgs) -> anyhow::Result<()> {
    let store = &session.store;
    let image = match &args.name {
        ImageName::Path(path) => store.import(path).await?,
        name => session.image(name)?,
    };
    // Whoever prunes meanwhile leaves it.
    let _hold = store.hold(&image)?;
    let module = module_of(store, &image, args.command.as_deref()).await?;
    let compiler = StoreCompiler::from(ChildCompiler::new(Program::current())?);
    let spinner = Spinner::new(session, format!("compiling {}", args.name));
    let compiled = store.precompiled(&image.reference, &module, &compiler, "").await;
    drop(spinner);
    let compiled = compiled.with_context(|| format!("cannot compile {}", args.name))?;
    let size_bytes = std::fs::metadata(&compiled.path).map_or(0, |metadata| metadata.len());
    let shape = CompiledShape {
        reference: args.name.to_string(),
        module: module.digest,
        kind: compiled.facts.kind,
        key: Store::compiled_key(&compiler),
        size_bytes,
    };
    session.say(&shape, |out| {
        writeln!(out, "{}: {}, compiled ({})", shape.reference, shape.kind, HumanBytes(shape.size_bytes))
    })
}
