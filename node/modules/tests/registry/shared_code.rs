//! Compiled code that somebody else has made, signed with the real cosign: used where it is trusted and fits, and
//! otherwise as if it were not there.

use std::path::Path;

use async_trait::async_trait;
use kubewasm_modules::{Compiler, Facts, PrecompileError, Precompiled, SignaturePolicy};

use super::{
    cosign::{Cosign, FORMS, Form},
    support::CodeArtifact,
    *,
};

const KEY: &str = "engine-1+facts-1";

/// A compiler that says that it has compiled here, and counts.
#[derive(Default)]
struct OwnCompiler(AtomicU64);

#[async_trait]
impl Compiler for OwnCompiler {
    fn key(&self) -> String {
        KEY.to_owned()
    }

    async fn compile(&self, module: &Path, out: &Path) -> Result<Facts, PrecompileError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        fs::copy(module, out).unwrap();
        Ok(Facts { kind: "compiled here".to_owned(), ..Facts::default() })
    }
}

/// A node whose policy is `policy`, and that is to bring code for its compiler along.
fn options(policy: &SignaturePolicy) -> StoreOptions {
    StoreOptions {
        signature_policy: policy.clone(),
        compiler_key: Some(KEY.to_owned()),
        ..StoreOptions::default()
    }
}

fn node(policy: &SignaturePolicy) -> Node {
    Node::with(options(policy))
}

fn reopened(node: &Node, policy: &SignaturePolicy) -> Store {
    Store::open(node.directory.path(), options(policy)).unwrap()
}

/// The code of what `command` starts, and how often it was compiled for that.
async fn start(store: &Store, image: &Image, command: &str) -> (Precompiled, u64) {
    let compiler = OwnCompiler::default();
    let module = store.module(image, command).await.unwrap();
    let code = store.precompiled(Some(&image.reference), &module, &compiler, "lane").await.unwrap();
    (code, compiler.0.load(Ordering::SeqCst))
}

async fn assert_shared(store: &Store, image: &Image, command: &str, code: &CodeArtifact) {
    let (used, compiled) = start(store, image, command).await;
    assert_eq!((fs::read(&used.path).unwrap(), compiled), (code.code.clone(), 0));
    assert_eq!(used.facts.kind, "compiled elsewhere");
}

/// The pull has succeeded, and the module is compiled as any other.
async fn assert_compiled_here(store: &Store, image: &Image, command: &str, case: &str) {
    let (used, compiled) = start(store, image, command).await;
    assert_eq!((used.facts.kind.as_str(), compiled), ("compiled here", 1), "{case}");
}

/// An artifact with the module `text`: its digest and the module's.
async fn push_module(registry: &Registry, name: &str, text: &str) -> (String, String) {
    let module = module(text);
    let digest = Digest::of(&module).to_string();
    (registry.push(name, artifact(module, WASM, None)).await, digest)
}

#[tokio::test]
async fn a_node_that_trusts_the_signer_does_not_compile() {
    let (registry, cosign) = (Registry::start_with_login(), Cosign::new());
    cosign.key("builder");
    for form in FORMS {
        let name = format!("{form:?}").to_lowercase();
        let (image, module) = push_module(&registry, &format!("{name}:v1"), &name).await;
        let reference = registry.reference(&format!("{name}:v1"));
        let code = CodeArtifact::new(&module, KEY);
        let pushed = registry.push_code(&name, &image, &code).await;
        cosign.sign(form, "builder", &reference, &pushed);
        let node = node(&cosign.trusting(&reference.name(), "builder"));
        let fetched = node.store.pull(&reference, &[credential(PASSWORD)], None).await.unwrap();
        assert_shared(&node.store, &fetched.image, &name, &code).await;
        assert_eq!(node.count("precompiled"), 0);

        node.store.remove(&fetched.image.reference).unwrap();
        assert_eq!(node.count("shared"), 0);
        node.assert_empty();
    }
}

