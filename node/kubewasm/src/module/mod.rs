//! `kubewasm module`: the module store, by hand.
//!
//! It is the store that `kubewasm run` has, or with `--root-dir` that of a node, which may be at work with it meanwhile.
//! What is printed for people is a matter of taste; what `-o json` prints ([`shapes`]) is documented and stays.

pub(crate) mod candidates;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod precompile;
pub(crate) mod progress;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod remove;
mod shapes;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use kubewasm_kubelet::{agent, registry_auth::NodeCredentials};
use kubewasm_modules::{
    Credential, Image, ImageName, PullError, PullFailure, Store, StoreError, StoreOptions,
};
use serde::Serialize;

use crate::{home, runtime};

/// Something that was asked for is not there: in the store, or in the registry.
const NOT_THERE: u8 = 3;
/// The registry refused.
const DENIED: u8 = 4;
/// The registry did not answer. It may later.
const UNAVAILABLE: u8 = 5;

/// Arguments of `kubewasm module`.
#[derive(Debug, clap::Args)]
pub(crate) struct ModuleArgs {
    #[command(flatten)]
    common: CommonArgs,

    #[command(subcommand)]
    command: ModuleCommand,
}

/// What all commands take.
#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// Where modules are kept; a node's are in its own, /var/lib/kubewasm
    /// [default: kubewasm in the user's cache folder].
    #[arg(long, global = true, value_name = "DIR")]
    root_dir: Option<PathBuf>,

    #[command(flatten)]
    store: StoreArgs,
}

/// Where modules come from, and how to say what came of it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct StoreArgs {
    /// How to say what came of it.
    #[arg(short, long, global = true, value_enum, default_value_t = OutputFormat::Text, value_name = "FORMAT")]
    output: OutputFormat,

    #[command(flatten)]
    pub(crate) registries: RegistryArgs,
}

impl From<RegistryArgs> for StoreArgs {
    fn from(registries: RegistryArgs) -> Self {
        Self { output: OutputFormat::default(), registries }
    }
}

/// Where modules come from.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RegistryArgs {
    /// A registry that is spoken to without TLS, besides those on this machine. May be repeated.
    #[arg(long, global = true, value_name = "HOST[:PORT]")]
    insecure_registry: Vec<String>,

    /// A folder with a folder for each registry, in which a hosts.toml names its mirrors, as containerd's config_path.
    /// May be repeated, or several with colons between them.
    #[arg(long, global = true, value_name = "DIR", value_delimiter = ':')]
    registry_config_dir: Vec<PathBuf>,

    /// A PEM file of certificate authorities to trust besides the system's. May be repeated.
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Vec<PathBuf>,

    /// Which images of registries must be signed, and by whom: a file in YAML or JSON [default: none must].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) image_signature_policy: Option<PathBuf>,
}

