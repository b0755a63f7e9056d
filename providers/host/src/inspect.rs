//! What a file is: bytes in, [`ModuleKind`] or the reason why it cannot run out.
//!
//! Only the top level is read (imports and exports); function bodies and nested modules are skipped, so that
//! a module of many megabytes takes microseconds. Whether the code is valid, and whether every import
//! exists, is found when it is compiled and linked.
//!
//! Components of today's toolchains often export more than one entry: a 0.3 program also has a 0.2 stub
//! that panics, an HTTP service a stub `run`. [`ENTRIES`] is the order in which they count.

mod surface;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wasmparser::{ComponentExternalKind, ExternalKind, Parser, Payload, TypeRef};

pub use self::surface::{ModuleForm, Surface, surface};
use crate::{kind::ModuleKind, names::FUNCTION_NAME_LIMIT, text::shortened};

/// Why a file cannot run. The texts are for the person who built it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// No bytes at all.
    #[error("the module is empty (0 bytes): build or push it again")]
    Empty,
    /// Something other than WebAssembly.
    #[error("not a WebAssembly module: it is {found}")]
    NotWasm {
        /// What it looks like.
        found: &'static str,
    },
    /// Begins like WebAssembly and goes on like something else.
    #[error("the WebAssembly module is damaged: {reason}")]
    Malformed {
        /// Where and what, from the parser.
        reason: String,
    },
    /// A core module without the entry point of a command.
    #[error("the module has no `_start` function: it is a library (reactor); build it as a command")]
    NoStart,
    /// A core module made for the WASI of 2019.
    #[error(
        "the module imports `wasi_unstable::{name}`, the WASI of 2019; rebuild it with a toolchain that targets wasm32-wasip1"
    )]
    UnstableWasi {
        /// The first such import.
        name: String,
    },
    /// A core module that wants a host that is not WASI.
    #[error(
        "the module imports `{module}::{name}`, which is not part of WASI 0.1; only `wasi_snapshot_preview1` is provided{hint}"
    )]
    UnknownImport {
        /// Module part of the import.
        module: String,
        /// Name part of the import.
        name: String,
        /// What that import points at.
        hint: &'static str,
    },
    /// A component made for a draft of WASI.
    #[error(
        "the component {verb} `{name}`, of a draft of WASI {release}, and drafts are not run: rebuild it with a toolchain for WASI {release} as it was released"
    )]
    DraftWasi {
        /// Whether it imports or exports it.
        verb: &'static str,
        /// The first such interface.
        name: String,
        /// What has come of the draft.
        release: String,
    },
    /// A function with a name that nobody wrote.
    #[error(
        "the module's name section gives function {function} a name of {length} bytes, and at most {FUNCTION_NAME_LIMIT} are kept; remove the names with `wasm-tools strip`"
    )]
    LongName {
        /// Index of the function in its module.
        function: u32,
        /// Bytes of its name.
        length: usize,
    },
    /// A component without any entry.
    #[error(
        "the component exports no entry point that could be run: it exports {exports}; `wasi:cli/run` and the handlers of `wasi:http` are run, and `kubewasm:policy/validation` is called for policies"
    )]
    NoEntry {
        /// Names of the exports, for people.
        exports: String,
    },
}

/// Entries of components, in the order in which they count: interface and version prefix.
const ENTRIES: [(&str, &str, ModuleKind); 5] = [
    ("kubewasm:policy/validation", "0.1.", ModuleKind::EmbeddedComponent),
    ("wasi:http/handler", "0.3.", ModuleKind::HttpComponentP3),
    ("wasi:http/incoming-handler", "0.2.", ModuleKind::HttpComponent),
    ("wasi:cli/run", "0.3.", ModuleKind::CliComponentP3),
    ("wasi:cli/run", "0.2.", ModuleKind::CliComponent),
];

/// Packages of `wasi:` that have been released; those of others have drafts only, which a host may have.
const RELEASED: [&str; 7] = ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"];