#[tokio::test]
async fn code_that_is_not_right_is_as_good_as_none() {
    let (registry, cosign) = (Registry::start(), Cosign::new());
    cosign.key("builder");
    cosign.key("stranger");
    type Change = fn(&mut CodeArtifact);
    let cases: [(&str, Option<&str>, Change); 10] = [
        ("unsigned", None, |_| {}),
        ("stranger", Some("stranger"), |_| {}),
        ("compiler", Some("builder"), |code| code.compiler = "engine-2".to_owned()),
        ("module", Some("builder"), |code| code.module = Digest::of(b"another").to_string()),
        ("unnamed", Some("builder"), |code| code.compiler.clear()),
        ("facts", Some("builder"), |code| code.facts = b"<html>".to_vec()),
        ("fact-bomb", Some("builder"), |code| code.facts = vec![b' '; 1 << 20]),
        ("huge", Some("builder"), |code| code.told_size = Some(1 << 40)),
        ("longer", Some("builder"), |code| code.told_size = Some(1)),
        ("shorter", Some("builder"), |code| code.told_size = Some(1 << 20)),
    ];
    for (case, signer, change) in cases {
        let (image, module) = push_module(&registry, &format!("{case}:v1"), case).await;
        let reference = registry.reference(&format!("{case}:v1"));
        let mut code = CodeArtifact::new(&module, KEY);
        change(&mut code);
        let pushed = registry.push_code(case, &image, &code).await;
        if let Some(signer) = signer {
            cosign.sign(Form::Tag, signer, &reference, &pushed);
        }
        let node = node(&cosign.trusting(&reference.name(), "builder"));
        let pulled = pull(&node.store, &reference).await.unwrap();
        assert_eq!(node.count("shared"), 0, "{case}");
        assert_compiled_here(&node.store, &pulled, case, case).await;
        // Good code beside it is found.
        let good = CodeArtifact::new(&module, KEY);
        let pushed = registry.push_code(case, &image, &good).await;
        cosign.sign(Form::Tag, "builder", &reference, &pushed);
        let other = self::node(&cosign.trusting(&reference.name(), "builder"));
        let pulled = pull(&other.store, &reference).await.unwrap();
        assert_shared(&other.store, &pulled, case, &good).await;
    }
}

#[tokio::test]
async fn code_that_was_changed_in_the_registry_is_not_used() {
    let (registry, cosign) = (Registry::start(), Cosign::new());
    cosign.key("builder");
    let (image, module) = push_module(&registry, "app:v1", "app").await;
    let reference = registry.reference("app:v1");
    let code = CodeArtifact::new(&module, KEY);
    let pushed = registry.push_code("app", &image, &code).await;
    cosign.sign(Form::Bundle, "builder", &reference, &pushed);
    let policy = cosign.trusting(&reference.name(), "builder");
    let path = registry.blob(&Digest::of(&code.code).to_string());
    let mut changed = code.code.clone();
    changed[0] ^= 1;
    fs::write(&path, changed).unwrap();

    let node = node(&policy);
    let pulled = pull(&node.store, &reference).await.unwrap();
    assert_eq!(node.count("shared"), 0);
    fs::write(&path, &code.code).unwrap();
    // The image has not changed, and the next pull brings what the last one could not.
    assert_eq!(pull(&node.store, &reference).await.unwrap(), pulled);
    assert_shared(&node.store, &pulled, "app", &code).await;
}

#[tokio::test]
async fn without_keys_for_it_no_registry_is_asked() {
    let (mut registry, cosign) = (Registry::start(), Cosign::new());
    cosign.key("builder");
    let (image, module) = push_module(&registry, "app:v1", "app").await;
    let reference = registry.reference("app:v1");
    let pushed = registry.push_code("app", &image, &CodeArtifact::new(&module, KEY)).await;
    cosign.sign(Form::Tag, "builder", &reference, &pushed);
    cosign.sign(Form::Tag, "builder", &reference, &image);
    let policies = [
        SignaturePolicy::default(),
        cosign.policy(&reference.name(), "builder"),
        cosign.trusting("127.0.0.1:1/elsewhere", "builder"),
    ];
    for policy in policies {
        let node = node(&policy);
        let pulled = pull(&node.store, &reference).await.unwrap();
        assert_compiled_here(&node.store, &pulled, "app", "no keys").await;
        assert_eq!(node.count("shared"), 0);
    }
    // Nor is it without a compiler that would use it.
    let policy = cosign.trusting(&reference.name(), "builder");
    let node = Node::with(StoreOptions { signature_policy: policy, ..StoreOptions::default() });
    pull(&node.store, &reference).await.unwrap();
    let fallback = format!("/manifests/{}", image.replace(':', "-"));
    let asks = |line: &&String| {
        line.contains("kubewasm/") && (is_get(line, "/referrers/") || is_get(line, &format!("{fallback} ")))
    };
    // The second policy asks for signatures of the image, and for nothing else.
    let log = registry.stop();
    let asked: Vec<_> = log.iter().filter(asks).collect();
    assert_eq!(asked.len(), 2, "{asked:#?}");
}