impl RegistryArgs {
    /// A store that takes images from there.
    pub(crate) fn store_options(&self) -> anyhow::Result<StoreOptions> {
        let signature_policy = runtime::signature_policy(self.image_signature_policy.as_deref())?;
        Ok(StoreOptions {
            insecure_registries: self.insecure_registry.clone(),
            registry_config_directories: self.registry_config_dir.clone(),
            certificate_authorities: self.ca_file.clone(),
            compiler_key: runtime::compiler_key(&signature_policy)?,
            signature_policy,
            ..StoreOptions::default()
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object, for programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum ModuleCommand {
    /// Fetch an image from its registry.
    Pull(pull::PullArgs),
    /// Send a module to a registry, as a Wasm OCI artifact.
    Push(push::PushArgs),
    /// List the images that are here.
    #[command(visible_alias = "list")]
    Ls,
    /// Say what a module is, of an image that is here or of a file.
    Inspect(inspect::InspectArgs),
    /// Remove images.
    Rm(remove::RemoveArgs),
    /// Remove the images that no container uses.
    Prune(remove::PruneArgs),
    /// Compile the module of an image, so that its first start need not.
    Precompile(precompile::PrecompileArgs),
}

/// Runs the command. Exit codes besides the program's own: 3 for what is not there, 4 for a registry that refuses, 5 for
/// one that does not answer.
pub(crate) fn main(args: ModuleArgs) -> anyhow::Result<ExitCode> {
    let tokio = tokio_runtime()?;
    let ModuleArgs { common, command } = args;
    let outcome = tokio.block_on(async {
        let root = common.root_dir.map_or_else(home::default_root, Ok)?;
        let session = ModuleSession::open(&root, common.store)?;
        match command {
            ModuleCommand::Pull(args) => pull::run(&session, &args).await,
            ModuleCommand::Push(args) => push::run(&session, &args).await,
            ModuleCommand::Ls => list::run(&session),
            ModuleCommand::Inspect(args) => inspect::run(&session, &args).await,
            ModuleCommand::Rm(args) => remove::run(&session, &args),
            ModuleCommand::Prune(args) => remove::prune(&session, &args),
            ModuleCommand::Precompile(args) => precompile::run(&session, &args).await,
        }
    });
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("kubewasm: {}", text(&error));
            Ok(ExitCode::from(exit_code(&error)))
        }
    }
}

/// An error with its causes, but for those that it has told itself.
pub(crate) fn text(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(PullError { reason, .. }) = error.downcast_ref() {
        return match reason {
            PullFailure::NotFound(_) => NOT_THERE,
            PullFailure::Denied(_) => DENIED,
            PullFailure::Unavailable(_) => UNAVAILABLE,
            _ => 1,
        };
    }
    match error.downcast_ref() {
        Some(StoreError::Absent { .. }) => NOT_THERE,
        _ => 1,
    }
}

/// What every command works with.
#[derive(Debug)]
pub(crate) struct ModuleSession {
    pub(crate) store: Store,
    output: OutputFormat,
}

impl ModuleSession {
    /// Opens the store below `root`.
    pub(crate) fn open(root: &Path, args: StoreArgs) -> anyhow::Result<Self> {
        let StoreArgs { output, registries: args } = args;
        agent::check_root(root)?;
        let options = StoreOptions {
            // One user's, who may read them all the same.
            file_directories: vec![PathBuf::from("/")],
            ..args.store_options()?
        };
        let store = Store::open(&root.join("modules"), options).context("cannot open the module store")?;
        Ok(Self { store, output })
    }

    /// The same for work that nobody looks at: no bars are drawn.
    #[cfg(feature = "policy")]
    pub(crate) fn quiet(self) -> Self {
        Self { output: OutputFormat::Json, ..self }
    }

    /// The image of that name, which must be here.
    fn image(&self, name: &ImageName) -> anyhow::Result<Image> {
        let image = self.store.get(name)?;
        Ok(image.ok_or_else(|| StoreError::Absent { image: name.to_string() })?)
    }

    /// Says the result: `value` to programs, what `text` writes to people.
    pub(crate) fn say(
        &self,
        value: &impl Serialize,
        text: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        print(|out| match self.output {
            OutputFormat::Json => {
                serde_json::to_writer_pretty(&mut *out, value)?;
                writeln!(out)
            }
            OutputFormat::Text => text(out),
        })
    }

    pub(crate) fn is_for_people(&self) -> bool {
        self.output == OutputFormat::Text
    }
}

/// Prints a result. A reader that has seen enough, as `head` has, is fine.
pub(crate) fn print(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write the result"),
    }
}

/// What commands that fetch modules are run on.
pub(crate) fn tokio_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // Another part of the program may have chosen already; both choices are fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")
}

/// What this user has for the registry of an image.
pub(crate) async fn credentials(image: &ImageName) -> Vec<Credential> {
    credentials_of(&home::credentials(), image).await
}

/// What these have for the registry of an image.
pub(crate) async fn credentials_of(known: &NodeCredentials, image: &ImageName) -> Vec<Credential> {
    let found = known.for_image(&image.to_string()).await;
    let plain =
        |c: kubewasm_kubelet::runtime::Credential| Credential { username: c.username, password: c.password };
    found.credentials.into_iter().map(plain).collect()
}

/// The error of a transfer; for one that was refused, with what a user of this command can do.
pub(crate) fn refused(error: PullError, image: &ImageName, credentials: usize) -> anyhow::Error {
    let denied = matches!(error.reason, PullFailure::Denied(_));
    let error = anyhow::Error::new(error);
    let (true, ImageName::Reference(reference)) = (denied, image) else { return error };
    error.context(format!(
        "{} takes none of the {credentials} credentials that this user has for it; log in with `docker login {0}`",
        reference.registry()
    ))
}

/// Digests as people tell them apart.
fn short(digest: &kubewasm_modules::Digest) -> String {
    digest.to_string().chars().take("sha256:".len() + 12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_once_and_has_its_code() {
        let failed = |reason| anyhow::Error::new(PullError { image: "r.io/a".to_owned(), reason });
        let absent = StoreError::Absent { image: "r.io/a".to_owned() };
        for (error, code, expected) in [
            (
                failed(PullFailure::NotFound("404".to_owned())),
                NOT_THERE,
                r#"failed to pull image "r.io/a": not found: 404; check the name and the tag"#,
            ),
            (
                failed(PullFailure::Denied("401".to_owned())).context("log in"),
                DENIED,
                r#"log in: failed to pull image "r.io/a": access denied: 401"#,
            ),
            (
                failed(PullFailure::Unavailable("x".to_owned())),
                UNAVAILABLE,
                r#"failed to pull image "r.io/a": the registry is unavailable: x"#,
            ),
            (absent.into(), NOT_THERE, "r.io/a is not in the module store; pull it first"),
            (anyhow::anyhow!("inner").context("outer"), 1, "outer: inner"),
        ] {
            assert_eq!((text(&error).as_str(), exit_code(&error)), (expected, code));
        }
    }
}
