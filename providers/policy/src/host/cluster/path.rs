//! Paths of an API server, made of names that a policy has chosen: none of these may lead elsewhere.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stays as it is in a path or a value: <https://www.rfc-editor.org/rfc/rfc3986#section-2.3>.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Path of a version of a group: `v1` or `apps/v1`.
pub(super) fn group_version(api_version: &str) -> Result<String, String> {
    match api_version.split_once('/') {
        None => Ok(format!("/api/{}", segment("version", api_version)?)),
        Some((group, version)) => {
            Ok(format!("/apis/{}/{}", segment("group", group)?, segment("version", version)?))
        }
    }
}

/// Path of all objects, of one namespace or of all.
pub(super) fn objects(api_version: &str, namespace: Option<&str>, plural: &str) -> Result<String, String> {
    let (base, plural) = (group_version(api_version)?, segment("plural", plural)?);
    Ok(match namespace {
        Some(namespace) => format!("{base}/namespaces/{}/{plural}", segment("namespace", namespace)?),
        None => format!("{base}/{plural}"),
    })
}

/// Path of one object.
pub(super) fn object(
    api_version: &str,
    namespace: Option<&str>,
    plural: &str,
    name: &str,
) -> Result<String, String> {
    Ok(format!("{}/{}", objects(api_version, namespace, plural)?, segment("name", name)?))
}

/// The parameters that have a value, with their question mark.
pub(super) fn parameters(all: &[(&str, Option<&str>)]) -> String {
    let mut text = String::new();
    for (name, value) in all {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            text.push(if text.is_empty() { '?' } else { '&' });
            text.push_str(name);
            text.push('=');
            text.extend(utf8_percent_encode(value, ENCODED));
        }
    }
    text
}

/// One segment, by the rule of the API server (`IsValidPathSegmentName`).
fn segment(what: &str, name: &str) -> Result<String, String> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '%']) || name.chars().any(char::is_control) {
        return Err(format!("{name:?} is no {what}"));
    }
    Ok(utf8_percent_encode(name, ENCODED).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api_server() {
        assert_eq!(group_version("v1").unwrap(), "/api/v1");
        assert_eq!(group_version("apps/v1").unwrap(), "/apis/apps/v1");
        assert_eq!(objects("v1", None, "namespaces").unwrap(), "/api/v1/namespaces");
        assert_eq!(
            object("rbac.authorization.k8s.io/v1", Some("a"), "roles", "system:x y").unwrap(),
            "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles/system%3Ax%20y"
        );
        assert_eq!(
            parameters(&[
                ("labelSelector", Some("a=b,c in (d)")),
                ("x", None),
                ("fieldSelector", Some("a&b"))
            ]),
            "?labelSelector=a%3Db%2Cc%20in%20%28d%29&fieldSelector=a%26b"
        );
        assert_eq!(parameters(&[("a", None), ("b", Some(""))]), "");
    }

    #[test]
    fn no_name_leads_elsewhere() {
        for name in ["", ".", "..", "a/b", "../../secrets", "a%2fb", "a\nb", "/"] {
            assert!(object("v1", Some("a"), "pods", name).is_err(), "{name}");
            assert!(object("v1", Some(name), "pods", "a").is_err(), "{name}");
        }
        for api_version in ["", "a/b/c", "/", "../v1", "apps/", "/v1"] {
            assert!(group_version(api_version).is_err(), "{api_version}");
        }
        assert_eq!(object("v1", None, "nodes", "a?b#c").unwrap(), "/api/v1/nodes/a%3Fb%23c");
    }
}
