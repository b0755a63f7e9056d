//! A Secret for people. Pure.

use std::fmt::Write as _;

use kubectl_plugin::{Table, visible};

use crate::{
    certificate::{CertificateDetails, CertificateFields, Validity},
    decode::{Decoded, DecodedValue},
    registries::RegistryLogin,
    token::{TokenDetails, claim},
};

const INDENT: &str = "  ";

/// The whole text.
pub(crate) fn text(decoded: &Decoded) -> String {
    let mut text = pairs(
        "",
        &[
            ("Name", decoded.name.clone()),
            ("Namespace", decoded.namespace.clone()),
            ("Type", decoded.kind.clone()),
        ],
    );
    if decoded.data.is_empty() {
        text.push_str("\nThere is nothing in it.\n");
    }
    for (key, value) in &decoded.data {
        text.push('\n');
        text.push_str(&entry(key, value));
    }
    text
}

fn entry(key: &str, value: &DecodedValue) -> String {
    let mut text = match &value.text {
        None => format!("{key}: {} bytes that are no text, SHA-256 {}\n", value.bytes, value.sha256),
        Some(content) if value.is_certificates || !value.registries.is_empty() => {
            format!("{key}: {}\n", summary(value, content))
        }
        Some(content) => plain(key, content),
    };
    for (index, certificate) in value.certificates.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        match certificate {
            CertificateDetails::Read(fields) => text.push_str(&of_certificate(fields)),
            CertificateDetails::Unreadable { error } => drop(writeln!(text, "{INDENT}{}", visible(error))),
        }
    }
    if let Some(token) = &value.token {
        text.push_str(&of_token(token));
    }
    if !value.registries.is_empty() {
        text.push_str(&of_registries(&value.registries));
    }
    text
}

fn summary(value: &DecodedValue, content: &str) -> String {
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    match value.certificates.len() {
        0 => count(value.registries.len(), "login"),
        number => format!("{}, {}", count(number, "certificate"), count(content.len(), "byte")),
    }
}

/// A text: one line beside its key, several below it.
fn plain(key: &str, content: &str) -> String {
    let (body, note) = match content.strip_suffix('\n') {
        Some(body) if !body.contains('\n') => (body, "  (and the end of the line)"),
        Some(body) => (body, ""),
        None => (content, ""),
    };
    match body {
        "" if note.is_empty() => format!("{key}: (empty)\n"),
        body if !body.contains('\n') => format!("{key}: {body}{note}\n"),
        body => {
            let lines: String = body.split('\n').map(|line| format!("{INDENT}{line}\n")).collect();
            format!("{key}:\n{lines}")
        }
    }
}

fn of_certificate(fields: &CertificateFields) -> String {
    let days = |days: i64| format!("{days} day{}", if days == 1 { "" } else { "s" });
    let state = match fields.state {
        Validity::Expired => format!("EXPIRED {} ago", days(fields.days_left.saturating_neg())),
        Validity::NotYetValid => format!("NOT YET VALID, expires in {}", days(fields.days_left)),
        Validity::Valid => format!("in {}", days(fields.days_left)),
    };
    let names = if fields.names.is_empty() { "<none>".to_owned() } else { fields.names.join(", ") };
    let subject =
        if fields.is_ca { format!("{} (an authority)", fields.subject) } else { fields.subject.clone() };
    pairs(
        INDENT,
        &[
            ("Subject", subject),
            ("Issuer", fields.issuer.clone()),
            ("Names", names),
            ("Valid", format!("{} to {}", fields.not_before, fields.not_after)),
            ("Expires", state),
            ("Serial", fields.serial.clone()),
            ("SHA-256", fields.fingerprint.clone()),
        ],
    )
}

fn of_token(token: &TokenDetails) -> String {
    let mut lines = Vec::new();
    for (label, name) in [("Issuer", "iss"), ("Subject", "sub"), ("Audience", "aud")] {
        lines.extend(claim(&token.claims, name).map(|value| (label, value)));
    }
    lines.push(("Expires", token.expires.clone()));
    lines.extend(claim(&token.header, "alg").map(|value| ("Algorithm", value)));
    lines.extend(claim(&token.header, "kid").map(|value| ("Key", value)));
    for (name, value) in &token.claims {
        if !matches!(name.as_str(), "iss" | "sub" | "aud" | "exp") {
            lines.push(("Claim", format!("{name}: {value}")));
        }
    }
    pairs(INDENT, &lines)
}

fn of_registries(logins: &[RegistryLogin]) -> String {
    let none = || "<none>".to_owned();
    let mut lines = vec![["REGISTRY", "USERNAME", "PASSWORD"].map(str::to_owned)];
    for login in logins {
        let password = login.password.clone().or_else(|| login.identity_token.clone());
        lines.push([
            login.registry.clone(),
            login.username.clone().unwrap_or_else(none),
            password.unwrap_or_else(none),
        ]);
    }
    Table::new().lines(&lines).lines().map(|line| format!("{INDENT}{line}\n")).collect()
}

/// Labels and values, the values below each other.
fn pairs(indent: &str, lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or_default() + 3;
    lines
        .iter()
        .map(|(label, value)| format!("{indent}{:width$}{}\n", format!("{label}:"), visible(value)))
        .collect()
}
