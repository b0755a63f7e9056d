//! The real cosign, which signs images in the registries of tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use kubewasm_modules::{Reference, SignaturePolicy};
use tempfile::TempDir;

use super::support::{PASSWORD, USER};

/// The two forms in which cosign keeps signatures in registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// What cosign 3 does when nothing else is said: a bundle that refers to the image.
    Bundle,
    /// What cosign did before: the tag `sha256-<hex>.sig`.
    Tag,
}

pub(crate) const FORMS: [Form; 2] = [Form::Bundle, Form::Tag];

/// cosign with a home of its own, which reaches nothing but this machine.
pub(crate) struct Cosign {
    home: TempDir,
}

impl Cosign {
    pub(crate) fn new() -> Self {
        let cosign = Self { home: TempDir::new().unwrap() };
        // No transparency log and no other service, and nothing to be trusted for them.
        cosign.run(&["signing-config", "create", "--out", "services.json"]);
        cosign.run(&["trusted-root", "create", "--out", "roots.json"]);
        cosign
    }

    /// Makes a pair of keys, `<name>.key` and `<name>.pub`; the path of the latter.
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.run(&["generate-key-pair", "--output-key-prefix", name]);
        self.home.path().join(format!("{name}.pub"))
    }

    /// Signs the image `digest` of the repository of `reference` with the key `name`.
    pub(crate) fn sign(&self, form: Form, name: &str, reference: &Reference, digest: &str) {
        self.sign_noting(form, name, reference, digest, &[]);
    }

    /// The same, with these arguments besides.
    pub(crate) fn sign_noting(
        &self,
        form: Form,
        name: &str,
        reference: &Reference,
        digest: &str,
        more: &[&str],
    ) {
        let key = format!("{name}.key");
        let image = format!("{}@{digest}", reference.name());
        let mut arguments = vec!["sign", "--yes", "--key", &key];
        arguments.extend(match form {
            Form::Bundle => [
                "--signing-config=services.json",
                "--trusted-root=roots.json",
                "--record-creation-timestamp=false",
            ],
            Form::Tag => ["--new-bundle-format=false", "--use-signing-config=false", "--tlog-upload=false"],
        });
        arguments.extend(more);
        // A registry that wants to know nobody does not look at them.
        arguments.extend(["--registry-username", USER, "--registry-password", PASSWORD, &image]);
        self.run(&arguments);
    }

    /// A policy that asks for signatures of images below `prefix` by the key `name`, and for nothing else.
    pub(crate) fn policy(&self, prefix: &str, name: &str) -> SignaturePolicy {
        self.write_policy(&format!(
            "default: {{action: accept}}\n\
             rules: [{{prefix: '{prefix}', action: verify, keys: [{{file: {name}.pub}}]}}]\n"
        ))
    }

    /// A policy that trusts what the key `name` has signed of compiled code for images below `prefix`, and asks for no
    /// signatures.
    pub(crate) fn trusting(&self, prefix: &str, name: &str) -> SignaturePolicy {
        self.write_policy(&format!(
            "default: {{action: accept}}\n\
             rules: [{{prefix: '{prefix}', action: accept, precompiledKeys: [{{file: {name}.pub}}]}}]\n"
        ))
    }

    pub(crate) fn write_policy(&self, text: &str) -> SignaturePolicy {
        let path = self.home.path().join("policy.yaml");
        fs::write(&path, text).unwrap();
        SignaturePolicy::read(&path).unwrap()
    }

    fn run(&self, arguments: &[&str]) {
        let output = Command::new(program())
            .args(arguments)
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("COSIGN_PASSWORD", "")
            // Nobody listens there: what should not leave this machine does not.
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cosign {arguments:?} ends with {}: {said}", output.status);
    }
}

/// Where cosign is; the first who asks builds it, if need be, which takes minutes.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cosign/build.sh");
        let output = Command::new(&script).stderr(std::process::Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{} has failed; what it said above tells why", script.display());
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
    })
}
