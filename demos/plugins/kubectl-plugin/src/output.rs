//! Objects in the forms of `-o`. Pure.

use std::str::FromStr;

use serde::Serialize;

use crate::error::{Error, Result};

/// What `-o` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Nothing: what people read.
    #[default]
    Human,
    /// `wide`: the same with more columns.
    Wide,
    /// `json`
    Json,
    /// `yaml`
    Yaml,
    /// `name`: kind and name.
    Name,
}

impl Output {
    /// What can be asked for, for messages and completions.
    pub const NAMES: [&str; 4] = ["json", "name", "wide", "yaml"];
}

impl FromStr for Output {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "" => Ok(Self::Human),
            "wide" => Ok(Self::Wide),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            "name" => Ok(Self::Name),
            _ => Err(Error::failed(format!(
                "unable to match a printer suitable for the output format {text:?}, allowed formats are: {}",
                Self::NAMES.join(",")
            ))),
        }
    }
}

/// JSON as kubectl prints it: four spaces, and a line's end.
///
/// # Errors
/// When the value has no form in JSON.
pub fn json(value: &impl Serialize) -> Result<String> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    value.serialize(&mut serializer).map_err(|error| Error::failed(format!("no JSON: {error}")))?;
    text.push(b'\n');
    String::from_utf8(text).map_err(|error| Error::failed(format!("no JSON: {error}")))
}

/// YAML as kubectl prints it, with the keys of objects in order.
///
/// # Errors
/// When the value has no form in YAML.
pub fn yaml(value: &impl Serialize) -> Result<String> {
    let sorted = serde_json::to_value(value).map_err(|error| Error::failed(format!("no YAML: {error}")))?;
    serde_yaml_ng::to_string(&sorted).map_err(|error| Error::failed(format!("no YAML: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_have_the_forms_of_kubectl() {
        let value = json!({"b": [1, {"c": "x"}], "a": {}});
        assert_eq!(
            json(&value).unwrap(),
            "{\n    \"a\": {},\n    \"b\": [\n        1,\n        {\n            \"c\": \"x\"\n        }\n    ]\n}\n"
        );
        assert_eq!(yaml(&value).unwrap(), "a: {}\nb:\n- 1\n- c: x\n");
    }

    #[test]
    fn a_form_that_does_not_exist_is_answered_with_those_that_do() {
        assert_eq!("json".parse::<Output>().unwrap(), Output::Json);
        assert_eq!("".parse::<Output>().unwrap(), Output::Human);
        assert_eq!(
            "xml".parse::<Output>().unwrap_err().to_string(),
            "error: unable to match a printer suitable for the output format \"xml\", allowed formats are: json,name,wide,yaml"
        );
        for name in Output::NAMES {
            name.parse::<Output>().unwrap();
        }
    }
}
