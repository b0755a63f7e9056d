//! `/statusz` and `/flagz`: what runs here since when, and with which flags. For people, as text; and as JSON for
//! those who name the kind of object that they want. The forms are those of all Kubernetes components.

use std::{collections::BTreeMap, fmt::Write as _};

use http::{HeaderMap, StatusCode, header::ACCEPT};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use warp::reply::{Reply as _, Response};

use super::reply::text;

const COMPONENT: &str = "kubelet";
const GROUP: &str = "config.k8s.io";
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];

/// Paths with something to read at them, by their first segments.
const SHOWN_PATHS: [&str; 12] = [
    "/attach",
    "/configz",
    "/containerLogs",
    "/exec",
    "/flagz",
    "/healthz",
    "/logs",
    "/metrics",
    "/pods",
    "/portForward",
    "/runningpods",
    "/stats",
];

/// Answers `/statusz`.
pub(super) fn statusz(started: Timestamp, now: Timestamp, headers: &HeaderMap) -> Response {
    let uptime = now.duration_since(started).as_secs().max(0);
    let version = env!("CARGO_PKG_VERSION");
    answer("Statusz", headers, |form| match form {
        Form::Text => {
            let started = TimeZone::UTC.to_datetime(started).strftime("%a %b %e %H:%M:%S UTC %Y").to_string();
            let (hours, minutes, seconds) = (uptime / 3600, uptime / 60 % 60, uptime % 60);
            let up = format!("{hours} hr {minutes:02} min {seconds:02} sec");
            let paths = SHOWN_PATHS.join(" ");
            format!("\nStarted: {started}\nUp: {up}\nBinary version: {version}\nPaths: {paths}\n").into()
        }
        Form::Json => json!({
            "startTime": started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "uptimeSeconds": uptime,
            "binaryVersion": version,
            "paths": SHOWN_PATHS,
        }),
    })
}

/// Answers `/flagz`.
pub(super) fn flagz(flags: &BTreeMap<String, String>, headers: &HeaderMap) -> Response {
    answer("Flagz", headers, |form| match form {
        Form::Text => {
            let mut lines = String::from("\n");
            for (name, value) in flags {
                // Writing to a string does not fail.
                let _ = writeln!(lines, "{name}={value}");
            }
            lines.into()
        }
        Form::Json => json!({ "flags": flags }),
    })
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

fn answer(kind: &str, headers: &HeaderMap, content: impl Fn(Form) -> Value) -> Response {
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    match wanted(&accept.join(","), kind) {
        Some((Form::Json, version)) => {
            let mut object = content(Form::Json);
            object["kind"] = kind.into();
            object["apiVersion"] = format!("{GROUP}/{version}").into();
            object["metadata"] = json!({ "name": COMPONENT });
            warp::reply::json(&object).into_response()
        }
        Some((Form::Text, _)) => {
            let page = kind.to_lowercase();
            let body = content(Form::Text);
            let head = format!(
                "\n{COMPONENT} {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting \
                 compatibility guarantees and is for debugging purposes only.\n"
            );
            text(StatusCode::OK, head + body.as_str().unwrap_or_default())
        }
        None => {
            let message = format!(
                "only the following media types are accepted: text/plain, application/json;v={};g={GROUP};as={kind}\n",
                VERSIONS[0]
            );
            text(StatusCode::NOT_ACCEPTABLE, message)
        }
    }
}

/// The form, and the version of the object, that an Accept header asks for first; `None` where it is none of ours.
fn wanted(accept: &str, kind: &str) -> Option<(Form, &'static str)> {
    if accept.trim().is_empty() {
        return Some((Form::Text, ""));
    }
    accept.split(',').find_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: BTreeMap<&str, &str> = parts.filter_map(|part| part.split_once('=')).collect();
        match media {
            "text/plain" | "text/*" | "*/*" => Some((Form::Text, "")),
            "application/json" => {
                let is = |name: &str, value: &str| parameters.get(name) == Some(&value);
                let version = VERSIONS.into_iter().find(|version| is("v", version))?;
                (is("g", GROUP) && is("as", kind)).then_some((Form::Json, version))
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_what_is_accepted() {
        let object = "application/json;v=v1beta1;g=config.k8s.io;as=Statusz";
        for (accept, expected) in [
            ("", Some((Form::Text, ""))),
            ("*/*", Some((Form::Text, ""))),
            ("application/json, */*", Some((Form::Text, ""))),
            (object, Some((Form::Json, "v1beta1"))),
            ("application/json; as=Statusz; v=v1alpha1; g=config.k8s.io", Some((Form::Json, "v1alpha1"))),
            ("application/json;v=v1beta1;g=config.k8s.io;as=Flagz", None),
            ("application/json", None),
            ("image/png", None),
        ] {
            assert_eq!(wanted(accept, "Statusz"), expected, "{accept}");
        }
    }
}