#[tokio::test]
async fn what_was_fetched_is_measured_by_the_policy_of_today() {
    let (mut registry, cosign) = (Registry::start(), Cosign::new());
    cosign.key("old");
    cosign.key("new");
    let (image, module) = push_module(&registry, "app:v1", "app").await;
    let reference = registry.reference("app:v1");
    let code = CodeArtifact::new(&module, KEY);
    let pushed = registry.push_code("app", &image, &code).await;
    cosign.sign(Form::Bundle, "old", &reference, &pushed);
    let [by_old, by_new] = ["old", "new"].map(|key| cosign.trusting(reference.registry(), key));
    let node = node(&by_old);
    let pulled = pull(&node.store, &reference).await.unwrap();
    registry.stop();

    // What is there suffices, and asks nobody.
    assert_shared(&reopened(&node, &by_old), &pulled, "app", &code).await;
    for policy in [&by_new, &SignaturePolicy::default()] {
        let store = reopened(&node, policy);
        assert_compiled_here(&store, &pulled, "app", "no longer trusted").await;
        fs::remove_dir_all(node.directory.path().join("precompiled")).unwrap();
        fs::create_dir(node.directory.path().join("precompiled")).unwrap();
    }
    let store = reopened(&node, &by_old);
    assert_shared(&store, &pulled, "app", &code).await;
}

/// What is in an index.
struct TwoModules {
    /// Digest of the manifest.
    child: String,
    modules: [Vec<u8>; 2],
}

/// Pushes `app:v1`, an index of one image, whose modules are `/first.wasm`, which it starts, and `/bin/second`.
async fn push_two_modules(registry: &Registry) -> TwoModules {
    let modules = ["first", "second"].map(module);
    let layer = tar(&[("first.wasm", &modules[0]), ("bin/second", &modules[1])]);
    let image = container(vec![(layer, TAR)], json!({"Entrypoint": ["/first.wasm"]}));
    let child = registry.push("app:wasi", image).await;
    registry.push_index("app:v1", &[(child.as_str(), "wasi", "wasm")]).await;
    TwoModules { child, modules }
}

#[tokio::test]
async fn an_image_with_several_modules_has_code_for_each() {
    let (registry, cosign) = (Registry::start(), Cosign::new());
    cosign.key("builder");
    let TwoModules { child, modules: [first, second] } = push_two_modules(&registry).await;
    let reference = registry.reference("app:v1");
    let mut pushed = Vec::new();
    // The first says that a module is where another one is.
    for (module, command) in [(&second, "/first.wasm"), (&first, "/first.wasm"), (&second, "second")] {
        let mut code = CodeArtifact::new(&Digest::of(module).to_string(), KEY);
        code.command = Some(command.to_owned());
        code.code.extend(command.as_bytes());
        let digest = registry.push_code("app", &child, &code).await;
        cosign.sign(Form::Tag, "builder", &reference, &digest);
        pushed.push(code);
    }
    let node = node(&cosign.trusting(&reference.name(), "builder"));
    let pulled = pull(&node.store, &reference).await.unwrap();
    assert_eq!(node.count("shared"), 2);
    assert_shared(&node.store, &pulled, "/first.wasm", &pushed[1]).await;
    assert_shared(&node.store, &pulled, "/bin/second", &pushed[2]).await;
    node.store.remove(&pulled.reference).unwrap();
    assert_eq!(node.count("shared"), 0);
}

