//! From the text of a file to the pod that it describes.

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, de::DeserializeOwned};
use serde_yaml_ng::{Deserializer, Error, Value};

const EMPTY: &str = "the file is empty; it should hold a Pod";

/// The pods of a list, whose items need not say what they are.
#[derive(Deserialize)]
struct PodList {
    #[serde(default)]
    items: Vec<Pod>,
}

/// Reads the one Pod in `text`, YAML or JSON.
///
/// The error is a sentence, with the line in front where there is one; it does not name the file.
pub(super) fn parse(text: &str) -> Result<Pod, String> {
    let (index, document) = only_document(text)?.ok_or(EMPTY)?;
    let (kind, version) = (field(&document, "kind"), field(&document, "apiVersion"));
    if (version, kind) != ("v1", "Pod") {
        return Err(format!(
            "the file holds a {kind:?} of apiVersion {version:?}; a static pod is a \"Pod\" of \"v1\""
        ));
    }
    again(text, index)
}

/// Reads the Pod or the pods of the PodList in `text`, YAML or JSON; of a text without anything, none.
///
/// The error is a sentence, with the line in front where there is one.
pub(super) fn parse_all(text: &str) -> Result<Vec<Pod>, String> {
    let Some((index, document)) = only_document(text)? else { return Ok(Vec::new()) };
    match (field(&document, "apiVersion"), field(&document, "kind")) {
        ("v1", "Pod") => Ok(vec![again(text, index)?]),
        ("v1", "PodList") => again::<PodList>(text, index).map(|list| list.items),
        (version, kind) => Err(format!(
            "it is a {kind:?} of apiVersion {version:?}; static pods are a \"Pod\" or a \"PodList\" of \"v1\""
        )),
    }
}

fn field<'a>(document: &'a Value, name: &str) -> &'a str {
    document.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The one document in `text`, if there is any, and which one it is.
fn only_document(text: &str) -> Result<Option<(usize, Value)>, String> {
    let mut documents = Vec::new();
    for document in Deserializer::from_str(text) {
        documents.push(Value::deserialize(document).map_err(|error| explain(&error))?);
    }
    // What stands before the first and after the last `---` may be nothing.
    let mut full = documents.into_iter().enumerate().filter(|(_, document)| !document.is_null());
    let first = full.next();
    if full.next().is_some() {
        return Err(
            "there is more than one document: give each pod a file of its own; a URL may answer with a \
                    PodList"
                .to_owned(),
        );
    }
    Ok(first)
}

/// Reads a document from the text, because only then do errors say on which line they are, and a text may be written as a
/// number (`cpu: 1`).
fn again<T: DeserializeOwned>(text: &str, index: usize) -> Result<T, String> {
    let document = Deserializer::from_str(text).nth(index).ok_or(EMPTY)?;
    T::deserialize(document).map_err(|error| explain(&error))
}

/// serde's message with the line in front.
fn explain(error: &Error) -> String {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or_default();
    match error.location() {
        Some(place) => format!("line {}: {message}", place.line()),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n";

    #[test]
    fn yaml_and_json_are_read() {
        let json = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"p\"},\n\t\
                    \"spec\": {\"containers\": [{\"name\": \"c\"}]}\n}\n";
        for text in [HEAD.to_owned(), format!("---\n{HEAD}"), format!("{HEAD}---\n"), json.to_owned()] {
            let pod = parse(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(pod.metadata.name.as_deref(), Some("p"));
            assert_eq!(pod.spec.unwrap().containers[0].name, "c");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, expected) in [
            (String::new(), "the file is empty"),
            ("# nothing but words\n".to_owned(), "the file is empty"),
            ("just words".to_owned(), "a \"\" of apiVersion \"\""),
            ("apiVersion: v1\nkind: PodList\nitems: []\n".to_owned(), "\"PodList\" of apiVersion \"v1\""),
            ("apiVersion: apps/v1\nkind: Pod\n".to_owned(), "\"Pod\" of apiVersion \"apps/v1\""),
            (format!("{HEAD}---\n{HEAD}"), "more than one document"),
            ("apiVersion: v1\nkind: Pod\nmetadata: [\n".to_owned(), "line 4: "),
            (format!("{HEAD}    image: [a]\n"), "line 7: spec.containers[0].image: invalid type"),
            (format!("{HEAD}    command: sh\n"), "line 7: spec.containers[0].command: invalid type"),
        ] {
            let message = parse(&text).expect_err(&text);
            assert!(message.contains(expected), "{text:?} gives {message:?}");
        }
    }

    #[test]
    fn quantities_may_be_numbers() {
        let text = format!(
            "{HEAD}    resources:\n      limits: {{cpu: 1, memory: 64Mi}}\n      requests: {{cpu: 0.5}}\n"
        );
        let resources = parse(&text).unwrap().spec.unwrap().containers[0].resources.clone().unwrap();
        assert_eq!(resources.limits.unwrap()["cpu"].0, "1");
        assert_eq!(resources.requests.unwrap()["cpu"].0, "0.5");
    }

    #[test]
    fn an_answer_may_be_a_list() {
        let names = |text: &str| {
            parse_all(text)
                .map(|pods| pods.into_iter().filter_map(|pod| pod.metadata.name).collect::<Vec<_>>())
        };
        assert_eq!(names(HEAD), Ok(vec!["p".to_owned()]));
        let item = r#"{"metadata": {"name": "NAME"}, "spec": {"containers": [{"name": "c"}]}}"#;
        let (a, b) = (item.replace("NAME", "a"), item.replace("NAME", "b"));
        let list = format!("{{\"apiVersion\": \"v1\", \"kind\": \"PodList\", \"items\": [{a}, {b}]}}");
        assert_eq!(names(&list), Ok(vec!["a".to_owned(), "b".to_owned()]));
        for nothing in ["", "\n", "apiVersion: v1\nkind: PodList\nitems: []\n"] {
            assert_eq!(names(nothing), Ok(Vec::new()), "{nothing:?}");
        }
        let error = names("apiVersion: v1\nkind: List\nitems: []\n").unwrap_err();
        assert!(error.contains("a \"Pod\" or a \"PodList\""), "{error}");
        let error = names("apiVersion: v1\nkind: PodList\nitems: [{spec: 1}]\n").unwrap_err();
        assert!(error.contains("items[0].spec"), "{error}");
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..20 {
            let before = format!("*a{}, ", level - 1).repeat(9);
            text.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        let message = parse(&text).unwrap_err();
        assert!(message.contains("repetition limit"), "{message}");
    }
}