/// The entry of a core module by which its embedder calls it, instead of running it as a command.
const EMBEDDED_ENTRY: &str = "__guest_call";

const WASI_0_1: &str = "wasi_snapshot_preview1";
/// Most exports that an error names.
const NAMED_EXPORTS: usize = 8;
/// Longest name from a module that an error repeats, in bytes.
const NAME_LIMIT: usize = 128;
/// Most imports, and most exports, that are among the facts: who has as many may have more.
pub const FACTS_LIMIT: usize = 128;

/// Whether core modules import this of hosts that have it, which is found out when they are linked: the functions of plugins'
/// outgoing HTTP, and those by which policies call their host.
fn is_of_embedders(module: &str, name: &str) -> bool {
    matches!((module, name), ("wasi-outbound-http" | "wapc", _) | ("host" | "kubewarden:javy/host", "call"))
}

/// What is known of a module that can run. Names are the module's own, cut to what is fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// How it is run.
    pub kind: ModuleKind,
    /// How else it can be run, in the order in which these count.
    #[serde(default)]
    pub other_kinds: Vec<ModuleKind>,
    /// What it wants of its host, each once: interfaces of a component, modules of a core module's imports. The first
    /// ones, where they are many.
    pub imports: Vec<String>,
    /// What a core module imports of those, each once, as `module::name`. The first ones, where they are many.
    #[serde(default)]
    pub functions: Vec<String>,
    /// What it offers, each once. The first ones, where they are many.
    pub exports: Vec<String>,
}

/// Reads how `bytes` are run.
///
/// # Errors
/// As for [`facts`].
pub fn inspect(bytes: &[u8]) -> Result<ModuleKind, InspectError> {
    facts(bytes).map(|facts| facts.kind)
}

/// Reads what `bytes` are.
///
/// # Errors
/// [`InspectError`], whose text says what the file is instead and what to do.
pub fn facts(bytes: &[u8]) -> Result<Facts, InspectError> {
    if Parser::is_core_wasm(bytes) {
        core(bytes)
    } else if Parser::is_component(bytes) {
        component(bytes)
    } else {
        Err(not_wasm(bytes))
    }
}

fn not_wasm(bytes: &[u8]) -> InspectError {
    let found = match bytes {
        [] => return InspectError::Empty,
        [0, b'a', b's', b'm', ..] => {
            let version = bytes
                .get(4..8)
                .map_or("cut off".to_owned(), |version| format!("of unknown version {version:?}"));
            return InspectError::Malformed { reason: format!("its header is {version}") };
        }
        [0x7f, b'E', b'L', b'F', ..] => {
            "a Linux program (ELF), made for a container runtime; build it for wasm32-wasip1 or wasm32-wasip2"
        }
        [b'#', b'!', ..] => "a script",
        [0x1f, 0x8b, ..] => "a gzip archive",
        [b'P', b'K', 3, 4, ..] => "a zip archive",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "a zstd archive",
        [b'M', b'Z', ..] => "a Windows program",
        [0xcf, 0xfa, 0xed, 0xfe, ..] => "a macOS program",
        _ if is_wat(bytes) => "WebAssembly text; encode it first (wat2wasm, wasm-tools parse)",
        _ if is_text(bytes) => "text",
        _ => "some other binary file",
    };
    InspectError::NotWasm { found }
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().take(512).all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..))
}

fn is_wat(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    text.starts_with(b"(module") || text.starts_with(b"(component")
}

