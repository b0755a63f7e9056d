use std::fs;

use super::*;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    image: ./c.wasm\n";

fn parse(text: &str) -> anyhow::Result<Manifest> {
    let mut found = Found::default();
    found.take("pod.yaml", Path::new("/tmp"), text)?;
    found.settle("pod.yaml")
}

fn refusal(text: &str) -> String {
    format!("{:#}", parse(text).unwrap_err())
}

#[test]
fn a_pod_gets_a_namespace_a_uid_and_absolute_paths() {
    let pod = parse(POD).unwrap().pod;
    assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(pod.metadata.uid.as_deref().map(str::len), Some(36));
    let folder = Path::new("/tmp").canonicalize().unwrap();
    let image = pod.spec.unwrap().containers.first().unwrap().image.clone().unwrap();
    assert_eq!(Path::new(&image), folder.join("c.wasm"));
}

#[test]
fn what_is_no_pod_is_named() {
    let table = [
        ("", "pod.yaml: there is no Pod"),
        ("kind: Deployment\n", "pod.yaml: it holds Deployment; `kubewasm run` takes a Pod"),
        ("a: 1\n", "nothing that says its kind"),
        ("kind: Pod\nmetadata: {name: p}\n", "pod.yaml: the Pod has no spec"),
        ("kind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n", "no containers"),
        ("kind: Pod\nmetadata: {}\nspec: {containers: [{name: c, image: i}]}\n", "no metadata.name"),
        ("kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\n", "container \"c\" has no image"),
        ("kind: Pod\nmetadata: [\n", "line 3"),
        ("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: c\n    args: 7\n", "line 6"),
    ];
    for (text, expected) in table {
        let error = refusal(text);
        assert!(error.contains(expected), "{text:?} gives {error:?}");
    }
}

#[test]
fn documents_are_told_apart() {
    let config = "---\nkind: ConfigMap\nmetadata: {name: m}\ndata: {k: v}\n";
    for (text, expected) in [
        (
            format!("{POD}---\n{POD}"),
            "pod.yaml, document 2: a second Pod, after that of pod.yaml, document 1",
        ),
        (
            format!("{POD}{config}{config}"),
            "pod.yaml, document 3: a second object of the name \"m\", after that of",
        ),
        (format!("{POD}---\nkind: Service\n"), "pod.yaml, document 2: it holds Service"),
        (format!("{POD}---\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: [1]\n"), "pod.yaml, document 2: "),
        (format!("{POD}---\nkind: ConfigMap\nmetadata: {{}}\n"), "document 2: it has no metadata.name"),
    ] {
        let error = refusal(&text);
        assert!(error.contains(expected), "{text:?} gives {error:?}");
    }
    let found = parse(&format!("---\n{config}---\n{POD}")).unwrap();
    assert!(found.config_maps.contains_key("m"), "empty documents are nothing");
}

#[test]
fn what_is_wrong_with_a_secret_does_not_tell_it() {
    let error =
        refusal(&format!("{POD}---\nkind: Secret\nmetadata: {{name: s}}\ndata: {{password: hunter2!}}\n"));
    assert!(error.contains("pod.yaml, document 2: this is not a Secret"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn texts_of_secrets_become_bytes_and_go_before_data() {
    let secret = "---\nkind: Secret\nmetadata: {name: s}\ndata: {a: YQ==, b: Yg==}\nstringData: {b: text}\n";
    let found = parse(&format!("{POD}{secret}")).unwrap();
    let data = found.secrets["s"].data.clone().unwrap();
    assert_eq!((data["a"].0.as_slice(), data["b"].0.as_slice()), (&b"a"[..], &b"text"[..]));
    assert_eq!(found.secrets["s"].string_data, None);
}

#[test]
fn what_the_pod_cannot_do_without_has_to_be_there() {
    let pod = |reference: &str| format!("{POD}    envFrom:\n    - {reference}\n");
    let error = refusal(&pod("configMapRef: {name: m}"));
    assert!(
        error.contains("pod.yaml: the Pod refers to the ConfigMap \"m\", which no document holds"),
        "{error}"
    );
    assert!(parse(&pod("configMapRef: {name: m, optional: true}")).is_ok());
    assert!(
        parse(&format!("{}---\nkind: ConfigMap\nmetadata: {{name: m}}\n", pod("configMapRef: {name: m}")))
            .is_ok()
    );
    let elsewhere = "---\nkind: ConfigMap\nmetadata: {name: m, namespace: other}\n";
    let error = refusal(&format!("{}{elsewhere}", pod("configMapRef: {name: m}")));
    assert!(error.contains("its namespace, \"default\""), "{error}");
    let volume = format!("{POD}  volumes: [{{name: v, secret: {{secretName: s}}}}]\n");
    assert!(refusal(&volume).contains("the Secret \"s\""), "{}", refusal(&volume));
}

#[test]
fn a_folder_is_all_its_manifests() {
    let dir = tempfile::tempdir().unwrap();
    let error = format!("{:#}", read(&[dir.path().to_owned()]).unwrap_err());
    assert!(error.contains("holds no file that ends in .yaml"), "{error}");
    fs::write(dir.path().join("10-map.json"), r#"{"kind": "ConfigMap", "metadata": {"name": "m"}}"#).unwrap();
    fs::write(dir.path().join("20-pod.yaml"), POD).unwrap();
    fs::write(dir.path().join("notes.txt"), "nothing").unwrap();
    let found = read(&[dir.path().to_owned()]).unwrap();
    assert!(found.config_maps.contains_key("m"));
    fs::write(dir.path().join("30-bad.yml"), "kind: Pod\nspec: {containers: 1}\n").unwrap();
    let error = format!("{:#}", read(&[dir.path().to_owned()]).unwrap_err());
    assert!(error.contains("30-bad.yml: "), "{error}");
    let error = format!("{:#}", read(&["/nonexistent/pod.yaml".into()]).unwrap_err());
    assert!(error.contains("cannot read /nonexistent/pod.yaml"), "{error}");
    fs::write(dir.path().join("30-bad.yml"), vec![b'#'; usize::try_from(LIMIT).unwrap() + 1]).unwrap();
    let error = format!("{:#}", read(&[dir.path().join("30-bad.yml")]).unwrap_err());
    assert!(error.contains("it is too large"), "{error}");
}
