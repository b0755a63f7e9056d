//! Features of WebAssembly that guests do not have here, by their names.
//!
//! What is on is what wasmtime has on, for all generations of engines: garbage collection, exceptions, tail calls, memories of
//! 64 bits, vectors and the like. What is off is found by the validator, whose texts name the instruction or the rule that
//! was met; and memory that threads would share is valid, and refused when an instance is made. Both are told here by the name
//! of the feature, with what to do.

use wasmparser::{Parser, Payload, TypeRef};

/// A feature that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingFeature {
    /// What it is called.
    pub name: &'static str,
    /// How to do without it.
    pub advice: &'static str,
}

/// Memory that threads share.
const SHARED_MEMORY: MissingFeature = MissingFeature {
    name: "shared memory (threads)",
    advice: "build it without threads (wasm32-wasip1 instead of wasm32-wasip1-threads, no -pthread)",
};

/// A component whose toolchain is ahead.
const COMPONENT_ADVICE: &str =
    "build it with a toolchain for WASI 0.2 or 0.3.0, without features that are not final";

const fn of_components(name: &'static str) -> MissingFeature {
    MissingFeature { name, advice: COMPONENT_ADVICE }
}

/// Memories of 64 bits are on; that functions of components pass their values through one is not.
const COMPONENT_MEMORY64: &str = "memories of 64 bits in the component model";

/// What the validator says, and what that is about. The first that fits counts.
const OFF: [(&str, MissingFeature); 19] = [
    (
        "legacy_exceptions feature",
        MissingFeature {
            name: "exceptions in their legacy form",
            advice: "build it with the final ones (-mllvm -wasm-use-legacy-eh=false), or convert it with `wasm-opt --translate-to-exnref`",
        },
    ),
    (
        "stack switching",
        MissingFeature {
            name: "stack switching",
            advice: "build it without (coroutines and effects in other ways)",
        },
    ),
    (
        "custom page sizes",
        MissingFeature { name: "custom page sizes", advice: "build it with pages of 64 KiB" },
    ),
    (
        "wide arithmetic",
        MissingFeature { name: "wide arithmetic", advice: "build it without (-mno-wide-arithmetic)" },
    ),
    ("memory control", MissingFeature { name: "memory control", advice: "build it without" }),
    ("shared-everything-threads", MissingFeature { name: "shared-everything threads", ..SHARED_MEMORY }),
    ("custom descriptors", MissingFeature { name: "custom descriptors", advice: "build it without" }),
    (
        "component model async feature",
        MissingFeature {
            name: "async functions, streams or futures of WASI 0.3 in a program of another version",
            advice: "build it with a toolchain for WASI 0.3.0, so that it exports an entry of that version",
        },
    ),
    ("component model error-context feature", of_components("error contexts of the component model")),
    (
        "component model more async builtins feature",
        of_components("more async built-ins of the component model"),
    ),
    (
        "component model async stackful feature",
        of_components("async functions of the component model without a callback"),
    ),
    ("component model threading feature", of_components("threads of the component model")),
    (
        "component model fixed-length lists feature",
        of_components("lists of a fixed length in the component model"),
    ),
    ("component model map feature", of_components("maps in the component model")),
    ("component model `value`s", of_components("values as imports and exports of components")),
    ("`cm-gc` feature", of_components("garbage-collected values in the component model")),
    ("`cm-implements` feature", of_components("imports of components with `implements`")),
    ("component model 64-bit feature", of_components(COMPONENT_MEMORY64)),
    ("`cm64` feature", of_components(COMPONENT_MEMORY64)),
];

/// The feature that a module did not compile for, by what wasmtime says.
pub(crate) fn missing(said: &str) -> Option<MissingFeature> {
    OFF.iter().find(|(text, _)| said.contains(text)).map(|(_, feature)| *feature)
}

