//! An admission policy with types. Its settings say what it does: it refuses an object by its name (`deny`), sets a label
//! (`label`), asks its host (`ask`), traps (`trap`), or computes for ever (`spin`).

use serde_json::{Value, json};

use exports::kubewasm::policy::validation::{Guest, Request, Verdict};
use kubewasm::policy::host;

wit_bindgen::generate!({ path: "../../../providers/policy/wit", world: "policy" });

const KNOWN: [&str; 5] = ["ask", "deny", "label", "spin", "trap"];

struct Policy;

export!(Policy);

impl Guest for Policy {
    fn validate(request: Request, settings: String) -> Result<Verdict, String> {
        let settings: Value = serde_json::from_str(&settings).map_err(|error| error.to_string())?;
        let accepted = Verdict {
            accepted: true,
            message: None,
            code: None,
            mutated_object: None,
            audit_annotations: Vec::new(),
            warnings: Vec::new(),
        };
        if settings["trap"] == true {
            panic!("as it was told");
        }
        while settings["spin"] == true {}
        if let Some(denied) = settings["deny"].as_str() {
            if request.name.as_deref() == Some(denied) {
                let text = format!("{} of {denied} in {:?}", request.operation.unwrap_or_default(), request.namespace);
                return Ok(Verdict { accepted: false, message: Some(text), code: Some(418), ..accepted });
            }
            return Err(format!("{} is not {denied}", request.name.unwrap_or_default()));
        }
        if let Some(label) = settings["label"].as_str() {
            let whole: Value = serde_json::from_str(&request.json).map_err(|error| error.to_string())?;
            let mut object = whole["object"].clone();
            object["metadata"]["labels"][label] = json!("1");
            return Ok(Verdict {
                mutated_object: Some(object.to_string()),
                audit_annotations: vec![("uid".to_owned(), request.uid)],
                warnings: vec!["a label was set".to_owned()],
                ..accepted
            });
        }
        if let Some(asked) = settings["ask"].as_object() {
            let text = |name: &str| asked[name].as_str().unwrap_or_default();
            let payload = asked["payload"].to_string();
            let answer = host::call(text("namespace"), text("operation"), payload.as_bytes());
            let (accepted_, message) = match answer {
                Ok(answer) => (true, String::from_utf8_lossy(&answer).into_owned()),
                Err(error) => (false, error),
            };
            return Ok(Verdict { accepted: accepted_, message: Some(message), ..accepted });
        }
        Ok(accepted)
    }

    fn validate_settings(settings: String) -> Result<(), String> {
        let settings: Value = serde_json::from_str(&settings).map_err(|error| error.to_string())?;
        let fields = settings.as_object().into_iter().flatten();
        match fields.map(|(name, _)| name).find(|name| !KNOWN.contains(&name.as_str())) {
            Some(unknown) => Err(format!("there is no setting {unknown}")),
            None => Ok(()),
        }
    }
}