/// What one node has compiled, pushed and had signed, another one uses; what others keep in the list of referrers stays.
#[tokio::test]
async fn what_one_node_has_compiled_another_one_need_not() {
    let (registry, cosign) = (Registry::start_with_login(), Cosign::new());
    cosign.key("team");
    cosign.key("builder");
    let (image, module) = push_module(&registry, "app:v1", "app").await;
    let reference = registry.reference("app:v1");
    cosign.sign(Form::Bundle, "team", &reference, &image);
    let builder = Node::new();
    let credentials = [credential("wrong"), credential(PASSWORD)];
    let pulled = builder.store.pull(&reference, &credentials, None).await.unwrap().image;
    let compiler = OwnCompiler::default();
    let push = || builder.store.push_precompiled(&pulled, "app", &compiler, &credentials, None);
    let error = push().await.unwrap_err();
    assert!(error.to_string().contains("its module has not been compiled here"), "{error}");

    assert_compiled_here(&builder.store, &pulled, "app", "the builder's own").await;
    let pushed = push().await.unwrap();
    let size = builder.store.compiled(&module.parse().unwrap()).unwrap()[0].size_bytes;
    assert_eq!((pushed.size, pushed.credential), (size, Some(1)));
    assert_eq!(push().await.unwrap(), pushed, "the same again");
    cosign.sign(Form::Bundle, "builder", &reference, &pushed.digest.to_string());

    let policy = cosign.write_policy(&format!(
        "default: {{action: reject}}\n\
         rules: [{{prefix: '{}', action: verify, keys: [{{file: team.pub}}], precompiledKeys: [{{file: builder.pub}}]}}]\n",
        reference.name()
    ));
    let node = node(&policy);
    let fetched = node.store.pull(&reference, &credentials, None).await.unwrap().image;
    let (used, compiled) = start(&node.store, &fetched, "app").await;
    assert_eq!((used.facts.kind.as_str(), compiled), ("compiled here", 0), "by the builder");
    let listed = node.store.compiled(&module.parse().unwrap()).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].key.as_str(), listed[0].signed_by.as_deref()), (KEY, Some("builder.pub")));
    assert_eq!(listed[0].size_bytes, size);
    // Nobody vouches for what was made elsewhere by passing it on.
    let error =
        node.store.push_precompiled(&fetched, "app", &compiler, &credentials, None).await.unwrap_err();
    assert!(error.to_string().contains("its module has not been compiled here"), "{error}");
}

#[tokio::test]
async fn each_module_of_an_image_is_pushed_for_itself() {
    let (registry, cosign) = (Registry::start(), Cosign::new());
    cosign.key("builder");
    let TwoModules { modules: [first, second], .. } = push_two_modules(&registry).await;
    let reference = registry.reference("app:v1");
    let builder = Node::new();
    let pulled = pull(&builder.store, &reference).await.unwrap();
    for command in ["/first.wasm", "second"] {
        assert_compiled_here(&builder.store, &pulled, command, "the builder's own").await;
        let pushed =
            builder.store.push_precompiled(&pulled, command, &OwnCompiler::default(), &[], None).await;
        cosign.sign(Form::Tag, "builder", &reference, &pushed.unwrap().digest.to_string());
    }
    let node = node(&cosign.trusting(&reference.name(), "builder"));
    let pulled = pull(&node.store, &reference).await.unwrap();
    for (command, module) in [("/first.wasm", &first), ("second", &second)] {
        let (used, compiled) = start(&node.store, &pulled, command).await;
        assert_eq!((&fs::read(&used.path).unwrap(), compiled), (module, 0));
    }
}

#[tokio::test]
async fn a_file_has_no_registry_to_push_to() {
    let node = Node::new();
    let path = node.directory.path().join("app.wasm");
    fs::write(&path, module("app")).unwrap();
    let image = node.store.import(&path).await.unwrap();
    let pushed = node.store.push_precompiled(&image, "app.wasm", &OwnCompiler::default(), &[], None).await;
    assert!(pushed.unwrap_err().to_string().contains("push the module first"));
}