/// Finds memory that threads would share, in a module or in one that is nested in a component. Whether the code is valid is
/// not looked at.
pub(crate) fn shared_memory(bytes: &[u8]) -> Option<MissingFeature> {
    let is_shared = |payload: Payload<'_>| match payload {
        Payload::MemorySection(memories) => {
            memories.into_iter().map_while(Result::ok).any(|memory| memory.shared)
        }
        Payload::ImportSection(imports) => imports
            .into_imports()
            .map_while(Result::ok)
            .any(|import| matches!(import.ty, TypeRef::Memory(memory) if memory.shared)),
        _ => false,
    };
    Parser::new(0).parse_all(bytes).map_while(Result::ok).any(is_shared).then_some(SHARED_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine,
        kind::{Generation, ModuleKind},
    };

    /// Each is told by its name, whatever the engine.
    #[test]
    fn what_is_off_is_named() {
        let component = |text: &str| {
            format!(
                "(component (core module $m (func (export \"f\") (result i32) (i32.const 0))) (core instance $i (instantiate $m)) {text})"
            )
        };
        for (text, name) in [
            ("(module (tag $e) (func try throw $e catch $e end))".to_owned(), "exceptions in their legacy form"),
            ("(module (type $f (func)) (type (cont $f)))".to_owned(), "stack switching"),
            ("(module (memory 1 (pagesize 1)))".to_owned(), "custom page sizes"),
            (
                "(module (func (param i64 i64 i64 i64) (result i64 i64)
                   (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3))))"
                    .to_owned(),
                "wide arithmetic",
            ),
            (
                "(module (memory 1) (func (memory.discard (i32.const 0) (i32.const 0))))".to_owned(),
                "memory control",
            ),
            ("(module (type (shared (struct))))".to_owned(), "shared-everything threads"),
            (
                "(module (rec (type (descriptor 1) (struct)) (type (describes 0) (struct))))".to_owned(),
                "custom descriptors",
            ),
            (component("(core func (canon error-context.drop))"), "error contexts of the component model"),
            (component("(core func (canon thread.index))"), "threads of the component model"),
            (component("(type (map string u32))"), "maps in the component model"),
            (component("(type (list u32 4))"), "lists of a fixed length in the component model"),
            (component("(import \"v\" (value string))"), "values as imports and exports of components"),
            (
                component("(func async (result u32) (canon lift (core func $i \"f\") async))"),
                "async functions of the component model without a callback",
            ),
            (
                component(
                    "(core module $l (memory (export \"m\") i64 1)) (core instance $l (instantiate $l))
                     (func (result string) (canon lift (core func $i \"f\") (memory (core memory $l \"m\"))))",
                ),
                COMPONENT_MEMORY64,
            ),
            (
                component(
                    "(type $s (stream u8)) (core module $l (memory (export \"m\") 1)) (core instance $l (instantiate $l))
                     (core func (canon stream.read $s (memory (core memory $l \"m\"))))",
                ),
                "more async built-ins of the component model",
            ),
            (
                component("(func (result u32) (canon lift (core func $i \"f\") gc))"),
                "garbage-collected values in the component model",
            ),
            (
                component("(import \"a\" (implements \"wasi:x/y@0.1.0\") (instance))"),
                "imports of components with `implements`",
            ),
        ] {
            let bytes = wat::parse_str(&text).unwrap();
            let kind = match text.starts_with("(module") {
                true => ModuleKind::CoreCommand,
                false => ModuleKind::CliComponentP3,
            };
            for generation in Generation::ALL {
                if kind.generation() == Generation::Concurrent && generation != kind.generation() {
                    continue;
                }
                let engine = engine::new(generation).unwrap();
                let error = format!("{:#}", engine::precompile(&engine, kind, &bytes).unwrap_err());
                assert_eq!(missing(&error).map(|feature| feature.name), Some(name), "{text}: {error}");
            }
        }
        // An engine without support for concurrency has nothing of WASI 0.3.
        let waits = wat::parse_str("(component (type (func async)))").unwrap();
        let engine = engine::new(Generation::Blocking).unwrap();
        let error =
            format!("{:#}", engine::precompile(&engine, ModuleKind::CliComponent, &waits).unwrap_err());
        assert!(missing(&error).is_some_and(|feature| feature.name.contains("WASI 0.3")), "{error}");
        assert_eq!(missing("type mismatch: expected i32"), None);
    }

    #[test]
    fn shared_memory_is_found_wherever_it_is() {
        for (text, expected) in [
            ("(module (memory 1 1 shared))", true),
            ("(module (import \"env\" \"memory\" (memory 1 1 shared)))", true),
            ("(component (core module (memory 1 1 shared)))", true),
            ("(module (memory 1 1))", false),
            ("(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))", false),
        ] {
            let found = shared_memory(&wat::parse_str(text).unwrap());
            assert_eq!(found, expected.then_some(SHARED_MEMORY), "{text}");
        }
    }
}