fn core(bytes: &[u8]) -> Result<Facts, InspectError> {
    let (mut imported, mut exported) = (Names::default(), Names::default());
    let mut functions = Names::default();
    let (mut starts, mut is_embedded) = (false, false);
    let mut refused = None;
    top_level(bytes, |payload| {
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import?;
                    imported.add(import.module);
                    functions.add(&format!("{}::{}", import.module, import.name));
                    let is_known = import.module == WASI_0_1 || is_of_embedders(import.module, import.name);
                    if !is_known && refused.is_none() {
                        refused = Some(refused_import(import.module, import.name, is_shared(&import.ty)));
                    }
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    exported.add(export.name);
                    starts |= export.name == "_start" && export.kind == ExternalKind::Func;
                    is_embedded |= export.name == EMBEDDED_ENTRY && export.kind == ExternalKind::Func;
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    let kind = match (refused, is_embedded, starts) {
        (Some(refused), ..) => return Err(refused),
        (None, true, _) => ModuleKind::EmbeddedCore,
        (None, false, true) => ModuleKind::CoreCommand,
        (None, false, false) => return Err(InspectError::NoStart),
    };
    Ok(Facts {
        kind,
        other_kinds: Vec::new(),
        imports: imported.0,
        functions: functions.0,
        exports: exported.0,
    })
}

fn refused_import(module: &str, name: &str, is_shared: bool) -> InspectError {
    if module == "wasi_unstable" {
        return InspectError::UnstableWasi { name: short(name) };
    }
    let hint = match module {
        "wasi" if name == "thread-spawn" => THREADS_HINT,
        _ if is_shared => THREADS_HINT,
        "env" => " (built by Emscripten, or with undefined symbols?)",
        "wbg" | "__wbindgen_placeholder__" => " (built by wasm-bindgen, for browsers and Node.js)",
        "go" | "gojs" => " (built with GOOS=js; use GOOS=wasip1)",
        _ if module.starts_with("wasi:") || module.starts_with("cm32p2|") => {
            " (the core of a component; encode it with `wasm-tools component new`)"
        }
        _ => "",
    };
    InspectError::UnknownImport { module: short(module), name: short(name), hint }
}

/// Of a program with threads.
const THREADS_HINT: &str =
    " (built with threads, which there are none of; use wasm32-wasip1 without -pthread)";

fn is_shared(ty: &TypeRef) -> bool {
    matches!(ty, TypeRef::Memory(memory) if memory.shared)
}

fn component(bytes: &[u8]) -> Result<Facts, InspectError> {
    let (mut imported, mut exported) = (Names::default(), Names::default());
    let mut ranks = BTreeSet::new();
    let mut count = 0_usize;
    let mut draft = None;
    top_level(bytes, |payload| {
        match payload {
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    let name = import?.name.name;
                    imported.add(name);
                    draft = draft.take().or_else(|| draft_of("imports", name));
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    count += 1;
                    let name = export.name.name;
                    exported.add(name);
                    if ENTRIES.iter().any(|(entry, ..)| name.split('@').next() == Some(entry)) {
                        draft = draft.take().or_else(|| draft_of("exports", name));
                    }
                    if export.kind == ComponentExternalKind::Instance {
                        ranks.extend(rank(name));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    if let Some(draft) = draft {
        return Err(draft);
    }
    let mut kinds = ranks.into_iter().filter_map(|rank| ENTRIES.get(rank)).map(|(_, _, kind)| *kind);
    match kinds.next() {
        Some(kind) => {
            let other_kinds = kinds.collect();
            Ok(Facts { kind, other_kinds, imports: imported.0, functions: Vec::new(), exports: exported.0 })
        }
        None => Err(InspectError::NoEntry { exports: list(&exported.0, count) }),
    }
}

/// What is wrong with an interface that is of a draft: `wasi:cli/run@0.3.0-rc-2026-03-15`. Those of the same program that are
/// released, a `run` of 0.2 beside one of a draft of 0.3, say, are stubs.
fn draft_of(verb: &'static str, name: &str) -> Option<InspectError> {
    let (interface, version) = name.split_once('@')?;
    let package = interface.strip_prefix("wasi:")?.split('/').next()?;
    let (release, _) = version.split_once('-')?;
    RELEASED.contains(&package).then(|| InspectError::DraftWasi {
        verb,
        name: short(name),
        release: short(release),
    })
}

/// Names of a module's, each once, and no more than [`FACTS_LIMIT`].
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn add(&mut self, name: &str) {
        if self.0.len() < FACTS_LIMIT {
            let name = short(name);
            if !self.0.contains(&name) {
                self.0.push(name);
            }
        }
    }
}

fn rank(export: &str) -> Option<usize> {
    let (interface, version) = export.split_once('@')?;
    ENTRIES.iter().position(|(entry, prefix, _)| interface == *entry && version.starts_with(prefix))
}

fn list(names: &[String], count: usize) -> String {
    let named: Vec<_> = names.iter().take(NAMED_EXPORTS).map(|name| format!("`{name}`")).collect();
    match count.saturating_sub(named.len()) {
        _ if named.is_empty() => "nothing".to_owned(),
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// A name from the module, fit for an error.
fn short(name: &str) -> String {
    shortened(name, NAME_LIMIT)
}

/// Hands every payload of the outermost module or component to `visit`, skipping what is nested in it and
/// the bodies of functions.
fn top_level<'a>(
    bytes: &'a [u8],
    mut visit: impl FnMut(Payload<'a>) -> wasmparser::Result<()>,
) -> Result<(), InspectError> {
    let mut parser = Parser::new(0);
    let mut rest = bytes;
    loop {
        let (consumed, payload) = match parser.parse(rest, true) {
            Ok(wasmparser::Chunk::Parsed { consumed, payload }) => (consumed, payload),
            // Never asked for when told that there is no more; said rather than assumed.
            Ok(wasmparser::Chunk::NeedMoreData(_)) => return Err(cut_off()),
            Err(error) => return Err(malformed(&error)),
        };
        let skip = match &payload {
            Payload::CodeSectionStart { size, .. } => {
                parser.skip_section();
                usize::try_from(*size).unwrap_or(usize::MAX)
            }
            Payload::ModuleSection { unchecked_range, .. }
            | Payload::ComponentSection { unchecked_range, .. } => unchecked_range.len(),
            Payload::End(_) => return Ok(()),
            _ => 0,
        };
        rest = rest.get(consumed.saturating_add(skip)..).ok_or_else(cut_off)?;
        visit(payload).map_err(|error| malformed(&error))?;
    }
}

fn cut_off() -> InspectError {
    InspectError::Malformed { reason: "it ends too early".to_owned() }
}

fn malformed(error: &wasmparser::BinaryReaderError) -> InspectError {
    InspectError::Malformed { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wat(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    /// A component that exports instances of these names.
    fn exporting(names: &[&str]) -> Vec<u8> {
        let exports: String = names.iter().map(|name| format!("(export \"{name}\" (instance $i))")).collect();
        wat(&format!("(component (instance $i) {exports})"))
    }

    #[test]
    fn what_runs() {
        let start = r#"(func (export "_start"))"#;
        let import = r#"(import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))"#;
        for (text, kind) in [
            (format!("(module {start})"), ModuleKind::CoreCommand),
            (format!("(module {import} {start} (memory (export \"memory\") 1))"), ModuleKind::CoreCommand),
            (
                r#"(module (import "wapc" "__host_call" (func)) (func (export "__guest_call")))"#.to_owned(),
                ModuleKind::EmbeddedCore,
            ),
            (format!(r#"(module {start} (func (export "__guest_call")))"#), ModuleKind::EmbeddedCore),
        ] {
            assert_eq!(inspect(&wat(&text)), Ok(kind), "{text}");
        }
        for names in
            [&["wasi:cli/run@0.2.0"][..], &["wasi:cli/run@0.2.12"], &["other:thing/it", "wasi:cli/run@0.2.3"]]
        {
            assert_eq!(inspect(&exporting(names)), Ok(ModuleKind::CliComponent), "{names:?}");
        }
        let both = ["wasi:cli/run@0.2.0", "wasi:cli/run@0.3.0"];
        assert_eq!(inspect(&exporting(&both)), Ok(ModuleKind::CliComponentP3));
        let policy = ["wasi:cli/run@0.2.0", "kubewasm:policy/validation@0.1.0"];
        assert_eq!(inspect(&exporting(&policy)), Ok(ModuleKind::EmbeddedComponent));
    }

    #[test]
    fn facts_are_bounded_and_name_each_thing_once() {
        let wasi = "wasi_snapshot_preview1";
        let imports = format!(r#"(import "{wasi}" "a" (func)) (import "{wasi}" "b" (func))"#);
        let found = facts(&wat(&format!(r#"(module {imports} (func (export "_start")))"#))).unwrap();
        assert_eq!((found.imports, found.exports), (vec![wasi.to_owned()], vec!["_start".to_owned()]));

        let component = r#"(component (import "wasi:cli/stdin@0.2.0" (instance)) (instance $i)
            (export "wasi:cli/run@0.2.0" (instance $i)))"#;
        let found = facts(&wat(component)).unwrap();
        assert_eq!(found.kind, ModuleKind::CliComponent);
        assert_eq!(found.imports, ["wasi:cli/stdin@0.2.0"]);
        assert_eq!(found.exports, ["wasi:cli/run@0.2.0"]);

        let many: String =
            (0..1000).map(|n| format!("(export \"{n}{}\" (func 0))", "x".repeat(500))).collect();
        let found = facts(&wat(&format!(r#"(module (func (export "_start")) {many})"#))).unwrap();
        assert_eq!(found.exports.len(), FACTS_LIMIT);
        assert!(found.exports.iter().all(|name| name.len() <= NAME_LIMIT + 3));
    }

    #[test]
    fn what_is_no_webassembly_is_named() {
        let found = |bytes: &[u8]| match inspect(bytes) {
            Err(InspectError::NotWasm { found }) => found,
            other => panic!("{other:?}"),
        };
        assert_eq!(inspect(b""), Err(InspectError::Empty));
        assert!(found(b"\x7fELF\x02\x01\x01").contains("Linux program"));
        assert_eq!(found(b"#!/bin/sh\necho"), "a script");
        assert_eq!(found(b"hello, world\n"), "text");
        assert!(found(b"\n (module)").contains("WebAssembly text"));
        assert_eq!(found(&[0x1f, 0x8b, 8, 0]), "a gzip archive");
        assert_eq!(found(&[0, 1, 2, 3, 4, 5, 6, 7]), "some other binary file");
    }

    #[test]
    fn core_modules_that_cannot_run_say_why() {
        let start = r#"(func (export "_start"))"#;
        for (text, expected) in [
            ("(module)".to_owned(), "has no `_start` function: it is a library (reactor)"),
            (
                "(module (global (export \"_start\") i32 (i32.const 0)))".to_owned(),
                "has no `_start` function",
            ),
            (
                format!(r#"(module (import "wasi_unstable" "fd_write" (func)) {start})"#),
                "`wasi_unstable::fd_write`, the WASI of 2019",
            ),
            (
                format!(r#"(module (import "env" "emscripten_x" (func)) {start})"#),
                "`env::emscripten_x`, which is not",
            ),
            (
                format!(r#"(module (import "env" "memory" (memory 1 1 shared)) {start})"#),
                "built with threads",
            ),
            (format!(r#"(module (import "wasi" "thread-spawn" (func)) {start})"#), "built with threads"),
            (
                format!(r#"(module (import "wasi:cli/stdout@0.2.0" "x" (func)) {start})"#),
                "the core of a component",
            ),
        ] {
            let error = inspect(&wat(&text)).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn entries_of_components_count_in_order() {
        use ModuleKind::{CliComponent, CliComponentP3, HttpComponent, HttpComponentP3};
        for (names, kind, others) in [
            (&["wasi:cli/run@0.2.0"][..], CliComponent, &[][..]),
            (&["wasi:http/incoming-handler@0.2.4"], HttpComponent, &[]),
            (&["wasi:cli/run@0.2.0", "wasi:http/incoming-handler@0.2.4"], HttpComponent, &[CliComponent]),
            (
                &["wasi:http/incoming-handler@0.2.4", "wasi:http/handler@0.3.0", "wasi:cli/run@0.3.0"],
                HttpComponentP3,
                &[HttpComponent, CliComponentP3],
            ),
        ] {
            let found = facts(&exporting(names)).unwrap();
            assert_eq!((found.kind, found.other_kinds.as_slice()), (kind, others), "{names:?}");
        }
    }

    #[test]
    fn drafts_are_refused_by_their_versions() {
        let importing = |name: &str| {
            wat(&format!(
                "(component (import \"{name}\" (instance)) (instance $i) (export \"wasi:cli/run@0.3.0\" (instance $i)))"
            ))
        };
        for (component, text) in [
            (
                exporting(&["wasi:cli/run@0.3.0-rc-2026-03-15", "wasi:cli/run@0.2.0"]),
                "the component exports `wasi:cli/run@0.3.0-rc-2026-03-15`, of a draft of WASI 0.3.0, and drafts are not run: \
                 rebuild it with a toolchain for WASI 0.3.0 as it was released",
            ),
            (
                exporting(&["wasi:cli/run@0.2.0-rc-2023-12-05"]),
                "the component exports `wasi:cli/run@0.2.0-rc-2023-12-05`, of a draft of WASI 0.2.0",
            ),
            (
                exporting(&["wasi:http/handler@0.3.0-rc-2026-03-15"]),
                "the component exports `wasi:http/handler@0.3.0-rc-2026-03-15`, of a draft of WASI 0.3.0",
            ),
            (
                importing("wasi:cli/stdout@0.3.0-rc-2025-09-16"),
                "the component imports `wasi:cli/stdout@0.3.0-rc-2025-09-16`, of a draft of WASI 0.3.0",
            ),
        ] {
            let error = inspect(&component).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
        for name in ["wasi:keyvalue/store@0.2.0-draft2", "wasi:cli/stdout@0.3.0", "my:own/thing@0.3.0-rc-1"] {
            assert_eq!(inspect(&importing(name)), Ok(ModuleKind::CliComponentP3), "{name}");
        }
        let others = ["wasi:cli/run@0.3.0", "wasi:keyvalue/watch@0.2.0-draft"];
        assert_eq!(inspect(&exporting(&others)), Ok(ModuleKind::CliComponentP3));
    }

    #[test]
    fn a_component_without_an_entry_is_told_what_it_exports() {
        let error = inspect(&exporting(&["a:b/c", "wasi:cli/run@0.1.0"])).unwrap_err().to_string();
        assert!(error.contains("it exports `a:b/c`, `wasi:cli/run@0.1.0`;"), "{error}");
        let error = inspect(&wat("(component)")).unwrap_err().to_string();
        assert!(error.contains("it exports nothing;"), "{error}");
        let many: Vec<String> = (0..20).map(|n| format!("a:b/c{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = inspect(&exporting(&many)).unwrap_err().to_string();
        assert!(error.contains("`a:b/c7` and 12 more;"), "{error}");
    }

    #[test]
    fn damage_never_panics() {
        let module =
            wat(r#"(module (import "wasi_snapshot_preview1" "x" (func)) (func (export "_start") nop nop))"#);
        let component = wat(
            "(component (core module (func nop)) (instance $i) (export \"wasi:cli/run@0.2.0\" (instance $i)))",
        );
        for whole in [&module, &component] {
            assert!(inspect(whole).is_ok());
            for end in 0..whole.len() {
                let _ = inspect(&whole[..end]);
            }
            for at in 8..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 0xff;
                let _ = inspect(&changed);
            }
        }
        assert!(matches!(inspect(&module[..9]), Err(InspectError::Malformed { .. })));
        assert!(matches!(inspect(b"\0asm\x02\0\0\0"), Err(InspectError::Malformed { .. })));
        assert!(matches!(inspect(b"\0asm"), Err(InspectError::Malformed { .. })));
    }
}
