//! A module that a compiler has work with, made without any other compiler: many functions that nobody calls, and a program
//! that sleeps.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

/// Functions of the module: some seconds of a processor's time for the compiler.
const FUNCTIONS: usize = 4000;

/// Branches in each of them.
const BRANCHES: usize = 8;

/// What runs: `poll_oneoff` with one subscription to the monotonic clock, for a day.
const PROGRAM: &str = r#"
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 86400000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))
"#;

/// Makes the module.
///
/// # Errors
/// When the text is wrong.
pub(crate) fn module() -> Result<Vec<u8>> {
    wat::parse_str(text(FUNCTIONS)?).context("cannot encode the generated module")
}

fn text(functions: usize) -> Result<String> {
    let mut text = format!("(module {PROGRAM}");
    for number in 0..functions {
        function(&mut text, number)?;
    }
    text.push(')');
    Ok(text)
}

/// A loop around branches that load and store; the numbers differ from function to function, so that none is like another.
fn function(text: &mut String, number: usize) -> Result<()> {
    write!(
        text,
        "(func (param $at i32) (param $x i64) (result i64) (local $n i32) (local $y i64)
           (local.set $y (i64.const {number}))
           (loop $again"
    )?;
    for branch in 0..BRANCHES {
        let (shift, offset) = ((number + branch) % 63 + 1, branch * 8);
        write!(
            text,
            "(local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const {shift}))))
             (if (i64.gt_s (local.get $x) (i64.const {number}))
               (then (local.set $y (i64.add (local.get $y) (i64.load offset={offset} (local.get $at)))))
               (else (i64.store offset={offset} (local.get $at) (i64.mul (local.get $x) (local.get $y)))))"
        )?;
    }
    write!(
        text,
        "(local.set $n (i32.add (local.get $n) (i32.const 1)))
             (br_if $again (i32.lt_u (local.get $n) (i32.wrap_i64 (local.get $y)))))
           (i64.add (local.get $x) (local.get $y)))"
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_valid() {
        wasmparser::validate(&wat::parse_str(text(100).unwrap()).unwrap()).unwrap();
    }
}
