//! Compiling in a child process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;

use kubewasm_host::{
    Generation,
    compile::{ChildCompiler, CompileError},
    program::Program,
};

use support::program;

async fn compiled(wasm: &[u8]) -> (Result<(), CompileError>, u64) {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::write(&input, wasm).unwrap();
    let result = ChildCompiler::new(program(), Generation::Blocking).unwrap().compile(&input, &output).await;
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    (result, size(&output))
}

#[tokio::test]
async fn modules_are_compiled_in_a_child() {
    let (result, size) = compiled(&wat::parse_str(r#"(module (func (export "_start")))"#).unwrap()).await;
    result.unwrap();
    assert!(size > 0);
}

#[tokio::test]
async fn what_does_not_compile_says_why() {
    for (wasm, expected) in [
        (b"\x7fELF\x02".to_vec(), "it is a Linux program"),
        (Vec::new(), "the module is empty"),
        (wat::parse_str("(module)").unwrap(), "has no `_start` function"),
        (
            // Adds nothing to nothing.
            wat::parse_str(r#"(module (func (export "_start") i32.add drop))"#).unwrap(),
            "the module does not compile: ",
        ),
    ] {
        let (result, _) = compiled(&wasm).await;
        let error = result.unwrap_err();
        assert!(
            matches!(&error, CompileError::Refused(text) if text.contains(expected)),
            "{expected}: {error}"
        );
    }
}

#[tokio::test]
async fn a_compiler_that_cannot_be_started_is_no_fault_of_the_module() {
    let compiler = ChildCompiler::new(Program::new("/nonexistent/kubewasm"), Generation::Blocking).unwrap();
    let error = compiler.compile(Path::new("/in"), Path::new("/out")).await.unwrap_err();
    assert!(matches!(error, CompileError::Spawn(_)), "{error}");
}
