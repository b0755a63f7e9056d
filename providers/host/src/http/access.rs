//! A line for each request. Pure.

use std::{net::IpAddr, time::Duration};

use http::{HeaderMap, HeaderName, StatusCode, Version, header, request::Parts};
use jiff::{Timestamp, tz::TimeZone};

use super::settings::AccessLog;

/// Bytes of a header or a target that are noted down.
const LONGEST: usize = 1024;

/// What is kept of a request for its line.
#[derive(Debug)]
pub(super) struct Requested {
    at: Timestamp,
    peer: IpAddr,
    method: String,
    target: String,
    version: Version,
    referer: String,
    user_agent: String,
    trace: String,
}

impl Requested {
    pub(super) fn new(parts: &Parts, peer: IpAddr, at: Timestamp) -> Self {
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        Self {
            at,
            peer,
            method: cut(parts.method.as_str()),
            target: cut(target),
            version: parts.version,
            referer: text(&parts.headers, &header::REFERER),
            user_agent: text(&parts.headers, &header::USER_AGENT),
            trace: text(&parts.headers, &HeaderName::from_static("traceparent")),
        }
    }

    /// The line of an answer of so many bytes, with its end.
    pub(super) fn line(&self, form: AccessLog, status: StatusCode, bytes: u64, took: Duration) -> String {
        let Self { at, peer, method, target, version, referer, user_agent, trace } = self;
        match form {
            AccessLog::Off => String::new(),
            AccessLog::Combined => {
                let time = at.to_zoned(TimeZone::UTC).strftime("%d/%b/%Y:%H:%M:%S %z");
                let [target, referer, user_agent] = [target, referer, user_agent].map(|text| quotable(text));
                let status = status.as_u16();
                format!(
                    "{peer} - - [{time}] \"{method} {target} {version:?}\" {status} {bytes} \"{referer}\" \"{user_agent}\"\n"
                )
            }
            AccessLog::Json => {
                let line = serde_json::json!({
                    "time": at.to_string(),
                    "peer": peer.to_string(),
                    "method": method,
                    "target": target,
                    "protocol": format!("{version:?}"),
                    "status": status.as_u16(),
                    "bytes": bytes,
                    "seconds": took.as_secs_f64(),
                    "referer": referer,
                    "userAgent": user_agent,
                    "traceparent": trace,
                });
                format!("{line}\n")
            }
        }
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST)].to_owned()
}

fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    let value = headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    value.as_deref().map(cut).unwrap_or_default()
}

/// For between quotes, as nginx writes it; `-` for nothing.
fn quotable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\x{:02X}", u32::from(c)),
        c if c.is_control() => format!("\\x{:02X}", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested() -> Requested {
        let request =
            http::Request::builder().uri("/a?b=%22").header("user-agent", "curl/8 \"\\").body(()).unwrap();
        let at = "2026-11-29T21:01:02Z".parse().unwrap();
        Requested::new(&request.into_parts().0, "192.0.2.1".parse().unwrap(), at)
    }

    #[test]
    fn lines_are_those_that_are_known() {
        let took = Duration::from_millis(1500);
        let line = |form| requested().line(form, StatusCode::OK, 12, took);
        assert_eq!(line(AccessLog::Off), "");
        assert_eq!(
            line(AccessLog::Combined),
            "192.0.2.1 - - [29/Nov/2026:21:01:02 +0000] \"GET /a?b=%22 HTTP/1.1\" 200 12 \"-\" \"curl/8 \\x22\\x5C\"\n"
        );
        let json: serde_json::Value = serde_json::from_str(&line(AccessLog::Json)).unwrap();
        assert_eq!(json["status"], 200);
        assert_eq!(json["seconds"], 1.5);
        assert_eq!(json["userAgent"], "curl/8 \"\\");
    }
}
