//! `kubewasm module precompile`

use anyhow::{Context as _, ensure};
use indicatif::HumanBytes;
use kubewasm_host::{compile::ChildCompiler, program::Program};
use kubewasm_modules::{Image, ImageName, Module, Precompiled, PullProgress, PushedCode, Store};
use kubewasm_wasi::provider::StoreCompiler;

use super::{
    ModuleSession, credentials,
    inspect::command_of,
    progress::{Spinner, TransferBar},
    refused,
    shapes::CompiledShape,
};

/// Arguments of `kubewasm module precompile`.
#[derive(Debug, clap::Args)]
pub(super) struct PrecompileArgs {
    /// An image that is here, or a file, which is imported: ./hello.wasm.
    #[arg(value_name = "IMAGE|./FILE.WASM", add = super::candidates::images())]
    name: ImageName,

    /// Which file of an image with a file system, if not the one that it starts.
    #[arg(long, value_name = "PATH")]
    command: Option<String>,

    /// Send what was compiled to the image's registry, beside the image, for nodes that trust whoever signs it there.
    #[arg(long)]
    push: bool,
}

pub(super) async fn run(session: &ModuleSession, args: &PrecompileArgs) -> anyhow::Result<()> {
    let store = &session.store;
    ensure!(
        !args.push || matches!(args.name, ImageName::Reference(_)),
        "{} is no image of a registry, beside which something could be pushed; push the module first",
        args.name
    );
    let image = match &args.name {
        ImageName::Path(path) => store.import(path).await?,
        name => session.image(name)?,
    };
    // Whoever prunes meanwhile leaves it.
    let _hold = store.hold(&image)?;
    let command = command_of(&image, args.command.as_deref())?;
    let module = store.module(&image, command).await?;
    let compiler = StoreCompiler::from(ChildCompiler::new(Program::current())?);
    // Only what was compiled here is pushed.
    let trusting = (!args.push).then_some(&image.reference);
    let compiled = compile(session, &image, trusting, &module, &compiler).await?;
    let size_bytes = std::fs::metadata(&compiled.path).map_or(0, |metadata| metadata.len());
    let pushed = match args.push {
        true => Some(push(session, &image, command, &compiler).await?),
        false => None,
    };
    let shape = CompiledShape {
        reference: args.name.to_string(),
        module: module.digest,
        kind: compiled.facts.kind,
        key: Store::compiled_key(&compiler),
        size_bytes,
        pushed: pushed.map(|pushed| pushed.digest),
    };
    session.say(&shape, |out| match (&args.name, shape.pushed) {
        // What is to be signed.
        (ImageName::Reference(reference), Some(digest)) => {
            writeln!(out, "{}@{digest} ({})", reference.name(), HumanBytes(shape.size_bytes))
        }
        _ => {
            writeln!(out, "{}: {}, compiled ({})", shape.reference, shape.kind, HumanBytes(shape.size_bytes))
        }
    })
}

/// Compiles the module of an image, unless that was done before, here or by whom the policy trusts with this name.
pub(crate) async fn compile(
    session: &ModuleSession,
    image: &Image,
    trusting: Option<&ImageName>,
    module: &Module,
    compiler: &StoreCompiler,
) -> anyhow::Result<Precompiled> {
    let spinner = Spinner::new(session, format!("compiling {}", image.reference));
    let compiled = session.store.precompiled(trusting, module, compiler, "").await;
    drop(spinner);
    compiled.with_context(|| format!("cannot compile {}", image.reference))
}

async fn push(
    session: &ModuleSession,
    image: &Image,
    command: &str,
    compiler: &StoreCompiler,
) -> anyhow::Result<PushedCode> {
    let name = &image.reference;
    let credentials = credentials(name).await;
    let bar = TransferBar::new(session, format!("pushing the compiled form of {name}"));
    let listener = |state: PullProgress| bar.update(state);
    let pushed =
        session.store.push_precompiled(image, command, compiler, &credentials, Some(&listener)).await;
    drop(bar);
    pushed.map_err(|error| refused(error, name, credentials.len()))
}
