//! What plugins answer. Pure.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    attachment::{INTERFACE, one_of_each},
    version::SpecVersion,
};

/// The result of an ADD: what the next plugin, and the same one on CHECK and DEL, is told.
pub(crate) type AddResult = Map<String, Value>;

/// What a plugin says of itself when it fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct ErrorResult {
    #[serde(default)]
    pub(crate) code: u32,
    #[serde(default)]
    pub(crate) msg: String,
    #[serde(default)]
    pub(crate) details: String,
}

/// Which versions a plugin speaks.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VersionResult {
    #[serde(default)]
    pub(crate) supported_versions: Vec<String>,
}

/// An answer that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResultError {
    #[error("its result is no JSON object")]
    NoObject,
    #[error("its result has an address {0:?}, which is none")]
    Address(String),
    #[error("its result has an address of an interface that is not there")]
    Interface,
}

/// Reads the result of an ADD, and brings it to the version of the network's configuration, which plugins may leave.
pub(crate) fn add(bytes: &[u8], version: SpecVersion) -> Result<AddResult, ResultError> {
    let Ok(Value::Object(mut result)) = serde_json::from_slice(bytes) else {
        return Err(ResultError::NoObject);
    };
    // Each address can be read, or nobody could go on with it.
    for ip in ips(&result) {
        let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        address(text).ok_or_else(|| ResultError::Address(text.chars().take(64).collect()))?;
    }
    result.insert("cniVersion".to_owned(), version.as_str().into());
    if let Some(Value::Array(ips)) = result.get_mut("ips") {
        for ip in ips.iter_mut().filter_map(Value::as_object_mut) {
            if version.has_families() {
                let is_v6 = ip.get("address").and_then(Value::as_str).is_some_and(|text| text.contains(':'));
                ip.insert("version".to_owned(), if is_v6 { "6" } else { "4" }.into());
            } else {
                ip.remove("version");
            }
        }
    }
    Ok(result)
}

/// The addresses of a pod: those of its interface, in their order, one of each family.
pub(crate) fn addresses(result: &AddResult) -> Result<Vec<IpAddr>, ResultError> {
    let interfaces = result.get("interfaces").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut found = Vec::new();
    for ip in ips(result) {
        let is_pods = match ip.get("interface").and_then(Value::as_u64) {
            // Plugins that know of one interface do not say which.
            None => true,
            Some(index) => {
                let index = usize::try_from(index).map_err(|_| ResultError::Interface)?;
                let interface = interfaces.get(index).ok_or(ResultError::Interface)?;
                interface.get("name").and_then(Value::as_str) == Some(INTERFACE)
            }
        };
        if is_pods {
            found.extend(ip.get("address").and_then(Value::as_str).and_then(address));
        }
    }
    Ok(one_of_each(found))
}

fn ips(result: &AddResult) -> &[Value] {
    result.get("ips").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The address of `10.1.2.3/24`.
fn address(text: &str) -> Option<IpAddr> {
    text.split_once('/').map_or(text, |(address, _)| address).parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(result: &Value, version: SpecVersion) -> Result<AddResult, ResultError> {
        add(result.to_string().as_bytes(), version)
    }

    fn found(result: &Value) -> Result<Vec<String>, ResultError> {
        let all = addresses(&read(result, SpecVersion::NEWEST)?)?;
        Ok(all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_pods_addresses_are_those_of_its_interface() {
        let interfaces = json!([
            { "name": "cni0", "mac": "00:11:22:33:44:55" },
            { "name": "veth1", "mac": "00:11:22:33:44:56" },
            { "name": "eth0", "mac": "00:11:22:33:44:57", "sandbox": "/var/run/netns/cni-1" },
        ]);
        let result = json!({
            "cniVersion": "1.0.0", "interfaces": interfaces, "dns": {},
            "ips": [
                { "address": "10.1.0.1/16", "interface": 0 },
                { "address": "fd00:1::5/64", "gateway": "fd00:1::1", "interface": 2 },
                { "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2 },
            ],
        });
        assert_eq!(found(&result).unwrap(), ["fd00:1::5", "10.1.0.5"]);
        let simple = json!({ "ips": [{ "version": "4", "address": "10.1.0.5/32" }] });
        assert_eq!(found(&simple).unwrap(), ["10.1.0.5"], "a plugin that names no interface");
        assert_eq!(found(&json!({})).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn results_are_brought_to_the_version_of_the_configuration() {
        let ips = json!([{ "address": "10.0.0.5/24" }, { "address": "fd00::5/64" }]);
        let newer = json!({ "cniVersion": "1.0.0", "ips": ips });
        let old = read(&newer, SpecVersion::V0_3_1).unwrap();
        assert_eq!((&old["cniVersion"], &old["ips"][0]["version"]), (&json!("0.3.1"), &json!("4")));
        assert_eq!(old["ips"][1]["version"], "6");
        let back = read(&Value::Object(old), SpecVersion::V1_1_0).unwrap();
        assert_eq!((&back["cniVersion"], &back["ips"]), (&json!("1.1.0"), &newer["ips"]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(add(b"", SpecVersion::NEWEST), Err(ResultError::NoObject));
        assert_eq!(add(b"[]", SpecVersion::NEWEST), Err(ResultError::NoObject));
        let bad = json!({ "ips": [{ "address": "ten" }] });
        assert_eq!(found(&bad), Err(ResultError::Address("ten".to_owned())));
        assert_eq!(found(&json!({ "ips": [{}] })), Err(ResultError::Address(String::new())));
        let far = json!({ "ips": [{ "address": "10.0.0.1/8", "interface": 7 }] });
        assert_eq!(found(&far), Err(ResultError::Interface));
    }

    #[test]
    fn errors_are_read_as_far_as_they_go() {
        let full: ErrorResult =
            serde_json::from_str(r#"{"cniVersion": "1.0.0", "code": 11, "msg": "m", "details": "d"}"#)
                .unwrap();
        assert_eq!((full.code, full.msg.as_str(), full.details.as_str()), (11, "m", "d"));
        assert_eq!(serde_json::from_str::<ErrorResult>("{}").unwrap(), ErrorResult::default());
    }
}
