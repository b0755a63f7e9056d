//! Which modules are filters for Envoy: those that say so by what they export.
//!
//! A module for proxies exports a function whose name is the version of the ABI that it was built for, [as the specification
//! has it](https://github.com/proxy-wasm/spec). Envoy knows three of them. Only imports and exports are looked at: whether the
//! code is valid is for Envoy's engine to say, which answers with an error then.

use std::fmt;

use wasmparser::{Encoding, ExternalKind, Parser, Payload};

/// A version of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbiVersion {
    /// 0.1.0
    V0_1_0,
    /// 0.2.0
    V0_2_0,
    /// 0.2.1
    V0_2_1,
}

impl AbiVersion {
    /// All of them, oldest first.
    const ALL: [Self; 3] = [Self::V0_1_0, Self::V0_2_0, Self::V0_2_1];

    fn export(self) -> &'static str {
        match self {
            Self::V0_1_0 => "proxy_abi_version_0_1_0",
            Self::V0_2_0 => "proxy_abi_version_0_2_0",
            Self::V0_2_1 => "proxy_abi_version_0_2_1",
        }
    }
}

impl fmt::Display for AbiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_2_1 => "0.2.1",
        })
    }
}

/// Why something is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProxyWasm {
    /// It is not WebAssembly, or is cut off.
    #[error("it is not a WebAssembly module: {0}")]
    NotWasm(String),
    /// It is WebAssembly of another kind.
    #[error(
        "it is {0}, and no filter for proxies: those export the version of their ABI, proxy_abi_version_0_1_0, _0_2_0 or \
         _0_2_1; build it with an SDK of proxy-wasm"
    )]
    OtherKind(&'static str),
    /// It is for proxies, by an ABI that Envoy does not know.
    #[error("it exports {0}, which is an ABI that Envoy does not know: it knows 0.1.0, 0.2.0 and 0.2.1")]
    UnknownAbi(String),
}

const PREFIX: &str = "proxy_abi_version_";
/// What of a foreign name is repeated.
const LONGEST_NAME: usize = 64;

/// The ABI that a module is for; the newest of several.
///
/// # Errors
/// [`NotProxyWasm`].
pub fn abi_version(module: &[u8]) -> Result<AbiVersion, NotProxyWasm> {
    let broken = |error: wasmparser::BinaryReaderError| NotProxyWasm::NotWasm(error.message().to_owned());
    let mut kind = "a module for something else";
    let mut versions = Vec::new();
    let mut unknown = None;
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(broken)? {
            Payload::Version { encoding: Encoding::Component, .. } => {
                return Err(NotProxyWasm::OtherKind("a component"));
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.map_err(broken)?;
                    kind = match import.module {
                        "wasi_snapshot_preview1" | "wasi_unstable" => "a program for WASI",
                        "wapc" | "kubewarden" => "a policy for waPC",
                        _ => kind,
                    };
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(broken)?;
                    let Some(version) = export.name.strip_prefix(PREFIX) else { continue };
                    if !matches!(export.kind, ExternalKind::Func) {
                        continue;
                    }
                    match AbiVersion::ALL.into_iter().find(|known| known.export() == export.name) {
                        Some(known) => versions.push(known),
                        None => unknown = Some(version.chars().take(LONGEST_NAME).collect::<String>()),
                    }
                }
            }
            _ => {}
        }
    }
    let newest = AbiVersion::ALL.into_iter().rev().find(|version| versions.contains(version));
    match (newest, unknown) {
        (Some(version), _) => Ok(version),
        (None, Some(version)) => Err(NotProxyWasm::UnknownAbi(format!("{PREFIX}{version}"))),
        (None, None) => Err(NotProxyWasm::OtherKind(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_known_by_its_exports() {
        let of = |text: &str| abi_version(&wat::parse_str(text).unwrap());
        let export = |name: &str| format!("(module (func (export \"{name}\")))");
        for (version, text) in [("0_1_0", "0.1.0"), ("0_2_0", "0.2.0"), ("0_2_1", "0.2.1")] {
            assert_eq!(of(&export(&format!("{PREFIX}{version}"))).unwrap().to_string(), text);
        }
        let several =
            "(module (func (export \"proxy_abi_version_0_2_1\") (export \"proxy_abi_version_0_1_0\")))";
        assert_eq!(of(several), Ok(AbiVersion::V0_2_1));
        // A filter is built for WASI besides.
        let wasi = "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func)) (func (export \"proxy_abi_version_0_2_0\")))";
        assert_eq!(of(wasi), Ok(AbiVersion::V0_2_0));
    }

    #[test]
    fn what_is_none_is_told_what_it_is() {
        for (text, complaint) in [
            ("(module)", "a module for something else"),
            ("(component)", "a component"),
            ("(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func)))", "a program for WASI"),
            ("(module (import \"wapc\" \"__guest_request\" (func)))", "a policy for waPC"),
            (
                "(module (func (export \"proxy_abi_version_0_3_0\")))",
                "proxy_abi_version_0_3_0, which is an ABI",
            ),
            (
                "(module (global (export \"proxy_abi_version_0_2_1\") i32 i32.const 0))",
                "a module for something else",
            ),
        ] {
            let refused = abi_version(&wat::parse_str(text).unwrap()).unwrap_err().to_string();
            assert!(refused.contains(complaint), "{text}: {refused}");
        }
        let whole = wat::parse_str("(module (func (export \"proxy_abi_version_0_2_1\")))").unwrap();
        for bytes in [&b""[..], b"<html>404</html>", b"\0asm", whole.get(..whole.len() - 1).unwrap()] {
            let refused = abi_version(bytes).unwrap_err();
            assert!(matches!(refused, NotProxyWasm::NotWasm(_)), "{refused}");
        }
    }
}
