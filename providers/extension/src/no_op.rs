//! A proxy-wasm module that does nothing: all that Envoy asks of one, and no callback.

/// ```wat
/// (module
///   (func (export "proxy_abi_version_0_2_1"))
///   (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 0))
///   (memory (export "memory") 1))
/// ```
pub(crate) const MODULE: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x09\x02\x60\0\0\x60\x01\x7f\x01\x7f\
    \x03\x03\x02\0\x01\
    \x05\x03\x01\0\x01\
    \x07\x3f\x03\x17proxy_abi_version_0_2_1\0\0\x18proxy_on_memory_allocate\0\x01\x06memory\x02\0\
    \x0a\x09\x02\x02\0\x0b\x04\0\x41\0\x0b";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_text() {
        let text = r#"(module
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 0))
            (memory (export "memory") 1))"#;
        let parsed = wat::parse_str(text).unwrap();
        wasmparser::validate(MODULE).unwrap();
        assert!(parsed.starts_with(MODULE), "{parsed:?}");
    }
}
