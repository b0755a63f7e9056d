//! An admission policy: every object has the label `team`. Where there is none, it is set to the setting `default`; a team that is not
//! in the setting `teams`, where there is that list, is refused.

use std::{env, error::Error, io, process::ExitCode};

use serde::Deserialize;
use serde_json::{Map, Value, json};

const LABEL: &str = "team";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    default: String,
    teams: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Question {
    request: Request,
    settings: Settings,
}

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    object: Value,
}

fn main() -> ExitCode {
    let answered = match env::args().nth(1).as_deref() {
        Some("validate") => validate(),
        Some("validate-settings") => Ok(validate_settings()),
        _ => Err("the argument is validate or validate-settings".into()),
    };
    match answered {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn validate_settings() -> Value {
    let problem = match serde_json::from_reader::<_, Settings>(io::stdin()) {
        Err(error) => error.to_string(),
        Ok(Settings { default, teams: Some(teams) }) if !teams.contains(&default) => {
            format!("the default, {default}, is none of the teams")
        }
        Ok(_) => return json!({ "valid": true }),
    };
    json!({ "valid": false, "message": problem })
}

fn validate() -> Result<Value, Box<dyn Error>> {
    let Question { request, settings } = serde_json::from_reader(io::stdin())?;
    let mut object = request.object;
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        // What is deleted has no object.
        return Ok(json!({ "accepted": true }));
    };
    let labels = metadata.entry("labels").or_insert_with(|| Value::Object(Map::new()));
    let Some(labels) = labels.as_object_mut() else { return Err("the labels are no object".into()) };
    match labels.get(LABEL).and_then(Value::as_str) {
        None => {
            let warning = format!("the label {LABEL} was set to {}", settings.default);
            labels.insert(LABEL.to_owned(), Value::String(settings.default));
            Ok(json!({ "accepted": true, "mutated_object": object, "warnings": [warning] }))
        }
        Some(team) if settings.teams.as_ref().is_some_and(|teams| !teams.iter().any(|each| each == team)) => {
            Ok(json!({ "accepted": false, "message": format!("there is no team {team}"), "code": 400 }))
        }
        Some(_) => Ok(json!({ "accepted": true })),
    }
}
