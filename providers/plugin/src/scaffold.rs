//! The files of a new plugin in Rust: a project that builds, with the library that plugins are made of in it. Pure.

/// What is put in the place of a plugin's name.
const NAME: &str = "{{name}}";
/// Bytes of a name.
const LONGEST: usize = 64;

/// Commands of kubectl 1.36 itself. It looks for no plugin of such a name.
const KUBECTLS: &str = "\
    alpha annotate api-resources api-versions apply attach auth autoscale certificate cluster-info completion config cordon cp \
    create debug delete describe diff drain edit events exec explain expose get help kuberc kustomize label logs options patch \
    plugin port-forward proxy replace rollout run scale set taint top uncordon version wait";

/// A file of a new project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaffoldFile {
    /// Relative to the project's folder.
    pub path: &'static str,
    /// What is in it.
    pub contents: String,
}

/// A name that no new plugin can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScaffoldNameError {
    /// A package of Cargo and a command of kubectl is not called like that.
    #[error(
        "{0:?} is no name for a new plugin: lower-case letters, digits and `-` are, with a letter in front, up to {LONGEST}"
    )]
    Invalid(String),
    /// kubectl would not run it.
    #[error(
        "kubectl has a command {0:?} of its own, and would never run a plugin of that name: choose another one"
    )]
    Taken(String),
}

macro_rules! library {
    ($($file:literal)*) => {
        [$((
            concat!("kubectl-plugin/", $file),
            include_str!(concat!("../../../demos/plugins/kubectl-plugin/", $file)),
        )),*]
    };
}

/// The library, as it is in this repository.
const LIBRARY: [(&str, &str); 20] = library! {
    "Cargo.toml"
    "src/age.rs"
    "src/api.rs"
    "src/api/tests.rs"
    "src/client.rs"
    "src/error.rs"
    "src/error/tests.rs"
    "src/flags.rs"
    "src/frames.rs"
    "src/lib.rs"
    "src/output.rs"
    "src/path.rs"
    "src/plugin.rs"
    "src/table.rs"
    "src/testing.rs"
    "src/transport.rs"
    "src/wasi.rs"
    "src/watch.rs"
    "src/watch/retry.rs"
    "src/watch/tests.rs"
};

/// What is the plugin's own. The versions of dependencies are those that the plugins of this repository are tested with; Cargo
/// leaves out what this one does not need.
const OWN: [(&str, &str); 7] = [
    ("Cargo.toml", include_str!("scaffold/Cargo.toml.tmpl")),
    ("Cargo.lock", include_str!("../../../demos/plugins/Cargo.lock")),
    ("src/main.rs", include_str!("scaffold/main.rs.tmpl")),
    ("access.yaml", include_str!("scaffold/access.yaml")),
    ("README.md", include_str!("scaffold/README.md.tmpl")),
    ("rust-toolchain.toml", include_str!("scaffold/rust-toolchain.toml")),
    (".gitignore", include_str!("scaffold/gitignore")),
];

/// The files of a project for a plugin of this name.
///
/// # Errors
/// [`ScaffoldNameError`].
pub fn files(name: &str) -> Result<Vec<ScaffoldFile>, ScaffoldNameError> {
    check(name)?;
    let own =
        OWN.into_iter().map(|(path, contents)| ScaffoldFile { path, contents: contents.replace(NAME, name) });
    let library =
        LIBRARY.into_iter().map(|(path, contents)| ScaffoldFile { path, contents: contents.to_owned() });
    Ok(own.chain(library).collect())
}

/// The folder of such a project, which is also what its package is called.
#[must_use]
pub fn folder(name: &str) -> String {
    format!("kubectl-{name}")
}

/// What to do with a project, as commands: its tests, its component, and a run of that.
#[must_use]
pub fn next_steps(name: &str) -> [String; 3] {
    [
        "cargo test".to_owned(),
        "cargo build --release --target wasm32-wasip2".to_owned(),
        format!(
            "kubewasm plugin run target/wasm32-wasip2/release/{}.wasm --access access.yaml -- --all-namespaces",
            folder(name)
        ),
    ]
}

fn check(name: &str) -> Result<(), ScaffoldNameError> {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let is_name = name.len() <= LONGEST
        && name.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && name.split('-').all(is_part);
    match is_name {
        true if KUBECTLS.split(' ').any(|command| command == name) => {
            Err(ScaffoldNameError::Taken(name.to_owned()))
        }
        true => Ok(()),
        false => {
            let shown = name.chars().filter(|character| !character.is_control()).take(LONGEST);
            Err(ScaffoldNameError::Invalid(shown.collect()))
        }
    }
}

#[cfg(test)]
mod tests;
